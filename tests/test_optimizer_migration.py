"""Migrations that convert the optimizer, as a user runs them.

What an element has to be is computed by the formula of tests/optimizer/README.md.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optimizer_side
import pytest
import torch_side
from conftest import Run, checkpoint_of, tree_hash
from test_check import ask, read

import ckptmigrate
from ckptmigrate import CkptMigrateError, DamagedError, RefusedError
from ckptmigrate.optimizer import resharding, tensors
from ckptmigrate.pickles.tree import with_state
from ckptmigrate.planning import refusals
from ckptmigrate.releases import optimizer_damage
from ckptmigrate.releases.job import Job
from ckptmigrate.verbs.changes import carry_out
from ckptmigrate.verbs.migrate import MigrationRequest, prepare

SAMPLES = optimizer_side.SAMPLES
INDEX: dict[str, dict[str, Any]] = json.loads((SAMPLES / "index.json").read_text())
INTACT = sorted(name for name, row in INDEX.items() if not row["damaged"])
DAMAGED = "0.19.0-optim-dp2-fr-damaged"
FLATTENED, RESHARDABLE = "fully_sharded_model_space", "fully_reshardable"
# Target -> the type that it reads in every layout of a job.
TARGETS = {
    "0.10": FLATTENED,
    "0.13": FLATTENED,
    "0.14": FLATTENED,
    "0.16": RESHARDABLE,
    "0.19": RESHARDABLE,
}
# Sharding type -> whether 0.13 and 0.16 load it.
READERS = {
    FLATTENED: {"0.13"},
    RESHARDABLE: {"0.16"},
    "dp_reshardable": {"0.16"},
    "dp_zero_gather_scatter": {"0.13", "0.16"},
}
OLD, NEW, BUCKETS = "0.13.1-optim-dp2", "0.15.3-optim-dp2-fr", "0.16.1-optim-dp2"


@pytest.fixture
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of a sample: the parameter of the test, by default OLD."""
    name = getattr(request, "param", OLD)
    shutil.copytree(SAMPLES / name, tmp_path / name)
    return tmp_path / name


def check_elements(root: Path, name: str) -> None:
    """Every element of the optimizer is what the formula says, and all of them are there."""
    found = optimizer_side.states(checkpoint_of(root))
    for (parameter, state), whole in found.items():
        expected = optimizer_side.expected(parameter, state, whole.shape)
        assert np.array_equal(whole, expected), (parameter, state)
    assert sum(whole.size for whole in found.values()) == INDEX[name]["elements"]


def type_of(root: Path) -> str:
    """The sharding type, by the keys of the states."""
    found = optimizer_side.metadata(checkpoint_of(root)).state_dict_metadata
    stored = {key.partition("optimizer.state.")[2].partition(".")[0] for key in found}
    return RESHARDABLE if "param" in stored else FLATTENED


def as_json(run: Run, *arguments: object, status: int = 0) -> Any:
    done = run(*arguments, "--json")
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("root", INTACT, indirect=True)
def test_every_element(root: Path, target: str, tmp_path: Path, run: Run) -> None:
    """Of every sample, for every target; the source stays as it is, and the target resumes."""
    before = tree_hash(root)
    done = run("migrate", root, "--to", target, "--optimizer", "convert", "--print-path")
    assert done.returncode == 0, done.stderr
    result = Path(done.stdout.strip())
    assert tree_hash(root) == before
    verdict = ask(result, target)
    assert verdict.resumes, verdict.obstacles
    if result != root and any((checkpoint_of(result)).glob("ckptmigrate.json")):
        history = json.loads((checkpoint_of(result) / "ckptmigrate.json").read_text())
        if "payload" in history["steps"][-1]:
            assert type_of(result) == TARGETS[target]
            check_elements(result, root.name)
    verified = run("verify", result)
    assert verified.returncode == 0, verified.stdout


@pytest.mark.parametrize("target", ["0.13", "0.16"])
@pytest.mark.parametrize("root", [OLD, NEW, BUCKETS, "0.14.0-optim-tp2-dpzero"], indirect=True)
def test_native_is_the_type_of_the_release(root: Path, target: str, run: Run) -> None:
    done = run("migrate", root, "--to", target, "--optimizer", "convert", "--native", "--in-place")
    assert done.returncode == 0, done.stderr
    assert type_of(root) == TARGETS[target]
    check_elements(root, root.name)


