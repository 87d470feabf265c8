"""Every code that `verify` knows, on a copy of a sample that is damaged for it.

Damage is done by real torch or by hand; what must be found is written by hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optimizer_side
import pytest
import torch
import torch_side
from conftest import CLI, CORRUPT, HEALTHY, MAIN, SAMPLES, Run, checkpoint_of, refused, tree_hash
from forked import ForkServer
from framework_roots import CASES
from hypothesis import given, settings
from hypothesis import strategies as st
from test_moved_modules import as_python_313_writes
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from ckptmigrate.checkpoint import material, shapes
from ckptmigrate.checks import tiling, verification
from ckptmigrate.checks.code import Severity
from ckptmigrate.checks.codes import CODES
from ckptmigrate.errors import DamagedError
from ckptmigrate.storage import directories

# For --load, which imports torch.
WITH_TORCH = ForkServer("cli-torch", [*CLI.preload, "torch.distributed.checkpoint"])
IDLE = "0.17.1-idle-w1"
WEIGHT = "embedding.word_embeddings.weight"
RNG = "rng_state/shard_0.0_1.1"


@pytest.fixture
def load() -> Run:
    """The command line `verify --load`, in a fork of a process that has imported torch."""
    return lambda *arguments: WITH_TORCH.run(["verify", *map(str, arguments), "--load"], main=MAIN)


# -- ways to damage a checkpoint; each gets the root of a copy


def metadata_edit(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        file = checkpoint_of(root) / ".metadata"
        read = torch_side.unpickle(file.read_bytes())
        change(read)
        with torch_side.megatron_names():
            file.write_bytes(pickle.dumps(read, protocol=4))

    return damage


def stored(read: Any, key: str) -> list[tuple[MetadataIndex, _StorageInfo]]:
    return [(index, where) for index, where in read.storage_data.items() if index.fqn == key]


def blob_of(root: Path, key: str, rank: int = 0) -> tuple[Path, int, int]:
    read = torch_side.unpickle((checkpoint_of(root) / ".metadata").read_bytes())
    [(_, where), *_] = stored(read, key)
    return checkpoint_of(root) / where.relative_path, where.offset, where.length


def overwrite(root: Path, key: str, content: bytes) -> None:
    file, offset, length = blob_of(root, key)
    assert len(content) <= length
    with open(file, "r+b") as payload:
        payload.seek(offset)
        payload.write(content)


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (checkpoint_of(root) / name).write_bytes(data)

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda root: (checkpoint_of(root) / name).unlink()


def tracker(text: str) -> Callable[[Path], None]:
    return lambda root: write_tracker(root, text)


def write_tracker(root: Path, text: str) -> None:
    (root / "latest_checkpointed_iteration.txt").write_text(text)


def truncate(root: Path) -> None:
    file = checkpoint_of(root) / "__0_0.distcp"
    os.truncate(file, file.stat().st_size - 1000)


def overlap(read: Any) -> None:
    [(_, where)] = stored(read, WEIGHT)
    where.offset += 1


def outside_name(read: Any) -> None:
    [(_, where)] = stored(read, WEIGHT)
    where.relative_path = "../elsewhere.distcp"


def forget_in_storage(read: Any) -> None:
    for index, _ in stored(read, WEIGHT):
        del read.storage_data[index]


def forget_in_plans(read: Any) -> None:
    plan = read.all_local_plans[0]
    plan.items[:] = [item for item in plan.items if item.index.fqn != RNG]


def drop_chunk(read: Any) -> None:
    entry = read.state_dict_metadata["decoder.layers.self_attention.linear_qkv.weight"]
    assert len(entry.chunks) == 2
    entry.chunks[1] = entry.chunks[0]


def move_chunk(read: Any) -> None:
    [chunk] = read.state_dict_metadata[WEIGHT].chunks
    chunk.offsets = torch.Size((1, 0))


def many_dimensions(read: Any) -> None:
    """24 unit boxes that cut 24 dimensions: as many volumes, and 2**24 corners each."""
    n = 24
    entry = read.state_dict_metadata[WEIGHT]
    entry.size = torch.Size((n,) * n)
    entry.chunks = []
    for axis in range(n):  # a staircase: each box leaves the next axis to the others
        offsets = (0,) * axis + (1,) + (0,) * (n - axis - 1)
        sizes = (1,) * axis + (n - 1,) + (n,) * (n - axis - 1)
        entry.chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
    entry.chunks.append(ChunkStorageMetadata(torch.Size((0,) * n), torch.Size((1,) * n)))


def foreign_plan(read: Any) -> None:
    del read.all_local_plans[1:]


def orphan(root: Path) -> None:
    (checkpoint_of(root) / "__0_7.distcp").write_bytes(bytes(123))


def loose_bytes(root: Path) -> None:
    with open(checkpoint_of(root) / "__0_0.distcp", "ab") as payload:
        payload.write(bytes(77))


class Runs:
    """An object whose unpickling would call os.system."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def hostile_metadata(read: Any) -> None:
    read.storage_meta = Runs()


