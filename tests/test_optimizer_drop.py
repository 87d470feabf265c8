"""Checkpoints without their optimizer, and data files without the bytes that no key uses.

What an element has to be is computed by the formula of tests/optimizer/README.md, and what a file
contains is read by torch.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import flaky_store
import numpy as np
import optimizer_side
import pytest
import torch
import torch_side
from conftest import Run, checkpoint_of, refused, tree_hash
from test_check import ask
from test_new_payload import with_digests
from test_optimizer_migration import as_json, check_elements

import ckptmigrate
from ckptmigrate.checkpoint import metadata_file
from ckptmigrate.releases.job import Job
from ckptmigrate.text.sizes import size

SAMPLES = optimizer_side.SAMPLES
INDEX: dict[str, dict[str, Any]] = json.loads((SAMPLES / "index.json").read_text())
FLAT, MOE, NEWEST = "0.13.1-optim-tp2dp2", "0.17.1-optim-moe-ep2", "0.20.dev0-optim-dp2-fr"
DP_ZERO, DAMAGED = "0.14.0-optim-tp2-dpzero", "0.19.0-optim-dp2-fr-damaged"
KEPT = ("rng_state", "_extra_state")  # parts of the keys of sharded objects that never change


@pytest.fixture
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of a sample: the parameter of the test, by default FLAT."""
    name = getattr(request, "param", FLAT)
    shutil.copytree(SAMPLES / name, tmp_path / name)
    return tmp_path / name


def check_weights(root: Path, source: Path, name: str) -> None:
    """The weights are what the formula says, all other objects are those of the source."""
    found, before = (torch_side.read(checkpoint_of(each)) for each in (root, source))
    weights = {key for key in before.tensors if "optimizer." not in key}
    assert weights == {key for key in found.tensors if "optimizer." not in key}
    for key in weights:
        tensor = found.tensors[key]
        expected = torch.from_numpy(optimizer_side.expected(key, "param", tuple(tensor.shape)))
        assert torch_side.same_bits(tensor, expected.to(tensor.dtype)), (name, key)
    for key, blob in before.blobs.items():
        if any(part in key for part in KEPT):
            assert found.blobs[key] == blob, key


def check_no_optimizer(root: Path) -> None:
    """No table names a key of the optimizer, and the common state has none."""
    found = torch_side.read(checkpoint_of(root))
    plans = getattr(found.metadata, "all_local_plans", None)
    torch_side.consistent(found, has_plans=plans is not None)
    for each in (found.metadata, *(plans or ())):
        assert "optimizer" not in str(list(getattr(each, "mcore_data", None) or ()))
    assert not any("optimizer" in key for key in found.metadata.state_dict_metadata)
    assert not {"optimizer", "opt_param_scheduler"} & found.common.keys()
    assert found.common["args"].no_save_optim is True


def unused(root: Path) -> int:
    """The bytes of data files that no row of `storage_data` refers to."""
    checkpoint = checkpoint_of(root)
    used: dict[str, set[int]] = defaultdict(set)
    for where in optimizer_side.metadata(checkpoint).storage_data.values():
        used[where.relative_path].update(range(where.offset, where.offset + where.length))
    sizes = {file.name: file.stat().st_size for file in checkpoint.glob("*.distcp")}
    return sum(size - len(used[name]) for name, size in sizes.items())


def verified(run: Run, root: Path, *options: str) -> Any:
    [found] = as_json(run, "verify", root, *options)["checkpoints"]
    return found


