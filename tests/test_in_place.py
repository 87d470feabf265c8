"""Interrupted in-place migrations as a user meets them; tests/faults has every system call."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CLI, SAMPLES, Run, checkpoint_of, refused, tree_hash

from ckptmigrate import DestinationError, migrate
from ckptmigrate.checkpoint import migration_state
from ckptmigrate.writing import lock

SAMPLE = "0.19.0-idle-tp2"  # .metadata, common.pt and metadata.json all change
# The files that a migration of it puts in place with a rename or a link: 4 new files, 2 originals,
# 2 copies of old files, the journal, and the swap.
PUT = 13
SWAP = 10  # the first file of the swap


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(SAMPLES / SAMPLE, tmp_path / "run")
    return tmp_path / "run"


def finished(root: Path, tmp_path: Path) -> str:
    """The tree hash of what an undisturbed run leads to, but for the time in the sidecar."""
    shutil.copytree(root, tmp_path / "undisturbed")
    migrate(tmp_path / "undisturbed", to="pre-rerun", in_place=True)
    return small_files(tmp_path / "undisturbed")


def small_files(root: Path) -> str:
    names = (".metadata", "common.pt", "metadata.json")
    paths = [checkpoint_of(root) / name for name in names]
    return repr([path.read_bytes() if path.exists() else None for path in paths])


def test_an_error_on_the_way_back_loses_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    before = tree_hash(root)
    calls: list[object] = []

    def failing(real: Callable[..., None]) -> Callable[..., None]:
        def put(*names: object, **options: object) -> None:
            calls.append(names)
            if len(calls) > SWAP:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(*names, **options)

        return put

    for name in ("rename", "link"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    with pytest.raises(DestinationError, match=r"could not be rolled back.*ckptmigrate recover"):
        migrate(root, to="pre-rerun", in_place=True)
    monkeypatch.undo()
    for verb in (["inspect"], ["upgrade", "--in-place", "--dry-run"], ["diff", str(root)]):
        refused(run(verb[0], root, *verb[1:]), "was interrupted", "ckptmigrate recover")
    result = run("recover", root)
    assert result.returncode == 0, result.stderr
    assert "rolled back" in result.stdout
    assert tree_hash(root) == before


_KILLED = """
import os, sys
calls = []
def dying(real):
    def put(*names, **options):
        calls.append(names)
        if len(calls) == int(sys.argv[2]):
            os.kill(os.getpid(), 9)
        real(*names, **options)
    return put
os.rename, os.link = dying(os.rename), dying(os.link)
import ckptmigrate
ckptmigrate.migrate(sys.argv[1], to="pre-rerun", in_place=True)
"""


def killed_at(nth: int, root: Path) -> int:
    """Return the exit status of a migration that is killed at the n-th file, if there is one."""
    return CLI.run([str(root), str(nth)], code=_KILLED).returncode


def test_there_are_no_more_files(root: Path, tmp_path: Path) -> None:
    done = finished(root, tmp_path)
    assert killed_at(PUT + 1, root) == 0
    assert small_files(root) == done


@pytest.mark.parametrize("nth", range(1, PUT + 1))
def test_killed_at_any_file(nth: int, root: Path, run: Run) -> None:
    before = tree_hash(root)
    assert killed_at(nth, root) == -9
    # Until it is recovered no reader takes it for a checkpoint, unless nothing was moved yet.
    assert (checkpoint_of(root) / "metadata.json").exists() == (nth < SWAP)
    refused(run("inspect", root), "was interrupted")
    refused(run("inspect", checkpoint_of(root)), "was interrupted", "ckptmigrate recover")
    assert run("recover", root).returncode == 0
    assert tree_hash(root) == before
    assert run("recover", root).stdout.endswith("nothing to recover\n")


def test_killed_after_the_commit(root: Path, tmp_path: Path, run: Run) -> None:
    done = finished(root, tmp_path)
    code = """
import os, sys
from ckptmigrate import migrate
from ckptmigrate.writing import swap
swap._clean = lambda *_: os.kill(os.getpid(), 9)
migrate(sys.argv[1], to="pre-rerun", in_place=True)
"""
    assert CLI.run([str(root)], code=code).returncode == -9
    result = run("recover", root)
    assert "was complete" in result.stdout
    assert small_files(root) == done
    assert run("inspect", root).returncode == 0


def test_a_second_migration_meanwhile_is_refused(root: Path, run: Run) -> None:
    """The first one is this very process; its stage is not swept away under its feet."""
    checkpoint = checkpoint_of(root)
    (checkpoint / ".ckptmigrate").mkdir()
    with lock.held(migration_state.lock_of(checkpoint), checkpoint):
        for staged in (False, True):
            if staged:
                migration_state.stage_of(checkpoint).mkdir()
            before = tree_hash(root)
            for verb in (["downgrade", root, "--to", "pre-rerun", "--in-place"], ["recover", root]):
                told = f"pid {os.getpid()}"
                refused(run(*verb), "is locked by", told, socket.gethostname())
            assert tree_hash(root) == before


def test_terminated_while_swap(root: Path) -> None:
    before = tree_hash(root)
    code = (
        _KILLED.replace("os.getpid(), 9", "os.getpid(), 15")
        .replace(
            'import ckptmigrate\nckptmigrate.migrate(sys.argv[1], to="pre-rerun", in_place=True)',
            "from ckptmigrate.cli import main\n"
            'sys.argv = ["x", "downgrade", sys.argv[1], "--to", "pre-rerun", "--in-place"]\nmain()',
        )
        .replace("int(sys.argv[2])", str(SWAP))
    )
    assert CLI.run([str(root)], code=code).returncode == 128 + 15
    assert tree_hash(root) == before


def test_several_in_place_and_one_fails(root: Path, run: Run) -> None:
    """The others are rewritten, and the last line printed undoes that."""
    second = root / "iter_0000006"
    shutil.copytree(checkpoint_of(root), second)
    before, untouched = tree_hash(root), tree_hash(checkpoint_of(root))
    code = """
import sys
from ckptmigrate import errors
from ckptmigrate.writing import swap
from ckptmigrate.cli import main
real = swap.rewrite
def failing(plan, **options):
    if plan.path.name == "iter_0000005":
        raise errors.DestinationError("cannot be written", path=plan.path)
    real(plan, **options)
swap.rewrite = failing
main()
"""
    words = ["downgrade", str(root), "--to", "pre-rerun", "--in-place", "--all"]
    result = CLI.run(words, code=code)
    refused(result, "1 of 2 checkpoints failed", "iter_0000005")
    assert tree_hash(checkpoint_of(root)) == untouched
    assert (second / "ckptmigrate.json").exists()
    undo = result.stdout.splitlines()[-1].removeprefix("to undo: ckptmigrate ").split()
    assert run(*undo).returncode == 0
    assert tree_hash(root) == before