def hostile_blob(root: Path) -> None:
    """Another blob behind the same key, appended to the payload."""
    import io

    buffer = io.BytesIO()
    torch.save([Runs()], buffer)
    file, _, _ = blob_of(root, RNG)
    start = file.stat().st_size
    with open(file, "ab") as payload:
        payload.write(buffer.getvalue())

    def point(read: Any) -> None:
        [(_, where)] = stored(read, RNG)
        where.offset, where.length = start, len(buffer.getvalue())

    metadata_edit(point)(root)


def large_blob(root: Path) -> None:
    file = checkpoint_of(root) / "__0_8.distcp"
    file.touch()
    os.truncate(file, 65 * 1024 * 1024)  # sparse

    def point(read: Any) -> None:
        [(_, where)] = stored(read, RNG)
        where.relative_path, where.offset, where.length = file.name, 0, 65 * 1024 * 1024

    metadata_edit(point)(root)


def large_chunk(root: Path) -> None:
    """A chunk that is more than is read at once, as one of a large embedding may be."""
    file = checkpoint_of(root) / "__0_8.distcp"
    file.touch()
    os.truncate(file, 5 * 1024**3)  # sparse

    def point(read: Any) -> None:
        [(_, where)] = stored(read, WEIGHT)
        where.relative_path, where.offset, where.length = file.name, 0, 5 * 1024**3

    metadata_edit(point)(root)


def newer_iteration(root: Path) -> None:
    shutil.copytree(checkpoint_of(root), root / "iter_0000009")


def linked_checkpoint(root: Path) -> None:
    shutil.copytree(checkpoint_of(root), root.parent / "elsewhere")
    (checkpoint_of(root) / "modelopt_state").symlink_to(root.parent / "elsewhere")


def other_train_state(root: Path) -> None:
    torch.save({"step": torch.tensor(9, dtype=torch.int32)}, root / "latest_train_state.pt")


def framework(name: str, remove: str = "", broken: str = "") -> Callable[[Path], None]:
    """Put a root of a framework in the place of the sample, without a file or with a broken one."""

    def damage(root: Path) -> None:
        shutil.rmtree(root)
        CASES[name].make(root)
        if remove:
            (root / remove).unlink()
        if broken:
            (root / broken).write_text("{")

    return damage


def half_written(root: Path) -> None:
    newer_iteration(root)
    (root / "iter_0000009" / "metadata.json").unlink()
    write_tracker(root, "9")


def non_persistent(root: Path) -> None:
    shutil.copytree(checkpoint_of(root), root / "non_persistent" / "iter_0000005")


def integrity(root: Path, **other: str) -> None:
    folder = checkpoint_of(root)
    read = {f.name: f.read_bytes() for f in folder.iterdir() if f.name != "integrity.json"}
    files = {name: hashlib.sha256(data).hexdigest() for name, data in read.items()}
    content = {"algorithm": "sha256", "files": {**files, **other}}
    (folder / "integrity.json").write_text(json.dumps(content))


