"""Directories that nest deeper than Python calls itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Run, checkpoint_of, refused

from ckptmigrate.storage.limits import DEEPEST
from ckptmigrate.writing import durable

Copy = Callable[[str], Path]
DEEP = 1_500


def nest(folder: Path, levels: int, name: str = "d") -> None:
    """Make directories in each other, with a file in the last; their path may be too long."""
    handle = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=handle)
        inner = os.open(name, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
    os.close(handle)


@pytest.fixture(autouse=True)
def nothing_deep_is_left(tmp_path: Path) -> Iterator[None]:
    """What pytest would remove by calling itself."""
    yield
    subprocess.run(["rm", "-rf", *tmp_path.iterdir()], check=True)


def test_a_deep_checkpoint_is_refused_and_leaves_nothing(
    run: Run, copy: Copy, tmp_path: Path
) -> None:
    root = copy("0.17.1-idle-w1")
    nest(checkpoint_of(root), DEEP)
    result = run("downgrade", root, "--to", "pre-rerun", "-o", tmp_path / "out")
    refused(
        result,
        f"more than {DEEPEST} nested directories",
        f"`mv {checkpoint_of(root) / 'd'} {root}`",
    )
    assert [path.name for path in tmp_path.iterdir()] == [root.name]
    for verb in ("inspect", "verify", "check"):
        assert "internal" not in run(verb, root).stderr
    assert run("downgrade", root, "--to", "pre-rerun", "--in-place").returncode == 0


def test_what_is_not_too_deep_is_carried_over(run: Run, copy: Copy, tmp_path: Path) -> None:
    root = copy("0.17.1-idle-w1")
    nest(checkpoint_of(root), DEEPEST)
    done = run("downgrade", root, "--to", "pre-rerun", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (checkpoint_of(tmp_path / "out") / ("d/" * DEEPEST) / "file").is_file()


def test_recover_removes_a_deep_stage(run: Run, copy: Copy) -> None:
    root = copy("0.17.1-idle-w1")
    stage = checkpoint_of(root) / ".ckptmigrate" / "stage"
    stage.mkdir(parents=True)
    nest(stage, DEEP, "a long name of a directory")
    result = run("recover", checkpoint_of(root))
    assert result.returncode == 0, result.stderr
    assert not stage.parent.exists()


def test_recover_removes_a_deep_stage_beside(run: Run, tmp_path: Path) -> None:
    stage = tmp_path / ".out.ckptmigrate-stage"
    stage.mkdir()
    nest(stage, DEEP)
    (tmp_path / ".out.ckptmigrate-lock").symlink_to("{}")
    result = run("recover", tmp_path / "out", "--break-lock")
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("levels", [0, 1, DEEPEST - 1, DEEPEST, DEEPEST + 1, 3 * DEEPEST + 5])
def test_any_depth_is_removed(tmp_path: Path, levels: int) -> None:
    top = tmp_path / "top"
    top.mkdir()
    for name in ("a", "b" * 200):
        (top / name).mkdir()
        nest(top / name, levels)
    (top / "link").symlink_to(tmp_path)
    durable.remove(top)
    assert list(tmp_path.iterdir()) == []


def test_a_pattern_is_matched_in_deep_directories(run: Run, copy: Copy, tmp_path: Path) -> None:
    root = copy("0.17.1-idle-w1")
    nest(tmp_path, DEEP)
    done = run("inspect", str(tmp_path / "**" / "iter_*"))
    assert done.returncode == 0, done.stderr
    assert str(checkpoint_of(root)) in done.stdout