@pytest.mark.parametrize("root", sorted(INDEX), indirect=True)
def test_weights_only(root: Path, run: Run, tmp_path: Path) -> None:
    """Of every type, also of a damaged optimizer."""
    before = tree_hash(root)
    plans = {}
    for out, options in ((tmp_path / "plain", []), (tmp_path / "compact", ["--compact"])):
        made = as_json(run, "migrate", root, "--optimizer", "drop", *options, "-o", out)
        [plan] = plans[out.name] = made["checkpoints"]
        check_weights(out, root, root.name)
        check_no_optimizer(out)
        assert verified(run, out)["unused_bytes"] == unused(out) == plan["unused_bytes"]
        assert plan["losses"] == ["optimizer-state"]
        assert (plan["optimizer"]["to"], plan["optimizer"]["files"]) == (None, [])
        assert any("resume with --no-load-optim" in note for note in plan["notes"])
        release = INDEX[root.name]["release"]
        assert [o.error for o in ask(out, release).obstacles] == ["KeyError: 'optimizer'"]
        assert ask(out, release, Job(no_load_optim=True)).resumes
        assert as_json(run, "inspect", out)["optimizer"] is None
    assert tree_hash(root) == before
    left = unused(tmp_path / "plain")
    assert left > unused(tmp_path / "compact") == 0
    [plain], [compact] = plans.values()
    assert plain["compaction"] is None
    assert any(f"no key uses {size(left)} of" in note for note in plain["notes"])
    assert compact["compaction"]["freed_bytes"] == left
    kept = {each.name for each in checkpoint_of(tmp_path / "compact").iterdir()}
    assert kept.isdisjoint(compact["compaction"]["left_out"])


@pytest.mark.parametrize("target", ["0.10", "0.13", "0.16", "0.19"])
@pytest.mark.parametrize("root", [FLAT, NEWEST, DP_ZERO], indirect=True)
def test_for_a_release(root: Path, target: str, run: Run) -> None:
    done = run("migrate", root, "--to", target, "--optimizer", "drop", "--compact", "--print-path")
    assert done.returncode == 0, done.stderr
    result = Path(done.stdout.strip())
    check_weights(result, root, root.name)
    check_no_optimizer(result)
    assert ask(result, target, Job(no_load_optim=True)).resumes
    assert verified(run, result)["unused_bytes"] == 0 == unused(result)


@pytest.mark.parametrize("root", [FLAT, MOE, NEWEST], indirect=True)
@pytest.mark.parametrize("options", [[], ["--compact"]], ids=["", "compact"])
def test_in_place_and_undone(root: Path, options: list[str], run: Run, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "source")
    with_digests(root)
    before = tree_hash(root)
    done = run("migrate", root, "--optimizer", "drop", *options, "--in-place")
    assert done.returncode == 0, done.stderr
    assert ("undo --forget" in done.stdout or "--forget`" in done.stdout) == bool(options)
    check_weights(root, tmp_path / "source", root.name)
    check_no_optimizer(root)
    assert as_json(run, "verify", root, "--hash")["clean"]
    dropped = tree_hash(root)
    undone = run("undo", root)
    assert undone.returncode == 0, undone.stderr
    assert tree_hash(root) == before
    # The command that is named does the same again.
    again = undone.stdout.partition("to redo: ckptmigrate ")[2].partition("\n")[0]
    assert run(*again.split()).returncode == 0
    check_no_optimizer(root)
    assert [f.name for f in sorted(root.rglob("*"))]
    forgotten = run("undo", root, "--forget")
    assert forgotten.returncode == 0, forgotten.stderr
    assert dropped != tree_hash(root)
    check_weights(root, tmp_path / "source", root.name)
    assert (verified(run, root, "--hash")["unused_bytes"] == 0) == bool(options)
    assert verified(run, root)["unused_bytes"] == unused(root)


@pytest.mark.parametrize("root", ["0.13.1-optim-dp2", "0.16.1-optim-dp2"], indirect=True)
def test_a_compacted_conversion(root: Path, run: Run, tmp_path: Path) -> None:
    """Every weight and every element of the optimizer; in place it is undone and forgotten."""
    shutil.copytree(root, tmp_path / "source")
    with_digests(root)
    before = tree_hash(root)
    target = "0.16" if "0.13" in root.name else "0.13"
    words = ["migrate", root, "--to", target, "--optimizer", "convert", "--compact"]
    out = tmp_path / "out"
    assert run(*words, "-o", out).returncode == 0
    assert run(*words, "--in-place").returncode == 0
    for each in (out, root):
        check_elements(each, root.name)
        check_weights(each, tmp_path / "source", root.name)
        assert as_json(run, "verify", each, "--hash", "--optimizer")["clean"]
        assert ask(each, target).resumes
    assert verified(run, out)["unused_bytes"] == 0 == unused(out)
    undone = run("undo", root)
    assert tree_hash(root) == before
    again = undone.stdout.partition("to redo: ckptmigrate ")[2].partition("\n")[0]
    assert run(*again.split()).returncode == 0
    assert run("undo", root, "--forget").returncode == 0
    check_elements(root, root.name)
    assert verified(run, root)["unused_bytes"] == 0 == unused(root)
    assert run("undo", out, "--forget").returncode == 0
    check_elements(out, root.name)