def stale_small(root: Path) -> None:
    integrity(root, **{"common.pt": "0" * 64})


def stale_payload(root: Path) -> None:
    integrity(root, **{"__0_0.distcp": "0" * 64})


def integrity_of_missing(root: Path) -> None:
    integrity(root, **{"run_config.yaml": "0" * 64})


def entry_without_shards(root: Path) -> None:
    state = {"mode": torch_side.RerunMode.VALIDATE_RESULTS}
    state |= {"state": torch_side.RerunState.NOT_RUNNING_YET, "current_iteration": 5}
    torch_side.edit_common(root, lambda common: common.update(rerun_state_machine=state))


def odd_entry(root: Path) -> None:
    entry = {"mode": torch_side.RerunMode.VALIDATE_RESULTS, "current_iteration": 5}
    torch_side.edit_common(root, lambda common: common.update(rerun_state_machine=entry))


def without_entry(root: Path) -> None:
    torch_side.edit_common(root, lambda common: common.pop("rerun_state_machine"))


def other_world(root: Path) -> None:
    torch_side.edit_common(root, lambda common: setattr(common["args"], "world_size", 7))


def common_also_in_entry(root: Path) -> None:
    """A common.pt beside the entry that 0.19 writes."""
    common = torch_side.read(checkpoint_of(root)).common
    with torch_side.megatron_names():
        torch.save(common, checkpoint_of(root) / "common.pt")


def sidecar(root: Path) -> None:
    from ckptmigrate import migrate

    migrate(root, to="common-state", in_place=True)
    with open(checkpoint_of(root) / "metadata.json", "ab") as file:
        file.write(b"\n")


def zarr_beside(root: Path) -> None:
    """An older iteration of another format."""
    (root / "iter_0000003").mkdir()
    (root / "iter_0000003" / "metadata.json").write_text('{"sharded_backend": "zarr"}')


def stage(root: Path) -> None:
    (checkpoint_of(root) / ".ckptmigrate" / "stage").mkdir(parents=True)


def swap_dtype(read: Any) -> None:
    read.state_dict_metadata[WEIGHT].properties.dtype = torch.bfloat16


# code -> (sample, damage, options, the number of items, a word of the finding)
def rerunning_in_place(root: Path) -> None:
    state = torch_side.RerunState.RERUNNING_IN_PLACE
    torch_side.edit_common(root, lambda common: common["rerun_state_machine"].update(state=state))


def without_shapes(root: Path) -> None:
    torch_side.edit_metadata(root, lambda metadata: delattr(metadata, "mcore_data"))


def become(name: str) -> Callable[[Path], None]:
    """Replace the copy by a checkpoint with a distributed optimizer."""

    def change(root: Path) -> None:
        shutil.rmtree(root)
        shutil.copytree(optimizer_side.SAMPLES / name, root)

    return change


