"""A link is followed only where a checkpoint has a file of its name; the plan names the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run, checkpoint_of

Copy = Callable[[str], Path]
NOTE = "links are kept and not followed: "


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A directory with files that a link may lead to."""
    folder = tmp_path / "elsewhere"
    (folder / "blobs").mkdir(parents=True)
    for name in ("notes.txt", "id_rsa", "shadow", f"blobs/{'0a' * 32}"):
        (folder / name).write_text("secret")
    return folder


@pytest.mark.parametrize("name", ["notes.txt", "id_rsa", "shadow", "sub/notes.txt"])
@pytest.mark.parametrize("relative", [False, True])
def test_a_link_of_the_same_name_stays_a_link(
    run: Run, copy: Copy, tmp_path: Path, secret: Path, name: str, relative: bool
) -> None:
    root = copy("0.17.1-idle-w1")
    link = checkpoint_of(root) / name
    link.parent.mkdir(exist_ok=True)
    target = secret / link.name
    link.symlink_to(os.path.relpath(target, link.parent) if relative else target)
    words = ("downgrade", root, "--to", "pre-rerun", "-o", tmp_path / "out")
    assert f"note: {NOTE}{name}\n" in run(*words, "--dry-run").stdout
    assert f"note: {NOTE}{name}\n" in run(*words).stdout
    carried = checkpoint_of(tmp_path / "out") / name
    assert carried.is_symlink()
    assert carried.samefile(target)


def test_a_link_to_a_digest_stays_a_link(
    run: Run, copy: Copy, tmp_path: Path, secret: Path
) -> None:
    root = copy("0.17.1-idle-w1")
    link = checkpoint_of(root) / "README.md"
    link.symlink_to(secret / "blobs" / ("0a" * 32))
    done = run("downgrade", root, "--to", "pre-rerun", "-o", tmp_path / "out")
    assert NOTE + "README.md" in done.stdout
    assert (checkpoint_of(tmp_path / "out") / "README.md").is_symlink()


@pytest.mark.parametrize("name", ["__0_0.distcp", "common.pt", ".metadata", "metadata.json"])
def test_a_link_of_a_name_that_a_checkpoint_has_is_followed(
    run: Run, copy: Copy, tmp_path: Path, name: str
) -> None:
    root = copy("0.17.1-idle-w1")
    kept = tmp_path / "elsewhere" / name
    kept.parent.mkdir()
    path = checkpoint_of(root) / name
    path.rename(kept)
    path.symlink_to(kept)
    done = run("downgrade", root, "--to", "sharded-rerun", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert NOTE not in done.stdout
    assert not (checkpoint_of(tmp_path / "out") / name).is_symlink()


def test_a_link_inside_is_followed_and_many_are_counted(
    run: Run, copy: Copy, tmp_path: Path, secret: Path
) -> None:
    root = copy("0.17.1-idle-w1")
    (checkpoint_of(root) / "a.txt").write_text("a")
    (checkpoint_of(root) / "b.txt").symlink_to("a.txt")
    for number in range(9):
        (checkpoint_of(root) / f"link{number}").symlink_to(secret / "shadow")
    done = run("downgrade", root, "--to", "pre-rerun", "-o", tmp_path / "out")
    assert f"{NOTE}link0, link1, link2, link3 and 5 more" in done.stdout
    assert (checkpoint_of(tmp_path / "out") / "b.txt").read_text() == "a"