@pytest.mark.parametrize("root", [OLD, BUCKETS, "0.17.1-optim-moe-ep2"], indirect=True)
def test_in_place_and_undone(root: Path, run: Run) -> None:
    target = "0.16" if root.name == OLD else "0.13"
    before = tree_hash(root)
    made = as_json(run, "migrate", root, "--to", target, "--optimizer", "convert", "--in-place")
    check_elements(root, root.name)
    [plan] = made["checkpoints"]
    for file in plan["optimizer"]["files"]:
        assert (checkpoint_of(root) / file["name"]).stat().st_size == file["bytes"]
    undone = run("undo", root)
    assert undone.returncode == 0, undone.stderr
    assert tree_hash(root) == before
    # The command that is named does the same again.
    again = undone.stdout.partition("to redo: ckptmigrate ")[2].partition("\n")[0]
    assert run(*again.split()).returncode == 0
    check_elements(root, root.name)
    assert run("undo", root).returncode == 0
    assert tree_hash(root) == before


def test_back_to_the_release_of_the_original(root: Path, run: Run) -> None:
    before = tree_hash(root)
    ckptmigrate.migrate(root, to="0.16", optimizer="convert", in_place=True)
    ckptmigrate.migrate(root, to="0.13", in_place=True)
    assert tree_hash(root) == before


def test_a_migration_after_a_conversion_can_be_undone(root: Path, run: Run) -> None:
    """The converted optimizer is kept for that; what is written does not get its name."""
    before = tree_hash(root)
    ckptmigrate.migrate(root, to="0.16", optimizer="convert", in_place=True)
    converted = tree_hash(root)
    for to, optimizer in (("0.15", "keep"), ("0.10", "convert")):
        done = run("migrate", root, "--to", to, "--optimizer", optimizer, "--native", "--in-place")
        assert done.returncode == 0, done.stderr
        assert ask(root, to).resumes
        check_elements(root, OLD)
        ckptmigrate.undo(root)
        assert tree_hash(root) == converted
    ckptmigrate.undo(root)
    assert tree_hash(root) == before


def test_a_converted_optimizer_is_kept_for_a_release_that_reads_it(root: Path, run: Run) -> None:
    ckptmigrate.migrate(root, to="0.16", optimizer="convert", in_place=True)
    before = tree_hash(root)
    done = run("migrate", root, "--to", "0.19")
    assert done.returncode == 0
    result = root.with_name(f"{root.name}.0.19")
    assert ask(result if result.exists() else root, "0.19").resumes
    assert tree_hash(root) == before


def test_forget(root: Path, run: Run) -> None:
    ckptmigrate.migrate(root, to="0.16", optimizer="convert", in_place=True)
    checkpoint = checkpoint_of(root)
    kept = [path for path in (checkpoint / ".ckptmigrate").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in kept)
    before = tree_hash(root)
    planned = as_json(run, "undo", root, "--forget", "--dry-run")
    assert tree_hash(root) == before
    assert planned["checkpoints"][0]["freed_bytes"] == size > 0
    done = run("undo", root, "--forget")
    assert done.returncode == 0, done.stderr
    assert f"frees {size / 1000:.1f} kB" in done.stdout
    assert not (checkpoint / ".ckptmigrate").exists()
    assert not (checkpoint / "ckptmigrate.json").exists()
    check_elements(root, OLD)
    assert run("verify", root).returncode == 0
    again = run("undo", root, "--forget")
    assert again.returncode != 0
    assert "has no migration to undo" in again.stderr


def test_forget_removes_data_files_that_only_the_originals_use(root: Path, run: Run) -> None:
    """The second conversion starts from the original, so the files of the first have no use."""
    ckptmigrate.migrate(root, to="0.16", optimizer="convert", in_place=True)
    checkpoint = checkpoint_of(root)
    [first] = json.loads((checkpoint / "ckptmigrate.json").read_text())["steps"][0]["payload"]
    size = (checkpoint / first).stat().st_size
    ckptmigrate.migrate(root, to="0.10", optimizer="convert", in_place=True)
    assert (checkpoint / first).exists()
    [plan] = ckptmigrate.undo(root, forget=True)
    assert plan.freed is not None
    assert plan.freed > size
    assert not (checkpoint / first).exists()
    check_elements(root, OLD)
    assert ask(root, "0.10").resumes