DAMAGE: dict[str, tuple[str, Callable[[Path], None], tuple[str, ...], int, str]] = {
    "not-verified": (IDLE, zarr_beside, ("--all",), 0, "is a zarr checkpoint"),
    "marker-missing": (IDLE, remove("metadata.json"), (), 0, "metadata.json"),
    "marker-unreadable": (IDLE, write("metadata.json", "{"), (), 0, "not JSON"),
    "pointer-file": (
        IDLE,
        write("common.pt", "version https://git-lfs.github.com/spec/v1\n"),
        (),
        1,
        "is a Git LFS pointer",
    ),
    "metadata-missing": (IDLE, remove(".metadata"), (), 0, ".metadata"),
    "metadata-unreadable": (IDLE, write(".metadata", b"\x80\x04."), (), 0, "cannot be unpickled"),
    "entry-malformed": (
        IDLE,
        metadata_edit(lambda m: m.state_dict_metadata.update({WEIGHT: "text"})),
        (),
        1,
        "neither a tensor nor a sharded object",
    ),
    "table-mismatch": (IDLE, metadata_edit(forget_in_plans), (), 1, "not in all_local_plans"),
    "common-missing": (IDLE, remove("common.pt"), (), 0, "both common.pt and"),
    "common-unreadable": (IDLE, write("common.pt", "no zip"), (), 0, "not a torch zip"),
    "common-twice": ("0.19.0-idle-w1", common_also_in_entry, (), 0, "common_state/shard_0_1"),
    "payload-missing": (IDLE, remove("__0_0.distcp"), (), 57, "__0_0.distcp"),
    "payload-name": (IDLE, metadata_edit(outside_name), (), 1, "../elsewhere.distcp"),
    "byte-range-outside": (IDLE, truncate, (), 1, "beyond its end"),
    "byte-ranges-overlap": (IDLE, metadata_edit(overlap), (), 1, "__0_0.distcp"),
    "chunk-outside": (IDLE, metadata_edit(move_chunk), (), 1, "outside its shape"),
    "chunks-do-not-tile": (IDLE, metadata_edit(drop_chunk), (), 1, "not tiled"),
    "chunks-not-compared": (IDLE, metadata_edit(many_dimensions), (), 1, "too many dimensions"),
    "plan-rank-unknown": ("0.17.1-idle-dopt", metadata_edit(foreign_plan), (), 1, "1 save plans"),
    "sizes-contradict": (IDLE, other_world, (), 0, "world_size (7)"),
    "blob-unreadable": (
        IDLE,
        lambda root: overwrite(root, RNG, b"XXXX"),
        (),
        1,
        "not readable as a torch zip file",
    ),
    "blob-not-read": (IDLE, large_blob, (), 1, "more than 67108864 bytes"),
    "unknown-symbol": (IDLE, hostile_blob, (), 1, RNG),
    "moved-module": ("0.12.3-idle-w1", as_python_313_writes, (), 1, "pathlib._local.PosixPath"),
    "rerun-shards-missing": (CORRUPT, lambda root: None, (), 2, "records a fault"),
    "rerun-not-resumable": ("0.17.1-fault-w1", rerunning_in_place, (), 0, "no release can resume"),
    "optimizer-shapes-missing": ("0.13.1-idle-dopt", without_shapes, (), 0, "no mcore_data"),
    "rerun-contradictory": (IDLE, odd_entry, (), 0, "which no release writes"),
    "rerun-shards-unclaimed": (
        "0.18.2-idle-tp2",
        without_entry,
        (),
        2,
        "without rerun_state_machine",
    ),
    "rerun-sentinel-missing": (
        IDLE,
        entry_without_shards,
        (),
        0,
        "all its rerun shards are missing",
    ),
    "orphan-payload": (IDLE, orphan, (), 1, "123 bytes"),
    "orphan-bytes": (IDLE, loose_bytes, (), 1, "77 bytes"),
    "migration-unfinished": (IDLE, stage, (), 0, "staging directory"),
    "sidecar-stale": (IDLE, sidecar, (), 0, "metadata.json changed after"),
    "tracker-missing": (
        IDLE,
        lambda root: (root / "latest_checkpointed_iteration.txt").unlink(),
        (),
        0,
        "latest_checkpointed_iteration.txt",
    ),
    "tracker-unreadable": (IDLE, tracker("five"), (), 0, "neither an iteration"),
    "tracker-dangling": (IDLE, tracker("12"), (), 0, "iter_0000012"),
    "tracker-half-written": (IDLE, half_written, (), 0, "iter_0000009"),
    "nested-linked": (IDLE, linked_checkpoint, (), 0, "is a link to a checkpoint"),
    "tracker-pair": (IDLE, other_train_state, (), 0, "latest_train_state.pt names iteration 9"),
    "tracker-text-missing": (
        IDLE,
        framework("bridge", "latest_checkpointed_iteration.txt"),
        (),
        0,
        "latest_train_state.pt names iter_0000005",
    ),
    "run-config-missing": (
        IDLE,
        framework("bridge", "iter_0000005/run_config.yaml"),
        (),
        0,
        "run_config.yaml is missing",
    ),
    "sizes-unreadable": (
        IDLE,
        framework("bridge", broken="iter_0000005/run_config.yaml"),
        (),
        0,
        "run_config.yaml is not YAML",
    ),
    "save-unfinished": (IDLE, framework("nemo"), (), 0, "-unfinished exists"),
    "tracker-behind": (IDLE, newer_iteration, (), 0, "iter_0000009"),
    "non-persistent-newer": (IDLE, non_persistent, (), 0, "iteration 5"),
    "integrity-unreadable": (
        IDLE,
        write("integrity.json", "[]"),
        (),
        0,
        "does not contain SHA-256 hashes",
    ),
    "optimizer-suspect": (IDLE, become("0.15.3-optim-dp2-fr"), (), 0, "gradient buckets"),
    "optimizer-damaged": (
        IDLE,
        become("0.19.0-optim-dp2-fr-damaged"),
        ("--optimizer",),
        13,
        "are not the weights",
    ),
    "optimizer-not-compared": (IDLE, lambda root: None, ("--optimizer",), 0, "not distributed"),
    "optimizer-sampled": (
        IDLE,
        become("0.13.1-optim-dp2"),
        ("--optimizer", "--sample", "2"),
        0,
        "2 of 28 parts",
    ),
    "integrity-absent": (IDLE, lambda root: None, ("--hash",), 0, "integrity.json"),
    "integrity-file-missing": (IDLE, integrity_of_missing, (), 1, "missing"),
    "integrity-mismatch": (IDLE, stale_payload, ("--hash",), 1, "another SHA-256 hash"),
    "tensor-unreadable": (
        IDLE,
        lambda root: overwrite(root, WEIGHT, b"XXXX"),
        ("--load",),
        1,
        "not load",
    ),
    "tensor-mismatch": (
        IDLE,
        metadata_edit(swap_dtype),
        ("--load",),
        1,
        "not as .metadata records",
    ),
}
# What the same damage is, too.
ALONGSIDE = {
    "marker-missing": {"tracker-half-written"},
    "metadata-missing": {"tracker-half-written"},
    "entry-malformed": {"table-mismatch"},
    "payload-name": {"orphan-bytes"},
    "byte-ranges-overlap": {"orphan-bytes"},
    "chunk-outside": {"table-mismatch"},
    "chunks-do-not-tile": {"table-mismatch"},
    "chunks-not-compared": {"table-mismatch"},
    "plan-rank-unknown": {"table-mismatch", "sizes-contradict"},
    "unknown-symbol": {"orphan-bytes"},
    "blob-not-read": {"orphan-bytes"},
    "tracker-half-written": {"marker-missing"},
    "sidecar-stale": {"orphan-bytes"},
}
ERRORS = [
    "not-verified",
    "rerun-not-resumable",
    "optimizer-shapes-missing",
    "optimizer-damaged",
    "marker-missing",
    "marker-unreadable",
    "pointer-file",
    "metadata-missing",
    "metadata-unreadable",
    "entry-malformed",
    "table-mismatch",
    "common-missing",
    "common-unreadable",
    "payload-missing",
    "payload-name",
    "byte-range-outside",
    "byte-ranges-overlap",
    "chunk-outside",
    "chunks-do-not-tile",
    "plan-rank-unknown",
    "blob-unreadable",
    "unknown-symbol",
    "rerun-shards-missing",
    "rerun-contradictory",
    "migration-unfinished",
    "tracker-missing",
    "tracker-unreadable",
    "tracker-dangling",
    "tracker-half-written",
    "tracker-pair",
    "save-unfinished",
    "run-config-missing",
    "nested-linked",
    "integrity-unreadable",
    "integrity-file-missing",
    "integrity-mismatch",
    "tensor-unreadable",
    "tensor-mismatch",
]
NOTES = [
    "blob-not-read",
    "orphan-payload",
    "orphan-bytes",
    "integrity-absent",
    "optimizer-sampled",
]


