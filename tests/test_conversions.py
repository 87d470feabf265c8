"""Every sample to every layout and back, checked with real torch and tables written by hand."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import expected
import pytest
import torch_side
from conftest import CORRUPT, HEALTHY, INDEX, LAYOUTS, SAMPLES, checkpoint_of, tree_hash

import ckptmigrate
from ckptmigrate import RefusedError

MARKER_OLD = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}
MARKER_NEW = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}


@functools.cache
def source(name: str) -> torch_side.Contents:
    return torch_side.read(checkpoint_of(SAMPLES / name))


def moves_exactly(sample: str, target: str) -> bool:
    """Whether a fault sample keeps its context in a target."""
    layout = INDEX[sample]["layout"]
    return layout == target or (layout in expected.KEEPS_FAULTS and target in expected.KEEPS_FAULTS)


# Of each layout and rerun state the sample of the most ranks; `make test-full` has all.
CHOSEN = {
    (INDEX[name]["layout"], INDEX[name]["scenario"]): name
    for name in sorted(HEALTHY, key=lambda name: INDEX[name]["world_size"])
}.values()


@pytest.mark.parametrize("target", [*LAYOUTS, "universal"])
@pytest.mark.parametrize(
    "sample", [pytest.param(n, marks=() if n in CHOSEN else pytest.mark.full) for n in HEALTHY]
)
def test_a_conversion_and_the_ways_back(sample: str, target: str, tmp_path: Path) -> None:
    """One migration; back with its sidecar, without it, and in place with `undo`."""
    there, layout = tmp_path / "there", INDEX[sample]["layout"]
    loss = INDEX[sample]["scenario"] == "fault" and not moves_exactly(sample, target)
    if loss:
        with pytest.raises(RefusedError) as refusal:
            ckptmigrate.migrate(SAMPLES / sample, to=target, output=there)
        assert refusal.value.losses == ("fault-context",)
        assert "--allow-loss fault-context" in str(refusal.value)
        assert not there.exists()
    allowed = ["fault-context"] if loss else []
    ckptmigrate.migrate(SAMPLES / sample, to=target, output=there, allow_loss=allowed)
    check_conversion(sample, target, checkpoint_of(there))

    ckptmigrate.migrate(there, to=layout, output=tmp_path / "back")
    # Not only the small files: the whole root, name by name, with no sidecar left over.
    assert tree_hash(tmp_path / "back") == tree_hash(SAMPLES / sample)

    shutil.copytree(SAMPLES / sample, tmp_path / "run")
    check_in_place(sample, target, tmp_path / "run", checkpoint_of(there))

    # The migration is complete without what is kept for the way back.
    (checkpoint_of(there) / "ckptmigrate.json").unlink(missing_ok=True)
    shutil.rmtree(checkpoint_of(there) / ".ckptmigrate", ignore_errors=True)
    ckptmigrate.migrate(there, to=layout, output=tmp_path / "fresh")
    check_the_same_content(sample, checkpoint_of(tmp_path / "fresh"), fault_lost=loss)


def check_conversion(sample: str, target: str, checkpoint: Path) -> None:
    """What a migration of a sample to a target wrote."""
    before, result = source(sample), torch_side.read(checkpoint)
    layout = "sharded-rerun" if target == "universal" else target
    scenario = INDEX[sample]["scenario"]
    check_tensors(before, result)
    check_common(before, result)
    has_plans = INDEX[sample]["release"] not in expected.NO_PLANS
    torch_side.consistent(result, has_plans=has_plans)
    check_marker(checkpoint, layout)
    state = "disabled" if scenario == "disabled" else "idle"
    keeps = scenario == "fault" and moves_exactly(sample, target)
    if keeps and layout in expected.KEEPS_FAULTS:
        entry, grid = expected.FAULT
        check_entry(result, entry)
        check_grid(sample, result, grid, layout)
        check_fault_is_the_same(before, result)
    elif keeps:
        # The same (PP, TP) layout: carried through as it was.
        check_same_rerun(before, result)
    else:
        entry, grid = expected.STATES[layout, state]
        check_entry(result, entry)
        check_grid(sample, result, grid, layout)
        check_idle(sample, result, layout, disabled=state == "disabled")


def check_in_place(sample: str, target: str, root: Path, other: Path) -> None:
    """In place a migration writes the same small files, and `undo` takes back every byte.

    Args:
        root: a copy of the sample, to be migrated.
        other: the checkpoint that the same migration wrote elsewhere.
    """
    checkpoint = checkpoint_of(root)
    [plan] = ckptmigrate.migrate(root, to=target, in_place=True, allow_loss=["fault-context"])
    for name in (".metadata", "common.pt", "metadata.json"):
        assert (checkpoint / name).exists() == (other / name).exists()
        if (other / name).exists():
            assert (checkpoint / name).read_bytes() == (other / name).read_bytes()
    # The very command that the migration names as its undo.
    assert plan.undo == f"ckptmigrate undo {checkpoint}"
    if not plan.changes_nothing:
        ckptmigrate.undo(checkpoint)
    assert tree_hash(root) == tree_hash(SAMPLES / sample)


def check_the_same_content(sample: str, checkpoint: Path, *, fault_lost: bool) -> None:
    """A conversion back that started from the converted files alone has all that was kept."""
    before, after = source(sample), torch_side.read(checkpoint)
    assert before.tensors.keys() == after.tensors.keys()
    if fault_lost and INDEX[sample]["layout"] == "none-emitting":
        # Idle now, and idle is written as nothing.
        assert after.rerun_keys == set()
        return
    assert before.blobs.keys() == after.blobs.keys()
    assert key_sets(before) == key_sets(after)
    common = [torch_side.plain(c.common) for c in (before, after)]
    if fault_lost:
        for each in common:
            each.get("rerun_state_machine", {}).pop("state", None)
    assert common[0] == common[1]
    for key in before.rerun_keys if not fault_lost else ():
        [old], [new] = before.object(key), after.object(key)
        assert old.keys() == new.keys()
        dropped = {"data_iterator_checkpoints"}  # (PP, TP) layouts only, idle: no content
        for field in old.keys() - dropped:
            assert torch_side.plain(old[field]) == torch_side.plain(new[field]), field


def key_sets(contents: torch_side.Contents) -> object:
    """Every table's keys; plan items with their rank and how often."""
    metadata, plans = contents.metadata, contents.plan_keys()
    return (
        set(metadata.state_dict_metadata),
        {index.fqn for index in metadata.storage_data},
        None if plans is None else [sorted(keys) for keys in plans],
        set(metadata.planner_data or ()),
        type(metadata).__name__,
    )