def test_keep_names_the_command_that_converts(root: Path, run: Run) -> None:
    before = tree_hash(root)
    refused = run("migrate", root, "--to", "0.16")
    assert refused.returncode != 0
    assert tree_hash(root) == before
    command = refused.stderr.partition("run `ckptmigrate ")[2].partition("`")[0]
    assert "--optimizer convert" in command
    elements = sum(
        math.prod(entry.size)
        for key, entry in optimizer_side.metadata(checkpoint_of(root)).state_dict_metadata.items()
        if key.startswith("optimizer.state.")
    )
    assert f"reads and writes about {4 * elements / 1000:.1f} kB" in refused.stderr
    done = run(*command.split(), "-o", root.with_name("output"))
    assert done.returncode == 0, done.stderr
    check_elements(root.with_name("output"), OLD)


STALE = SAMPLES.parent / "samples" / "0.13.1-idle-dopt"


def test_keep_names_no_command_that_would_fail(run: Run) -> None:
    refused = run("migrate", STALE, "--to", "0.16")
    assert "it cannot be converted: optimizer: the main parameters of 9 of 16" in refused.stderr
    assert "--optimizer convert" not in refused.stderr


def test_of_a_large_optimizer_keep_reads_only_the_metadata(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a tensor is read")

    monkeypatch.setattr(refusals, "_PLANNED", 0)
    monkeypatch.setattr(tensors, "read_view", fail)
    with pytest.raises(RefusedError) as caught:
        ckptmigrate.migrate(root, to="0.16")
    assert "--to 0.16 --optimizer convert`" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("checkpoint", "options"),
    [(STALE, {}), (SAMPLES / "0.19.0-optim-tp2dp2", {"job": Job(tensor=1, world=2)})],
)
def test_check_plans_one_conversion(
    checkpoint: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is refused, or needed only for other parallel sizes; it may read terabytes."""
    made: list[object] = []
    convert = resharding.convert
    monkeypatch.setattr(
        resharding, "convert", lambda *given: (made.append(given), convert(*given))[1]
    )
    release = "0.16" if checkpoint == STALE else "0.19"
    [checked] = ckptmigrate.check(checkpoint, release=release, **options)
    assert not checked.verdict.resumes
    assert checked.fix.converts == (checkpoint != STALE)
    assert len(made) == 1


@pytest.mark.parametrize("root", INTACT, indirect=True)
def test_the_fix_of_check_converts(root: Path, run: Run, tmp_path: Path) -> None:
    for reader in ("0.13", "0.16"):
        if reader in READERS[INDEX[root.name]["sharding"]]:
            continue
        found = as_json(run, "check", root, "--reader", reader, status=1)
        assert (found["resumes"], found["after_conversion"]) == (False, True)
        assert found["fix"]["flags"] == []
        words = found["fix"]["command"].removeprefix("ckptmigrate ").split()
        output = tmp_path / f"for-{reader}"
        done = run(*words, "-o", output)
        assert done.returncode == 0, done.stderr
        assert ask(output, reader).resumes
        check_elements(output, root.name)


@pytest.mark.parametrize("root", ["0.19.0-optim-tp2dp2"], indirect=True)
def test_the_fix_for_other_parallel_sizes(root: Path, tmp_path: Path) -> None:
    """A dp_reshardable optimizer loads only with the TP and PP sizes of its writer."""
    job = Job(tensor=1, pipeline=1, world=2)
    [checked] = ckptmigrate.check(root, release="0.19", job=job)
    assert not checked.verdict.resumes
    assert checked.fix.converts
    ckptmigrate.migrate(root, to="0.19", optimizer_type=RESHARDABLE, output=tmp_path / "output")
    after = ask(tmp_path / "output", "0.19", job)
    assert not [each for each in after.obstacles if each.flag == "--no-load-optim"]


@pytest.mark.parametrize("root", [BUCKETS], indirect=True)
def test_a_type_without_a_release(root: Path, run: Run) -> None:
    done = run("migrate", root, "--optimizer-type", RESHARDABLE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.partition("(")[0].rstrip().endswith(f"for sharding type {RESHARDABLE}")
    result = root.with_name(f"{root.name}.{RESHARDABLE}")
    assert type_of(result) == RESHARDABLE
    check_elements(result, root.name)
    assert ask(result, "0.16").resumes
    again = run("migrate", result, "--optimizer-type", RESHARDABLE)
    assert f"No migration needed: {result} already has the sharding type" in again.stdout
    missing = run("migrate", root)
    assert missing.returncode == 2
    assert "Missing option '--to'" in missing.stderr


@pytest.mark.parametrize("root", [BUCKETS], indirect=True)
def test_a_type_without_a_release_is_undone_and_redone(root: Path, run: Run) -> None:
    before = tree_hash(root)
    assert run("migrate", root, "--optimizer-type", RESHARDABLE, "--in-place").returncode == 0
    again = run("undo", root).stdout.partition("to redo: ckptmigrate ")[2].partition("\n")[0]
    assert tree_hash(root) == before
    assert again.split()[2:] == ["--optimizer-type", RESHARDABLE, "--in-place"]
    assert run(*again.split()).returncode == 0
    check_elements(root, root.name)


@pytest.mark.parametrize("root", [BUCKETS], indirect=True)
def test_only_the_optimizer_changes_without_a_release(root: Path) -> None:
    """What a migration before did for its release stays, and is undone after it."""
    before = tree_hash(root)
    ckptmigrate.migrate(root, to="0.10", allow_loss=("optimizer-state",), in_place=True)
    migrated = tree_hash(root)
    obstacles = [each.error for each in ask(root, "0.10").obstacles]
    ckptmigrate.migrate(root, optimizer_type=RESHARDABLE, in_place=True)
    assert type_of(root) == RESHARDABLE
    check_elements(root, root.name)
    changed = [error.replace("dp_reshardable", RESHARDABLE) for error in obstacles]
    assert [each.error for each in ask(root, "0.10").obstacles] == changed
    ckptmigrate.undo(root)
    assert tree_hash(root) == migrated
    ckptmigrate.undo(root)
    assert tree_hash(root) == before


@pytest.mark.parametrize("root", [OLD, BUCKETS], indirect=True)
def test_inspect_names_the_writer_of_a_converted_checkpoint(root: Path, run: Run) -> None:
    """Not a release whose traces the conversion adds."""
    target = "0.16" if root.name == OLD else "0.13"
    written = as_json(run, "inspect", root)["writer"]["releases"]
    ckptmigrate.migrate(root, to=target, optimizer="convert", output=root.with_name("out"))
    found = as_json(run, "inspect", root.with_name("out"))
    assert found["writer"]["releases"] == written == [root.name[:4]]
    shown = run("inspect", root.with_name("out")).stdout
    assert f": Megatron-Core {root.name[:4]}, migrated to {target}, iteration 5" in shown


def test_without_a_history_a_converted_checkpoint_has_traces_of_two_releases(
    root: Path, run: Run
) -> None:
    ckptmigrate.migrate(root, to="0.16", optimizer="convert", in_place=True)
    ckptmigrate.undo(root, forget=True)
    assert as_json(run, "inspect", root)["writer"]["releases"] == []
    assert "traces of several releases" in run("inspect", root).stdout


def test_the_way_back_can_be_undone(root: Path, run: Run) -> None:
    """By the command that a migration back to the original prints."""
    ckptmigrate.migrate(root, to="0.16", optimizer="convert", in_place=True)
    back = run("migrate", root, "--to", "0.13", "--in-place")
    again = back.stdout.partition("to undo: ckptmigrate ")[2].partition("\n")[0]
    assert run(*again.split()).returncode == 0
    assert type_of(root) == RESHARDABLE
    check_elements(root, root.name)


def test_a_type_that_the_release_does_not_load_is_refused(root: Path) -> None:
    before = tree_hash(root)
    with pytest.raises(RefusedError, match=r"release 0\.13 cannot load"):
        ckptmigrate.migrate(root, to="0.13", optimizer_type=RESHARDABLE)
    assert tree_hash(root) == before


def test_a_layout_needs_a_type(root: Path) -> None:
    with pytest.raises(RefusedError, match="is not a release"):
        ckptmigrate.migrate(root, to="none-emitting", optimizer="convert")


def test_a_dry_run_writes_nothing(root: Path, run: Run) -> None:
    before = tree_hash(root.parent)
    found = as_json(run, "migrate", root, "--to", "0.16", "--optimizer", "convert", "--dry-run")
    [plan] = found["checkpoints"]
    types = plan["optimizer"]["from"], plan["optimizer"]["to"]
    assert types == (FLATTENED, RESHARDABLE)
    assert plan["optimizer"]["read_bytes"] == INDEX[OLD]["elements"] * 4
    assert tree_hash(root.parent) == before
    shown = run("migrate", root, "--to", "0.16", "--optimizer", "convert", "--dry-run").stdout
    assert f"the optimizer is converted from {FLATTENED} to {RESHARDABLE}, which reads" in shown


def test_a_batch(tmp_path: Path, run: Run) -> None:
    names = [OLD, "0.11.0-optim-dp2", "0.13.1-optim-tp2dp2"]
    roots = [tmp_path / name for name in names]
    for root in roots:
        shutil.copytree(SAMPLES / root.name, root)
    before = [tree_hash(root) for root in roots]
    words = ["migrate", *roots, "--to", "0.16", "--optimizer", "convert", "--jobs", 2, "--all"]
    done = run(*words, "-o", tmp_path / "output")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [tree_hash(root) for root in roots] == before
    for name in names:
        check_elements(tmp_path / "output" / name, name)


# -- what is refused, with nothing written


@pytest.mark.parametrize("root", [DAMAGED], indirect=True)
def test_a_damaged_source(root: Path, run: Run) -> None:
    before = tree_hash(root.parent)
    done = run("migrate", root, "--to", "0.13", "--optimizer", "convert")
    assert done.returncode != 0
    assert "releases 0.15 to 0.19 write it damaged" in done.stderr
    assert tree_hash(root.parent) == before


def test_keep_warns_of_an_optimizer_that_may_be_damaged() -> None:
    """Where args show that the buffer had several buckets."""
    found = read(SAMPLES / NEW).manifest
    assert "which args do not show" in str(optimizer_damage.warning(found))
    args = found.common.values["args"]
    edited = with_state(args, {**args.attributes, "overlap_grad_reduce": True})
    changed = replace(found, common=found.common.with_value("args", edited))
    warning = str(optimizer_damage.warning(changed))
    assert "may be damaged" in warning
    assert "the job had several gradient buckets" in warning


@pytest.mark.parametrize("sample", ["0.17.1-idle-dopt", "0.13.1-idle-dopt"])
def test_stale_weights(sample: str, tmp_path: Path, run: Run) -> None:
    source = SAMPLES.parent / "samples" / sample
    target = "0.13" if sample.startswith("0.17") else "0.16"
    done = run("migrate", source, "--to", target, "--optimizer", "convert", "-o", tmp_path / "out")
    assert done.returncode != 0
    assert "weights" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_hole(root: Path, tmp_path: Path) -> None:
    def drop(metadata: Any) -> None:
        key = "optimizer.state.exp_avg.output_layer.weight"
        del metadata.state_dict_metadata[key].chunks[0]

    torch_side.edit_metadata(root, drop)
    before = tree_hash(tmp_path)
    with pytest.raises(CkptMigrateError):
        ckptmigrate.migrate(root, to="0.16", optimizer="convert")
    assert tree_hash(tmp_path) == before


def test_a_source_that_is_cut_while_it_is_converted(root: Path, tmp_path: Path) -> None:
    request = MigrationRequest("0.16", optimizer="convert", output=tmp_path / "output")
    found = prepare(root, request)
    data = checkpoint_of(root) / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(DamagedError, match="is truncated"):
        carry_out(found)
    assert not (tmp_path / "output").exists()