def severity_of(code: str) -> str:
    return "error" if code in ERRORS else "note" if code in NOTES else "warning"


def test_every_code_is_tested() -> None:
    assert set(DAMAGE) == set(CODES)


@pytest.mark.parametrize("code", list(DAMAGE))
def test_each_code(code: str, copy: Callable[[str], Path], run: Run, load: Run) -> None:
    sample, damage, options, items, word = DAMAGE[code]
    root = copy(sample)
    damage(root)
    before = tree_hash(root)
    if options == ("--load",):
        result = load(root, "--json")
    else:
        result = run("verify", root, "--json", *options)
    assert result.stderr == ""
    told = json.loads(result.stdout)
    [found] = [finding for finding in told["findings"] if finding["code"] == code]
    assert found["severity"] == severity_of(code)
    assert len(found["items"]) == items, found
    assert word in found["what"]
    assert found["meaning"].endswith(".")
    assert found["remedy"]
    others = {finding["code"] for finding in told["findings"]} - {code}
    assert others <= ALONGSIDE.get(code, set()), told["findings"]
    errors = [f for f in told["findings"] if f["code"] in ERRORS]
    assert result.returncode == bool(errors)
    assert told["clean"] is not bool(errors)
    assert told["errors"] == len(errors)
    assert tree_hash(root) == before
    assert not (root.parent / "executed").exists()


