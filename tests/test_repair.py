"""`repair`: what it makes of a broken checkpoint, what it refuses, and how it is taken back."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch_side
from conftest import CORRUPT, SAMPLES, Run, checkpoint_of, refused, tree_hash
from expected import GRIDS, IDLE_VALUES, PAYLOAD

from ckptmigrate import migrate

TRACKER = "latest_checkpointed_iteration.txt"
FAULT = "0.18.2-fault-cp2"
ENTRY = "rerun_state_machine"
SMALL = (".metadata", "common.pt", "metadata.json", "integrity.json", "__0_1.distcp")


def small_files(checkpoint: Path) -> dict[str, bytes | None]:
    files = {name: checkpoint / name for name in SMALL}
    return {name: file.read_bytes() if file.exists() else None for name, file in files.items()}


def put_back(checkpoint: Path) -> None:
    """Take the last step back by hand, from nothing but what the sidecar says."""
    steps = json.loads((checkpoint / "ckptmigrate.json").read_text())["steps"]
    kept = checkpoint / ".ckptmigrate" / f"{len(steps):04d}"
    for name, state in steps[-1]["files"].items():
        if state["before"] == state["after"]:
            continue
        if state["before"] is None:
            (checkpoint / name).unlink()
        else:
            content = (kept / name).read_bytes()
            assert hashlib.sha256(content).hexdigest() == state["before"]
            (checkpoint / name).write_bytes(content)


def same_tensors(a: Path, b: Path) -> None:
    one, two = torch_side.read(checkpoint_of(a)), torch_side.read(checkpoint_of(b))
    assert one.tensors.keys() == two.tensors.keys()
    assert all(torch_side.same_bits(v, two.tensors[k]) for k, v in one.tensors.items())


def state_of(root: Path) -> Any:
    return torch_side.plain(torch_side.read(checkpoint_of(root)).common.get(ENTRY))


def copied(root: Path, number: int) -> Path:
    return Path(shutil.copytree(checkpoint_of(root), root / f"iter_{number:07d}"))


def save_integrity(checkpoint: Path) -> None:
    files = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in checkpoint.iterdir()}
    content = {"algorithm": "sha256", "files": files}
    (checkpoint / "integrity.json").write_text(json.dumps(content))


def integrity_holds(checkpoint: Path) -> bool:
    """As verify_integrity_manifest of core_v0.17.1 does it."""
    recorded = json.loads((checkpoint / "integrity.json").read_text())["files"]
    return all(
        hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() == digest
        for name, digest in recorded.items()
    )


# -- the known corruption


def test_the_corrupt_sample_becomes_idle(copy: Callable[[str], Path], run: Run) -> None:
    root = copy(CORRUPT)
    before = tree_hash(root)
    result = run("repair", root)
    assert result.returncode == 0, result.stderr
    assert tree_hash(root) == before
    made = root.with_name(f"{CORRUPT}.repaired")
    assert f"to undo: rm -r {made}" in result.stdout
    assert state_of(made) is None
    same_tensors(root, made)
    was, now = (torch_side.read(checkpoint_of(r)).common for r in (root, made))
    del was[ENTRY]
    assert torch_side.plain(now) == torch_side.plain(was)
    assert (made / TRACKER).read_text() == "5"
    assert run("verify", made).returncode == 0
    assert run("verify", root).returncode == 1


def test_in_place_and_what_it_keeps(copy: Callable[[str], Path], run: Run) -> None:
    root = copy(CORRUPT)
    before = small_files(checkpoint_of(root))
    result = run("repair", root, "--in-place", "--json")
    told = json.loads(result.stdout)
    [done] = told["checkpoints"]
    assert told["done"] is True
    assert told["tracker"] is None
    assert done["verb"] == "repair"
    assert [file["name"] for file in done["files"]] == ["common.pt"]
    assert done["losses"] == []  # the context was gone already
    [step] = json.loads(run("inspect", root, "--json").stdout)["migrations"]
    assert step["verb"] == "repair"
    assert run("verify", root).returncode == 0
    put_back(checkpoint_of(root))
    assert small_files(checkpoint_of(root)) == before


def test_a_dry_run_writes_nothing(copy: Callable[[str], Path], run: Run) -> None:
    root = copy(CORRUPT)
    before = tree_hash(root.parent)
    result = run("repair", root, "--in-place", "--dry-run")
    assert result.returncode == 0
    assert "  - common rerun_state_machine: {mode, state, current_iteration}" in result.stdout
    assert result.stdout.startswith(f"Dry run: would repair {root}: ")
    assert tree_hash(root.parent) == before


def test_rebuild_sentinel(copy: Callable[[str], Path], run: Run) -> None:
    root = copy(CORRUPT)
    result = run("repair", root, "--in-place", "--rebuild-sentinel")
    assert result.returncode == 0, result.stderr
    read = torch_side.read(checkpoint_of(root))
    assert torch_side.plain(read.common[ENTRY]) == {
        "mode": ("RerunMode", "validate_results"),
        "state": ("RerunState", 0),
        "current_iteration": 5,
    }
    world = GRIDS["tp2"][1]
    assert read.rerun_keys == set(world)
    for key, rank in world.items():
        [payload] = read.object(key)
        fields = PAYLOAD["always-sentinel"]
        assert torch_side.plain(payload) == {name: IDLE_VALUES.get(name) for name in fields}
        plans = read.plan_keys()
        assert plans is not None
        assert [key in keys for keys in plans] == [other == rank for other in range(2)]
    torch_side.consistent(read, has_plans=True)
    same_tensors(root, SAMPLES / CORRUPT)
    assert run("verify", root).returncode == 0


def test_missing_shards_of_a_common_state_checkpoint(copy: Callable[[str], Path], run: Run) -> None:
    """One of four shards lost: the entry and the other three go."""
    root = copy("0.19.0-fault-tp2pp2")
    lose_a_shard(root, "rerun_state_machine_state/shard_2_4")
    assert run("inspect", root).returncode == 1
    assert run("repair", root, "--in-place").returncode == 0
    read = torch_side.read(checkpoint_of(root))
    assert ENTRY not in read.common
    assert read.rerun_keys == set()
    torch_side.consistent(read, has_plans=True)
    assert json.loads(run("inspect", root, "--json").stdout)["rerun"]["state"] == "idle"


def test_sharded_rerun_needs_its_grid(copy: Callable[[str], Path], run: Run) -> None:
    """0.10 and 0.11 always ask for it, so that without it they could not resume."""
    root = copy("0.10.0-idle-tp2")
    lose_a_shard(root, "rerun_state_machine_state/shard_0.1_1.2")
    refused(run("repair", root, "--in-place"), "always request", "--rebuild-sentinel")
    # Whatever tells of it names the command that works, and nothing that the files do not say.
    told = "has a corrupt rerun state: some rerun shards exist"
    refused(run("upgrade", root, "--to", "0.14.0"), told, "--rebuild-sentinel")
    found = run("inspect", root).stdout
    assert "some rerun shards exist" in found
    assert "records a fault" not in found
    assert "without rerun_state_machine" not in found
    result = run("check", root, "--reader", "0.10.0")
    assert result.returncode == 1
    assert "Missing key in checkpoint state_dict: rerun_state_machine_state/shard_0.1" in (
        result.stdout
    )
    fix = f"fix: ckptmigrate repair {root} --rebuild-sentinel\n"
    assert fix in result.stdout
    assert run("repair", root, "--in-place", "--rebuild-sentinel").returncode == 0
    read = torch_side.read(checkpoint_of(root))
    assert read.rerun_keys == set(GRIDS["tp2"][0])
    for key in read.rerun_keys:
        [payload] = read.object(key)
        assert torch_side.plain(payload["state"]) == ("RerunState", 0)
        assert set(payload) == PAYLOAD["sharded-rerun"]


def lose_a_shard(root: Path, key: str) -> None:
    file = checkpoint_of(root) / ".metadata"
    read = torch_side.unpickle(file.read_bytes())
    del read.state_dict_metadata[key]
    if read.planner_data:
        del read.planner_data[key]
    for index in [index for index in read.storage_data if index.fqn == key]:
        del read.storage_data[index]
    for plan in getattr(read, "all_local_plans", ()):
        plan.items[:] = [item for item in plan.items if item.index.fqn != key]
    with torch_side.megatron_names():
        file.write_bytes(pickle.dumps(read, protocol=4))


# -- a repaired checkpoint is an original of its own


@pytest.mark.parametrize("in_place", [True, False])
def test_no_migration_brings_the_damage_back(
    in_place: bool, copy: Callable[[str], Path], run: Run, tmp_path: Path
) -> None:
    root = copy(CORRUPT)
    assert run("repair", root, "--in-place").returncode == 0
    repaired = small_files(checkpoint_of(root))
    for target in ("common-state", "none-emitting", "always-sentinel", "none-emitting"):
        if in_place:
            migrate(root, to=target, in_place=True)
        else:
            migrate(root, to=target, output=tmp_path / f"to-{target}-{root.name}")
            root = tmp_path / f"to-{target}-{root.name}"
        kind = json.loads(run("inspect", root, "--json").stdout)["rerun"]["state"]
        assert kind == "idle"
    # There and back leads to the repaired files, byte for byte, and the repair is still told.
    assert small_files(checkpoint_of(root)) == repaired
    [step] = json.loads((checkpoint_of(root) / "ckptmigrate.json").read_text())["steps"]
    assert step["verb"] == "repair"
    put_back(checkpoint_of(root))
    common = (checkpoint_of(SAMPLES / CORRUPT) / "common.pt").read_bytes()
    assert (checkpoint_of(root) / "common.pt").read_bytes() == common


def test_a_dropped_context_does_not_come_back_with_an_upgrade(
    copy: Callable[[str], Path], run: Run
) -> None:
    """The originals before the repair hold the fault; nothing looks behind the repair."""
    root = copy(FAULT)
    migrate(root, to="common-state", in_place=True)
    result = run("repair", root, "--in-place", "--drop-rerun")
    assert result.returncode == 0, result.stderr
    assert "  data loss: fault-context: " in result.stdout
    migrate(root, to="none-emitting", in_place=True)
    assert state_of(root) is None
    migrate(root, to="always-sentinel", in_place=True)
    assert state_of(root)["state"] == ("RerunState", 0)


# -- a fault that nobody wants


@pytest.mark.parametrize("sample", [FAULT, "0.12.3-fault-dp2", "0.19.0-fault-w1"])
def test_a_healthy_fault_stays_unless_it_is_to_go(
    sample: str, copy: Callable[[str], Path], run: Run
) -> None:
    root = copy(sample)
    before = tree_hash(root.parent)
    result = run("repair", root)
    assert result.returncode == 0
    assert result.stdout == f"Nothing to repair in {root}\n"
    refused(run("repair", root, "--rebuild-sentinel"), "a complete fault context")
    assert tree_hash(root.parent) == before
    assert run("repair", root, "--drop-rerun", "--in-place").returncode == 0
    assert json.loads(run("inspect", root, "--json").stdout)["rerun"]["state"] == "idle"
    same_tensors(root, SAMPLES / sample)


def test_rerunning_in_place(copy: Callable[[str], Path], run: Run) -> None:
    root = copy("0.17.1-fault-tp2pp2")
    state = torch_side.RerunState.RERUNNING_IN_PLACE
    torch_side.edit_common(root, lambda common: common[ENTRY].update(state=state))
    refused(run("repair", root), "RERUNNING_IN_PLACE", "--drop-rerun")
    assert run("repair", root, "--drop-rerun", "--in-place").returncode == 0
    assert state_of(root) is None
    assert not torch_side.read(checkpoint_of(root)).rerun_keys


def test_an_idle_entry_without_sentinels(copy: Callable[[str], Path], run: Run) -> None:
    root = copy("0.18.2-idle-tp2")
    for key in GRIDS["tp2"][1]:
        lose_a_shard(root, key)
    assert "rerun-sentinel-missing" in run("verify", root).stdout
    assert run("repair", root, "--rebuild-sentinel", "--in-place").returncode == 0
    assert torch_side.read(checkpoint_of(root)).rerun_keys == set(GRIDS["tp2"][1])
    assert "sentinel" not in run("verify", root).stdout


def test_an_idle_entry_without_one_sentinel(copy: Callable[[str], Path], run: Run) -> None:
    root = copy("0.18.2-idle-tp2")
    kept, gone = GRIDS["tp2"][1]
    before = torch_side.read(checkpoint_of(root)).blobs[kept]
    lose_a_shard(root, gone)
    told = run("verify", root).stdout
    assert "rerun_state_machine is idle, and 1 of its 2 rerun shards are missing" in told
    assert gone in told
    assert "without 1 of its sentinel shards" in run("inspect", root).stdout
    assert run("upgrade", root, "--to", "common-state", "-o", root.with_name("up")).returncode == 0
    assert run("repair", root, "--rebuild-sentinel", "--in-place").returncode == 0
    assert "sentinel" not in run("verify", root).stdout
    for made in (root, root.with_name("up")):
        read = torch_side.read(checkpoint_of(made))
        assert read.rerun_keys == {kept, gone}
        assert read.blobs[kept] == before
        [payload] = read.object(gone)
        assert set(payload) == PAYLOAD["always-sentinel"]


# -- integrity.json


def test_stale_digests_of_small_files(copy: Callable[[str], Path], run: Run) -> None:
    root = copy("0.17.1-idle-w1")
    checkpoint = checkpoint_of(root)
    save_integrity(checkpoint)
    torch_side.edit_common(root, lambda common: common.update(added=1))
    assert not integrity_holds(checkpoint)
    result = run("repair", root, "--in-place")
    assert result.returncode == 0, result.stderr
    assert "integrity.json records the current hash of common.pt" in result.stdout
    assert integrity_holds(checkpoint)


def test_the_repaired_files_have_true_digests(copy: Callable[[str], Path], run: Run) -> None:
    root = copy(CORRUPT)
    save_integrity(checkpoint_of(root))
    assert run("repair", root, "--in-place", "--rebuild-sentinel").returncode == 0
    assert integrity_holds(checkpoint_of(root))


def test_another_digest_of_payload_is_refused(copy: Callable[[str], Path], run: Run) -> None:
    root = copy("0.17.1-idle-w1")
    payload = checkpoint_of(root) / "__0_0.distcp"
    save_integrity(checkpoint_of(root))
    content = bytearray(payload.read_bytes())
    content[100_000] ^= 1
    payload.write_bytes(content)
    before = tree_hash(root)
    refused(
        run("repair", root, "--in-place", "--hash"), "cannot be repaired", "another SHA-256 hash"
    )
    assert tree_hash(root) == before


# -- what is lost is not invented


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (".metadata", "no release can locate any tensor"),
        ("common.pt", "The common state (args, iteration, optimizer settings"),
        ("__0_0.distcp", "its tensors or objects are lost"),
    ],
)
def test_a_missing_file_is_refused(
    name: str, words: str, copy: Callable[[str], Path], run: Run
) -> None:
    root = copy("0.17.1-idle-w1")
    (checkpoint_of(root) / name).unlink()
    before = tree_hash(root.parent)
    refused(run("repair", checkpoint_of(root), "--in-place"), "cannot be repaired", words)
    refused(run("repair", root, "--in-place"), "cannot be repaired", "no good iteration")
    assert tree_hash(root.parent) == before


# -- the tracker


def damage_tracker(root: Path, how: str) -> str | None:
    tracker = root / TRACKER
    if how == "half-written":
        (copied(root, 9) / ".metadata").unlink()
        tracker.write_text("9")
    elif how == "truncated payload":
        (copied(root, 9) / "__0_0.distcp").write_bytes(b"short")
        tracker.write_text("9")
    elif how == "missing iteration":
        tracker.write_text("12")
    elif how == "empty":
        tracker.write_text("")
    else:
        tracker.unlink()
        return None
    return tracker.read_text()


@pytest.mark.parametrize(
    "how", ["half-written", "truncated payload", "missing iteration", "empty", "no tracker"]
)
def test_a_tracker_astray(how: str, copy: Callable[[str], Path], run: Run) -> None:
    root = copy("0.17.1-idle-w1")
    (copied(root, 7) / "common.pt").unlink()  # newer, and no good
    was = damage_tracker(root, how)
    before = tree_hash(root)
    result = run("repair", root, "--in-place", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert f"Dry run: would repair {root}: {TRACKER} -> 5" in result.stdout
    assert tree_hash(root) == before

    result = run("repair", root, "--in-place")
    assert result.returncode == 0, result.stderr
    assert (root / TRACKER).read_text() == "5"
    assert f"Repaired {root}: {TRACKER} -> 5" in result.stdout
    assert run("verify", root).returncode == 0
    [undo] = [line for line in result.stdout.splitlines() if line.startswith("to undo: ")]
    kept = root / ".ckptmigrate" / "0001" / TRACKER
    if was is None:
        assert undo == f"to undo: rm {root / TRACKER}"
        assert not kept.exists()
    else:
        assert undo == f"to undo: cp {kept} {root / TRACKER}"
        assert kept.read_text() == was
    [step] = json.loads((root / "ckptmigrate.json").read_text())["steps"]
    assert step["verb"] == "repair"
    assert not list(root.glob(".*stage*"))


def test_a_tracker_astray_out_of_place(copy: Callable[[str], Path], run: Run) -> None:
    root = copy("0.17.1-idle-w1")
    damage_tracker(root, "half-written")
    before = tree_hash(root)
    assert run("repair", root).returncode == 0
    assert tree_hash(root) == before
    made = root.with_name(f"{root.name}.repaired")
    assert (made / TRACKER).read_text() == "5"
    assert sorted(item.name for item in made.iterdir()) == ["iter_0000005", TRACKER]
    assert run("verify", made).returncode == 0


def test_a_second_repair_of_a_tracker_keeps_both(copy: Callable[[str], Path], run: Run) -> None:
    root = copy("0.17.1-idle-w1")
    for nth, text in enumerate(("12", "13"), 1):
        (root / TRACKER).write_text(text)
        assert run("repair", root, "--in-place").returncode == 0
        assert (root / ".ckptmigrate" / f"{nth:04d}" / TRACKER).read_text() == text


def test_a_repairable_iteration_is_repaired_not_left(copy: Callable[[str], Path], run: Run) -> None:
    root = copy(CORRUPT)
    copied(root, 3)
    assert run("repair", root, "--in-place").returncode == 0
    assert (root / TRACKER).read_text() == "5"
    assert state_of(root) is None


def test_all_iterations(copy: Callable[[str], Path], run: Run) -> None:
    root = copy(CORRUPT)
    copied(root, 3)
    assert run("verify", root, "--all").returncode == 1
    assert run("repair", root, "--all", "--in-place").returncode == 0
    assert run("verify", root, "--all").returncode == 0


def test_options_that_exclude_each_other(run: Run) -> None:
    root = SAMPLES / CORRUPT
    assert run("repair", root, "--rebuild-sentinel", "--drop-rerun").returncode == 2
    assert run("repair", root, "--in-place", "-o", "x").returncode == 2


def test_an_unfinished_migration_comes_first(copy: Callable[[str], Path], run: Run) -> None:
    root = copy(CORRUPT)
    stage = checkpoint_of(root) / ".ckptmigrate" / "stage"
    stage.mkdir(parents=True)
    refused(run("repair", root), "was interrupted", "ckptmigrate recover")
    done = run("repair", root, "--in-place")  # which recovers first, and says so
    assert done.returncode == 0, done.stderr
    assert "removed the staging files" in done.stdout
    assert not stage.exists()


def test_every_verb_names_the_same_repair(copy: Callable[[str], Path], run: Run) -> None:
    root = copy(CORRUPT)
    root = root.rename(root.with_name("a'b"))
    named = rf"ckptmigrate repair '{root.parent}/a'\''b'"
    refused(run("upgrade", root), "has a corrupt rerun state", f"run `{named}`")
    assert run("verify", root).stdout.endswith(f"fix: run `{named}`\n")
    assert run("check", root, "--reader", "0.17").stdout.endswith(f"fix: {named}\n")
