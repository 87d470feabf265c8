"""There and back: byte for byte with the sidecar, equal but for what was dropped without."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch_side
from conftest import HEALTHY, INDEX, LAYOUTS, SAMPLES, checkpoint_of, tree_hash
from test_conversions import moves_exactly, source

import ckptmigrate

PAIRS = [(sample, target) for sample in HEALTHY for target in [*LAYOUTS, "universal"]]


def there(sample: str, target: str, output: Path) -> None:
    ckptmigrate.migrate(SAMPLES / sample, to=target, output=output, allow_loss=["fault-context"])


@pytest.mark.parametrize(("sample", "target"), PAIRS)
def test_back_is_byte_equal(sample: str, target: str, tmp_path: Path) -> None:
    there(sample, target, tmp_path / "there")
    ckptmigrate.migrate(tmp_path / "there", to=INDEX[sample]["layout"], output=tmp_path / "back")
    # Not only the small files: the whole root, name by name, with no sidecar left over.
    assert tree_hash(tmp_path / "back") == tree_hash(SAMPLES / sample)


@pytest.mark.parametrize(("sample", "target"), PAIRS)
def test_in_place_and_undone_is_byte_equal(sample: str, target: str, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(SAMPLES / sample, root)
    [plan] = ckptmigrate.migrate(root, to=target, in_place=True, allow_loss=["fault-context"])
    out = tmp_path / "out"
    there(sample, target, out)
    for name in (".metadata", "common.pt", "metadata.json"):
        here, other = checkpoint_of(root) / name, checkpoint_of(out) / name
        assert here.exists() == other.exists()
        assert not here.exists() or here.read_bytes() == other.read_bytes()
    # The very command that the migration names as its undo.
    assert plan.undo == f"ckptmigrate undo {checkpoint_of(root)}"
    if not plan.changes_nothing:
        ckptmigrate.undo(checkpoint_of(root))
    assert tree_hash(root) == tree_hash(SAMPLES / sample)


@pytest.mark.parametrize(("sample", "target"), PAIRS)
def test_back_without_sidecar(sample: str, target: str, tmp_path: Path) -> None:
    there(sample, target, tmp_path / "there")
    middle = checkpoint_of(tmp_path / "there")
    (middle / "ckptmigrate.json").unlink(missing_ok=True)
    shutil.rmtree(middle / ".ckptmigrate", ignore_errors=True)
    layout = INDEX[sample]["layout"]
    ckptmigrate.migrate(tmp_path / "there", to=layout, output=tmp_path / "back")
    before, after = source(sample), torch_side.read(checkpoint_of(tmp_path / "back"))
    assert before.tensors.keys() == after.tensors.keys()
    fault_lost = INDEX[sample]["scenario"] == "fault" and not moves_exactly(sample, target)
    if fault_lost and layout == "none-emitting":
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


@pytest.mark.parametrize("name", [".metadata", "common.pt", "metadata.json", "__0_1.distcp"])
def test_a_changed_file_disables_the_originals(name: str, tmp_path: Path) -> None:
    """Somebody saved or edited since: the originals are history, the conversion is fresh."""
    there("0.12.3-idle-w1", "always-sentinel", tmp_path / "there")
    middle = checkpoint_of(tmp_path / "there")
    changed = middle / (name if name != "__0_1.distcp" else added_payload(middle))
    content = changed.read_bytes()
    if name == "metadata.json":
        changed.write_bytes(content + b"\n")
    elif name == "common.pt":
        other = checkpoint_of(SAMPLES / "0.18.2-idle-w1") / "common.pt"
        changed.write_bytes(other.read_bytes())
    elif name == ".metadata":
        ckptmigrate.migrate(middle, to="none-emitting", output=tmp_path / "other")
        changed.write_bytes((tmp_path / "other/iter_0000005/.metadata").read_bytes())
        (middle / "common.pt").write_bytes((tmp_path / "other/iter_0000005/common.pt").read_bytes())
    else:
        changed.write_bytes(content + b"x")
    plan = ckptmigrate.plan(tmp_path / "there", to="split-rerun")
    assert any("originals are not used" in note for note in plan.notes), plan.notes
    original = (checkpoint_of(SAMPLES / "0.12.3-idle-w1") / ".metadata").read_bytes()
    assert plan.files.get(".metadata") != original


def added_payload(checkpoint: Path) -> str:
    before = {p.name for p in checkpoint_of(SAMPLES / "0.12.3-idle-w1").iterdir()}
    [name] = [p.name for p in checkpoint.glob("*.distcp") if p.name not in before]
    return name


def test_a_lost_fault_comes_back_on_the_way_up(tmp_path: Path) -> None:
    """Dropped at pre-rerun with leave, there again in any layout that can hold it."""
    there("0.18.2-fault-dp2", "pre-rerun", tmp_path / "old")
    ckptmigrate.migrate(tmp_path / "old", to="common-state", output=tmp_path / "new")
    ckptmigrate.migrate(SAMPLES / "0.18.2-fault-dp2", to="common-state", output=tmp_path / "direct")
    one, two = (checkpoint_of(tmp_path / name) for name in ("new", "direct"))
    for name in (".metadata", "metadata.json", "__0_1.distcp"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_a_chain_of_migrations_ends_where_the_direct_one_does(tmp_path: Path) -> None:
    """No conversion of a conversion: each starts from the original that the sidecar keeps."""
    chain = ["pre-rerun", "split-rerun", "sharded-rerun", "none-emitting", "always-sentinel"]
    at = SAMPLES / "0.19.0-idle-tp2"
    for number, target in enumerate(chain):
        ckptmigrate.migrate(at, to=target, output=tmp_path / str(number))
        at = tmp_path / str(number)
        ckptmigrate.migrate(
            SAMPLES / "0.19.0-idle-tp2", to=target, output=tmp_path / f"direct{number}"
        )
        one, two = checkpoint_of(at), checkpoint_of(tmp_path / f"direct{number}")
        for name in (".metadata", "common.pt", "metadata.json"):
            assert (one / name).read_bytes() == (two / name).read_bytes()
        payloads = sorted(p.name for p in one.glob("*.distcp"))
        assert payloads == sorted(p.name for p in two.glob("*.distcp"))
    ckptmigrate.migrate(at, to="common-state", output=tmp_path / "back")
    assert tree_hash(tmp_path / "back") == tree_hash(SAMPLES / "0.19.0-idle-tp2")