def test_every_healthy_sample_is_clean(run: Run) -> None:
    for sample in HEALTHY:
        result = run("verify", SAMPLES / sample, "--json")
        printed = json.loads(result.stdout)
        assert (result.returncode, printed["clean"], printed["findings"]) == (0, True, []), sample


@pytest.mark.parametrize("sample", ["0.9.0-idle-w1", "0.13.1-idle-dopt", "0.19.0-fault-tp2pp2"])
def test_load_reads_every_tensor(sample: str, load: Run) -> None:
    result = load(SAMPLES / sample)
    assert result.returncode == 0, result.stdout
    assert ": no problems found (" in result.stdout.splitlines()[0]
    assert len(result.stdout.splitlines()) == 1


def test_hash_passes_where_integrity_is_true(copy: Callable[[str], Path], run: Run) -> None:
    root = copy(IDLE)
    integrity(root)
    assert run("verify", root, "--hash").returncode == 0
    stale_payload(root)
    assert run("verify", root).returncode == 0  # payload only when asked
    assert run("verify", root, "--hash").returncode == 1
    stale_small(root)
    result = run("verify", root)  # small files always
    assert result.returncode == 1
    assert "    common.pt\n" in result.stdout


def test_the_corrupt_sample_in_words(run: Run) -> None:
    result = run("verify", SAMPLES / CORRUPT)
    path = checkpoint_of(SAMPLES / CORRUPT)
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        f"{path}: 1 error (58 keys, 2 data files, 370.8 kB)",
        "  error rerun-shards-missing: the common state records a fault, but 2 rerun shards are "
        "missing",
        "    rerun_state_machine_state/shard_0_2",
        "    rerun_state_machine_state/shard_1_2",
        f"    fix: run `ckptmigrate repair {SAMPLES / CORRUPT}`",
    ]


def test_a_symbol_in_metadata_is_named_and_can_be_vouched_for(
    copy: Callable[[str], Path], run: Run
) -> None:
    root = copy(IDLE)
    metadata_edit(hostile_metadata)(root)
    result = run("verify", root)
    assert result.returncode == 1
    assert ".metadata names 1 global that Megatron does not write" in result.stdout
    assert "    posix.system" in result.stdout
    assert run("verify", root, "--known", "posix.system").returncode == 0
    assert run("verify", root, "--known", "os.system").returncode == 1
    assert not (root.parent / "executed").exists()