def test_later_migrations_start_from_the_weights(root: Path, run: Run) -> None:
    """In place and out of place, whether the old data files are still there or not."""
    for options in ([], ["--compact"]):
        place = root.with_name(f"copy{len(options)}")
        shutil.copytree(root, place)
        assert run("migrate", place, "--optimizer", "drop", *options, "--in-place").returncode == 0
        out = place.with_name(f"{place.name}.out")
        for words in (["-o", out], ["--in-place"]):
            done = run("migrate", place, "--to", "0.19", "--native", *words)
            assert done.returncode == 0, done.stderr
        for each in (place, out):
            check_no_optimizer(each)
            check_weights(each, root, root.name)
        assert run("undo", place).returncode == 0
        assert run("undo", place).returncode == 0
        assert tree_hash(place) == tree_hash(root)
        assert run("downgrade", out, "--to", "0.13", "--in-place").returncode == 0
        check_no_optimizer(out)


def test_a_dry_run_names_what_is_lost_and_left(root: Path, run: Run) -> None:
    before = tree_hash(root.parent)
    done = run("migrate", root, "--optimizer", "drop", "--dry-run", "-v")
    assert done.returncode == 0, done.stderr
    assert tree_hash(root.parent) == before
    for text in (
        "- entry optimizer: fully_sharded_model_space",
        "data loss: optimizer-state",
        "resume with --no-load-optim",
        "which also starts a new learning rate schedule",
        "add --compact",
    ):
        assert text in done.stdout
    assert "mcore_data" not in done.stdout
    assert not [line for line in done.stdout.splitlines() if "optimizer.state" in line]