def check_tensors(before: torch_side.Contents, after: torch_side.Contents) -> None:
    """Every tensor and every sharded object but the rerun state and the common state."""
    assert before.tensors.keys() == after.tensors.keys()
    for key, tensor in before.tensors.items():
        assert torch_side.same_bits(tensor, after.tensors[key]), key
    kept = before.blobs.keys() - before.rerun_keys - {expected.COMMON_KEY}
    assert kept == after.blobs.keys() - after.rerun_keys - {expected.COMMON_KEY}
    for key in kept:
        assert before.blobs[key] == after.blobs[key], key


def check_common(before: torch_side.Contents, after: torch_side.Contents) -> None:
    """The common state but its rerun entry is the same."""
    one, two = (
        {k: torch_side.plain(v) for k, v in c.common.items() if k != "rerun_state_machine"}
        for c in (before, after)
    )
    assert one == two


def check_marker(checkpoint: Path, layout: str) -> None:
    marker = json.loads((checkpoint / "metadata.json").read_bytes())
    in_entry = layout == "common-state"
    assert marker == (MARKER_NEW if in_entry else MARKER_OLD)
    assert (checkpoint / "common.pt").exists() != in_entry


def check_entry(after: torch_side.Contents, fields: set[str] | None) -> None:
    entry = after.common.get("rerun_state_machine")
    assert (None if entry is None else set(entry)) == fields