def test_it_does_not_stop_at_the_first_damage(copy: Callable[[str], Path], run: Run) -> None:
    root = copy(IDLE)
    metadata_edit(forget_in_plans)(root)
    truncate(root)
    write("common.pt", "no zip")(root)
    write("integrity.json", "[]")(root)
    tracker("12")(root)
    told = json.loads(run("verify", root, "--json").stdout)
    assert {finding["code"] for finding in told["findings"]} == {
        "tracker-dangling",
        "common-unreadable",
        "byte-range-outside",
        "table-mismatch",
        "integrity-unreadable",
    }


def test_long_lists_are_cut(copy: Callable[[str], Path], run: Run) -> None:
    root = copy(IDLE)
    remove("__0_0.distcp")(root)
    short = run("verify", root).stdout.splitlines()
    assert "    ... and 49 more (--full shows all)" in short
    full = run("verify", root, "--full").stdout.splitlines()
    assert len(full) == len(short) + 48


def test_all_iterations_and_one(copy: Callable[[str], Path], run: Run) -> None:
    root = copy(IDLE)
    newer_iteration(root)
    (root / "iter_0000009" / ".metadata").unlink()
    first, *rest = run("verify", root, "--all").stdout.splitlines()
    assert first.startswith(f"{root}: 1 error (2 checkpoints, 57 keys")
    [missing] = [line for line in rest if "error metadata-missing" in line]
    assert missing.startswith(
        f"  error metadata-missing: {root / 'iter_0000009'}: .metadata is missing (the save did"
    )
    assert missing.endswith("omitted dot files)")
    assert run("verify", root, "--iteration", 5).returncode == 0
    assert run("verify", root, "--iteration", 9).returncode == 1


def test_one_that_cannot_be_verified_stops_no_other(copy: Callable[[str], Path], run: Run) -> None:
    root = copy(CORRUPT)
    zarr_beside(root)
    (root / "iter_0000002").mkdir()
    (root / "iter_0000002" / "mp_rank_00").mkdir()
    result = run("verify", root, "--all")
    assert (result.returncode, result.stderr) == (1, "")
    first, *rest = result.stdout.splitlines()
    assert first.startswith(f"{root}: 3 errors (4 checkpoints, 116 keys")
    for name, kind in (("iter_0000003", "is a zarr"), ("iter_0000002", "is a legacy torch")):
        [line] = [line for line in rest if line.startswith(f"  error not-verified: {root / name}")]
        assert f": {kind} checkpoint" in line
        refused(run("verify", root / name, "--all"), f"{kind} checkpoint")
        assert f"    fix: run `ckptmigrate verify {root / name}`" in rest
    assert any(line.startswith("  error rerun-shards-missing: ") for line in rest)
    assert run("verify", root, "--iteration", 3).stdout == ""


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, run: Run) -> None:
    refused(run("verify", tmp_path), "neither a checkpoint nor a root")
    refused(run("verify", tmp_path / "nothing"), "does not exist")
    (tmp_path / "zarr").mkdir()
    (tmp_path / "zarr" / "metadata.json").write_text('{"sharded_backend": "zarr"}')
    refused(run("verify", tmp_path / "zarr"), "zarr")