def test_nothing_to_drop(root: Path, run: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("migrate", root, "--optimizer", "drop", "-o", first).returncode == 0
    again = run("migrate", first, "--optimizer", "drop")
    assert again.returncode == 0, again.stderr
    assert "No migration needed" in again.stdout and "no optimizer to drop" in again.stdout
    assert {each.name for each in tmp_path.iterdir()} == {"first", root.name}
    assert run("migrate", first, "--compact", "-o", second).returncode == 0
    check_weights(second, root, root.name)
    assert unused(first) > unused(second) == 0
    whole = run("migrate", second, "--compact")
    assert whole.returncode == 0 and "no unused bytes" in whole.stdout


def test_a_data_file_of_no_key_is_left_out(root: Path, run: Run, tmp_path: Path) -> None:
    stray = checkpoint_of(root) / "__1_7.distcp"
    stray.write_bytes(b"stray")
    assert verified(run, root)["unused_bytes"] == 5
    before = tree_hash(root)
    assert run("migrate", root, "--compact", "-o", tmp_path / "out").returncode == 0
    assert not (checkpoint_of(tmp_path / "out") / stray.name).exists()
    assert run("migrate", root, "--compact", "--in-place").returncode == 0
    assert stray.exists()
    assert run("undo", root).returncode == 0
    assert tree_hash(root) == before
    assert run("migrate", root, "--compact", "--in-place").returncode == 0
    assert run("undo", root, "--forget").returncode == 0
    assert not stray.exists()
    check_elements_of_flat(root)


def check_elements_of_flat(root: Path) -> None:
    """The weights and the optimizer of FLAT are untouched."""
    for name in ("__0_0.distcp", "__1_0.distcp"):
        original = checkpoint_of(SAMPLES / FLAT) / name
        assert (checkpoint_of(root) / name).read_bytes() == original.read_bytes()


def test_files_are_closed_when_they_are_full(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options: dict[str, Any] = {"optimizer": "drop", "compact": True, "part_size": 20_000}
    ckptmigrate.migrate(root, output=out, **options)
    check_weights(out, root, root.name)
    files = [*checkpoint_of(out).glob("*.distcp")]
    assert len(files) > len([*checkpoint_of(root).glob("*.distcp")])
    rows = optimizer_side.metadata(checkpoint_of(out)).storage_data.values()
    for file in files:
        inside = {(row.offset, row.length) for row in rows if row.relative_path == file.name}
        assert file.stat().st_size <= 20_000 or len(inside) == 1
    assert unused(out) == 0


def test_by_rows(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large `.metadata` is edited like a small one."""
    small, large = tmp_path / "small", tmp_path / "large"
    options: dict[str, Any] = {"optimizer": "drop", "compact": True}
    ckptmigrate.migrate(root, output=small, **options)
    monkeypatch.setattr(metadata_file, "THRESHOLD", 0)
    ckptmigrate.migrate(root, output=large, **options)
    one, two = (optimizer_side.metadata(checkpoint_of(each)) for each in (small, large))
    assert one.storage_data == two.storage_data
    assert one.state_dict_metadata == two.state_dict_metadata
    check_no_optimizer(large)
    check_weights(large, root, root.name)


# -- other kinds of optimizers


def renamed(root: Path, prefix: str) -> None:
    """Give the keys of the optimizer a prefix."""

    def edit(metadata: Any) -> None:
        keys = [key for key in metadata.state_dict_metadata if key.startswith("optimizer.")]
        torch_side.rename(metadata, {key: f"{prefix}{key}" for key in keys})
        for plan in metadata.all_local_plans:
            table = plan.mcore_data
            plan.mcore_data = {f"{prefix}{k}" if k in keys else k: v for k, v in table.items()}

    torch_side.edit_metadata(root, edit)


def states(root: Path, **changes: Any) -> None:
    """Change the state of the optimizer in common.pt; None removes a key."""

    def edit(common: dict[str, Any]) -> None:
        for key, value in changes.items():
            if value is None:
                common["optimizer"].pop(key)
            else:
                common["optimizer"][key] = value

    torch_side.edit_common(root, edit)


@pytest.mark.parametrize(
    ("kind", "prefix", "change"),
    [
        ("not distributed", "", {"param_state_sharding_type": None}),
        ("bucket space", "", {"param_state_sharding_type": "fully_sharded_bucket_space"}),
        ("chained", "chained_0.", {}),
        ("MIMO", "mimo.language_module.", {}),
    ],
)
def test_kinds_that_cannot_be_converted(
    kind: str, prefix: str, change: dict[str, Any], root: Path, run: Run, tmp_path: Path
) -> None:
    renamed(root, prefix)
    states(root, **change)
    out = tmp_path / "out"
    done = run("migrate", root, "--optimizer", "drop", "--compact", "-o", out)
    assert done.returncode == 0, done.stderr
    check_no_optimizer(out)
    check_weights(out, root, root.name)
    assert verified(run, out)["unused_bytes"] == 0


def test_a_framework_without_args(root: Path, run: Run, tmp_path: Path) -> None:
    torch_side.edit_common(root, lambda common: common.pop("args"))
    done = run("migrate", root, "--optimizer", "drop", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "Megatron-Bridge: checkpoint.load_optim=False" in done.stdout
    for target in ("0.13", "0.16"):
        again = run("migrate", tmp_path / "out", "--to", target)
        assert again.returncode == 0, again.stderr


# -- many checkpoints, and stores


def test_a_batch(tmp_path: Path, run: Run) -> None:
    """In two processes and with a ledger, which skips what is done."""
    names = [FLAT, MOE, DAMAGED]
    roots = [tmp_path / name for name in names]
    for root in roots:
        shutil.copytree(SAMPLES / root.name, root)
    before = [tree_hash(root) for root in roots]
    ledger = tmp_path / "ledger.jsonl"
    words = ["migrate", *roots, "--optimizer", "drop", "--compact", "--jobs", 2, "--all"]
    words += ["-o", tmp_path / "output", "--ledger", ledger]
    for status in ("done", "skipped"):
        assert as_json(run, *words)["summary"][status] == 3
    assert [tree_hash(root) for root in roots] == before
    for root in roots:
        check_no_optimizer(tmp_path / "output" / root.name)
        check_weights(tmp_path / "output" / root.name, root, root.name)
        assert unused(tmp_path / "output" / root.name) == 0
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    options = [row["options"] for row in rows if "options" in row]
    assert all((row["optimizer"], row["compact"]) == ("drop", True) for row in options)


@pytest.mark.parametrize("in_place", [True, False])
def test_in_a_store(in_place: bool, tmp_path: Path) -> None:
    url = flaky_store.put(SAMPLES / FLAT, "run")
    before = flaky_store.below("run")
    output = None if in_place else "flaky://bucket/out"
    ckptmigrate.migrate(url, optimizer="drop", compact=True, in_place=in_place, output=output)
    found = flaky_store.below("run" if in_place else "out")
    local = tmp_path / "local"
    for name, content in found.items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(content)
    check_no_optimizer(local)
    check_weights(local, SAMPLES / FLAT, FLAT)
    if in_place:
        ckptmigrate.undo(url)
    else:
        assert unused(local) == 0
    assert flaky_store.below("run") == before


# -- damage, with nothing written


def damage(root: Path) -> Path:
    """Change one bit of a weight in a data file; its path."""
    checkpoint = checkpoint_of(root)
    found = optimizer_side.metadata(checkpoint).storage_data
    index, where = next(
        (i, w) for i, w in found.items() if i.fqn == "decoder.layers.mlp.linear_fc1.weight"
    )
    path = checkpoint / where.relative_path
    content = bytearray(path.read_bytes())
    weight = optimizer_side.chunks(checkpoint, optimizer_side.metadata(checkpoint))[index.fqn]
    data = weight[tuple(index.offset)].numpy().tobytes()
    content[content.index(data, where.offset) + 5] ^= 1
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("in_place", [True, False])
def test_a_damaged_weight_is_not_moved(root: Path, in_place: bool, run: Run) -> None:
    path = damage(root)
    before = tree_hash(root.parent)
    place = ["--in-place"] if in_place else []
    done = run("migrate", root, "--optimizer", "drop", "--compact", *place)
    refused(done, path.name, "has other bytes than its checksum")
    assert tree_hash(root.parent) == before


def test_bytes_that_are_not_a_zip_are_not_moved(root: Path, run: Run) -> None:
    def edit(metadata: Any) -> None:
        first = next(iter(metadata.storage_data.values()))
        first.offset += 1
        first.length -= 1

    torch_side.edit_metadata(root, edit)
    before = tree_hash(root.parent)
    done = run("migrate", root, "--compact")
    refused(done, "cannot be checked", "is not a torch zip file")
    assert tree_hash(root.parent) == before


def test_overlapping_bytes_are_not_moved(root: Path, run: Run) -> None:
    def edit(metadata: Any) -> None:
        first, second, *_ = metadata.storage_data.values()
        assert first.relative_path == second.relative_path
        first.length += 1

    torch_side.edit_metadata(root, edit)
    before = tree_hash(root.parent)
    refused(run("migrate", root, "--optimizer", "drop", "--compact"), "byte ranges that overlap")
    assert tree_hash(root.parent) == before


def test_options_that_exclude_each_other(root: Path, run: Run) -> None:
    words = ["--optimizer", "drop", "--optimizer-type", "fully_reshardable"]
    done = run("migrate", root, *words)
    assert done.returncode == 2 and "cannot be combined" in done.stderr
    with pytest.raises(ValueError, match="neither to"):
        ckptmigrate.migrate(root)


def test_elements_are_those_of_the_formula() -> None:
    """The control of `check_weights`: an exchanged pair of weights shows."""
    key = "decoder.layers.mlp.linear_fc1.weight"
    expected = optimizer_side.expected(key, "param", (2, 64, 16))
    other = optimizer_side.expected("output_layer.weight", "param", (2, 64, 16))
    assert not np.array_equal(expected, other)
