"""A process that /proc does not show is not assumed to have ended (hidepid)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import checkpoint_of

import ckptmigrate
from ckptmigrate.checkpoint import lock_owner, migration_state
from ckptmigrate.checkpoint.lock_owner import Holder, this_process
from ckptmigrate.errors import DestinationError
from ckptmigrate.storage import local_files
from ckptmigrate.writing.local_publisher import LocalPublisher

Copy = Callable[[str], Path]
REAL = local_files.read


@pytest.fixture(params=[FileNotFoundError, PermissionError])
def hidden(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc as hidepid=2 or hidepid=1 shows it to another user."""

    def read(path: Path, most: int) -> bytes:
        if path.parts[:2] == ("/", "proc") and path.name == "stat":
            raise request.param
        return REAL(path, most)

    monkeypatch.setattr(local_files, "read", read)


def ended() -> int:
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def of(pid: int) -> lock_owner.Owner:
    return replace(this_process(), pid=pid, ticks=7)


@pytest.fixture
def owners() -> dict[str, lock_owner.Owner]:
    return {"ended": of(ended()), "another user's": of(1), "ours": of(os.getpid())}


def test_who_cannot_be_seen(
    owners: dict[str, lock_owner.Owner], hidden: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lock_owner.holder(owners["ended"]) is Holder.DEAD
    assert lock_owner.holder(owners["ours"]) is Holder.UNKNOWN
    assert lock_owner.holder(owners["another user's"]) is Holder.UNKNOWN

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)  # as root is not refused
    assert lock_owner.holder(owners["another user's"]) is Holder.UNKNOWN


@pytest.mark.parametrize("in_place", [False, True])
def test_recover_leaves_it_alone_and_says_how_to_be_sure(
    copy: Copy, tmp_path: Path, owners: dict[str, lock_owner.Owner], hidden: None, in_place: bool
) -> None:
    root, owner = copy("0.17.1-idle-w1"), owners["another user's"]
    out = checkpoint_of(root) if in_place else tmp_path / "out"
    stage = migration_state.stage_of(out) if in_place else LocalPublisher(out).stage
    (stage / "work").mkdir(parents=True)
    place = migration_state.lock_of(out) if in_place else LocalPublisher(out).lock
    place.symlink_to(json.dumps(asdict(owner)))
    with pytest.raises(DestinationError, match="cannot tell whether") as refused:
        ckptmigrate.recover(out)
    assert f"ps -p {owner.pid}" in str(refused.value)
    assert "--break-lock" in str(refused.value)
    assert (stage / "work").is_dir()
    ckptmigrate.recover(out, break_lock=True)
    assert not stage.exists()