def test_a_chunk_too_large_to_read_is_not_an_error(copy: Callable[[str], Path], load: Run) -> None:
    root = copy(IDLE)
    large_chunk(root)
    result = load(root, "--json")
    found = {finding["code"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert found.keys() == {"blob-not-read", "orphan-bytes"}
    assert found["blob-not-read"]["items"] == [WEIGHT]
    assert result.returncode == 0


def test_only_load_needs_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from ckptmigrate.__main__ import main; main()"
    root = str(SAMPLES / IDLE)
    refused(CLI.run(["verify", root, "--load"], code=code), "pip install torch")
    assert CLI.run(["verify", root], code=code).returncode == 0


# -- tiling, against a count of every element


def counted(size: tuple[int, ...], boxes: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> bool:
    """Return whether boxes tile a shape, by marking every element."""
    marks = torch.zeros(size, dtype=torch.int64)
    for offsets, sizes in boxes:
        marks[tuple(slice(a, a + n) for a, n in zip(offsets, sizes, strict=True))] += 1
    return bool((marks == 1).all())


def cut(
    offsets: tuple[int, ...], sizes: tuple[int, ...], chance: random.Random
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    axes = [axis for axis, n in enumerate(sizes) if n > 1]
    if not axes or chance.random() < 0.2:
        return [(offsets, sizes)]
    axis = chance.choice(axes)
    at = chance.randrange(1, sizes[axis])
    low = (*sizes[:axis], at, *sizes[axis + 1 :])
    high = (*sizes[:axis], sizes[axis] - at, *sizes[axis + 1 :])
    moved = (*offsets[:axis], offsets[axis] + at, *offsets[axis + 1 :])
    return cut(offsets, low, chance) + cut(moved, high, chance)


@settings(max_examples=300, deadline=None)
@given(chance=st.randoms(use_true_random=False))
def test_tiling_agrees_with_counting(chance: random.Random) -> None:
    size = tuple(chance.randrange(1, 6) for _ in range(chance.randrange(0, 5)))
    boxes = cut((0,) * len(size), size, chance)
    shape = shapes.TensorDescription(size, tuple(boxes), None)
    assert counted(size, boxes)
    assert tiling._not_tiled(shape) is None
    # Move one box, so that volumes stay as they are.
    number = chance.randrange(len(boxes))
    _, sizes = boxes[number]
    moved = tuple(chance.randrange(n - s + 1) for n, s in zip(size, sizes, strict=True))
    boxes[number] = (moved, sizes)
    shape = shapes.TensorDescription(size, tuple(boxes), None)
    assert (tiling._not_tiled(shape) is None) == counted(size, boxes)


@pytest.mark.parametrize(
    ("size", "boxes", "tiled"),
    [
        ((), [((), ())], True),
        ((), [((), ()), ((), ())], False),
        ((), [], False),
        ((0, 4), [((0, 0), (0, 4))], True),
        ((0, 4), [], True),
        ((4,), [((0,), (4,)), ((2,), (0,))], True),  # an empty chunk is no matter
        ((2**40, 2**40), [((0, 0), (2**40, 2**40))], True),
        ((2**40, 2), [((0, 0), (2**40, 1)), ((0, 1), (2**40, 1))], True),
        ((2**40, 2), [((0, 0), (2**40, 1)), ((0, 0), (2**40, 1))], False),
        # A pinwheel: no straight cut goes through it.
        (
            (3, 3),
            [((0, 0), (2, 1)), ((0, 1), (1, 2)), ((1, 2), (2, 1)), ((2, 0), (1, 2)),
             ((1, 1), (1, 1))],
            True,
        ),
    ],
)  # fmt: skip
def test_tiling_by_hand(
    size: tuple[int, ...], boxes: list[tuple[tuple[int, ...], tuple[int, ...]]], tiled: bool
) -> None:
    assert (tiling._not_tiled(shapes.TensorDescription(size, tuple(boxes), None)) is None) == tiled


def test_the_samples_hold_both_kinds_of_entries() -> None:
    """What the damage above relies on."""
    read = torch_side.unpickle((checkpoint_of(SAMPLES / IDLE) / ".metadata").read_bytes())
    assert isinstance(read.state_dict_metadata[WEIGHT], TensorStorageMetadata)
    assert isinstance(read.state_dict_metadata[RNG], BytesStorageMetadata)


def test_a_byte_offset_of_thousands_of_digits(copy: Callable[[str], Path]) -> None:
    """Python does not convert such a number to text; every command reports it as damage."""
    root = copy(IDLE)

    def far(read: Any) -> None:
        next(iter(read.storage_data.values())).offset = 10**6000

    metadata_edit(far)(root)
    found = verification.verify(root)
    errors = {each.code for each in found.findings if each.severity is Severity.ERROR}
    assert errors == {"byte-range-outside"}
    with pytest.raises(DamagedError, match="to byte a number of 19932 bits"):
        material.load(directories.directory(checkpoint_of(root)))