def check_grid(sample: str, after: torch_side.Contents, grid: str | None, layout: str) -> None:
    pp_tp, world = expected.GRIDS[sample.rsplit("-", 1)[1]]
    wanted = {None: {}, "pp_tp": pp_tp, "world": world}[grid]
    assert after.rerun_keys == set(wanted)
    assert (expected.COMMON_KEY in after.blobs) == (layout == "common-state")
    plans = after.plan_keys()
    if plans is not None:
        placed = [
            (key, rank)
            for rank, keys in enumerate(plans)
            for key in keys
            if key.startswith("rerun_state_machine_state/")
        ]
        assert sorted(placed) == sorted(wanted.items())
        if layout == "common-state":
            assert [expected.COMMON_KEY in keys for keys in plans] == [
                rank == 0 for rank in range(len(plans))
            ]
    for key in wanted:
        [payload] = after.object(key)
        assert set(payload) == expected.PAYLOAD[layout]


def check_idle(sample: str, after: torch_side.Contents, layout: str, *, disabled: bool) -> None:
    mode = torch_side.RerunMode.DISABLED if disabled else torch_side.RerunMode.VALIDATE_RESULTS
    idle = torch_side.RerunState.NOT_RUNNING_YET
    entry = after.common.get("rerun_state_machine", {})
    if "mode" in entry:
        assert entry["mode"] is mode
    if "state" in entry:
        assert (entry["state"], entry["current_iteration"]) == (idle, 5)
    for key in after.rerun_keys:
        [payload] = after.object(key)
        if "state" in payload:
            assert (payload["state"], payload["current_iteration"]) == (idle, 5)
        if "mode" in payload:
            assert payload["mode"] is mode
        found = torch_side.plain(payload)
        for field, value in expected.IDLE_VALUES.items():
            if field in payload:
                assert found[field] == value, field
        # An idle (PP, TP) payload keeps the iterator state that its source had.
        assert payload["data_iterator_checkpoints"] in (
            None,
            [{"saved_microbatches": [], "replaying": False, "replay_pos": 0}],
        )
        if layout in expected.KEEPS_FAULTS:
            assert payload["data_iterator_checkpoints"] is None


def check_fault_is_the_same(before: torch_side.Contents, after: torch_side.Contents) -> None:
    """Entry and payload of every rank, and at least one rank with a failed call."""
    old, new = (torch_side.plain(c.common["rerun_state_machine"]) for c in (before, after))
    assert old == new
    assert new["state"] == ("RerunState", 3)
    check_same_rerun(before, after)
    calls = [after.object(key)[0]["failed_validation_call"] for key in sorted(after.rerun_keys)]
    assert [call is not None for call in calls] == [False] * (len(calls) - 1) + [True]


def check_same_rerun(before: torch_side.Contents, after: torch_side.Contents) -> None:
    assert before.rerun_keys == after.rerun_keys
    for key in before.rerun_keys:
        assert before.blobs[key] == after.blobs[key]


@pytest.mark.parametrize("target", [*LAYOUTS, "universal"])
def test_corrupt_is_refused(target: str, tmp_path: Path) -> None:
    with pytest.raises(ckptmigrate.CorruptError) as refusal:
        ckptmigrate.migrate(SAMPLES / CORRUPT, to=target, output=tmp_path / "out")
    assert refusal.value.missing == (
        "rerun_state_machine_state/shard_0_2",
        "rerun_state_machine_state/shard_1_2",
    )
    assert not (tmp_path / "out").exists()


def test_the_idle_iteration_beside_the_corrupt_one_migrates(tmp_path: Path) -> None:
    ckptmigrate.migrate(
        SAMPLES / CORRUPT, to="always-sentinel", iteration=4, output=tmp_path / "out"
    )
    result: Any = torch_side.read(tmp_path / "out" / "iter_0000004")
    assert result.common["rerun_state_machine"]["current_iteration"] == 4
