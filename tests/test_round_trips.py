"""What the sidecar is worth after other changes, and over chains of migrations.

The way back of each single migration is in test_conversions.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import SAMPLES, checkpoint_of, tree_hash

import ckptmigrate


def there(sample: str, target: str, output: Path) -> None:
    ckptmigrate.migrate(SAMPLES / sample, to=target, output=output, allow_loss=["fault-context"])


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
    assert any("the original files in .ckptmigrate/ are not used" in note for note in plan.notes), (
        plan.notes
    )
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
