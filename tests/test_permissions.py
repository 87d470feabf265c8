"""Nobody gets more from a copy than from its source: not by its mode, its owner or the umask.

As root the sources belong to somebody else; as another user they are the user's own.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Run, checkpoint_of

import ckptmigrate
from ckptmigrate.writing import durable, links

Copy = Callable[[str], Path]
SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
USER, GROUP = (12345, 12346) if os.geteuid() == 0 else (os.geteuid(), os.getegid())


def give(root: Path) -> None:
    """Have a tree belong to the user."""
    for path in (root, *root.rglob("*")):
        os.chown(path, USER, GROUP)


def below(root: Path) -> Iterator[Path]:
    yield root
    yield from sorted(root.rglob("*"))


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    before = os.umask(0o022)
    yield lambda mask: os.umask(mask) and None
    os.umask(before)


def with_special_bits(root: Path) -> Path:
    """A checkpoint with every special bit on files and folders, and other attributes."""
    checkpoint = checkpoint_of(root)
    nested = checkpoint / "notes" / "inner"
    nested.mkdir(parents=True)
    for path in (checkpoint / "run_config.yaml", nested / "tool", nested / "large"):
        path.write_bytes(b"x" * (2**20 if path.name == "large" else 10))
    attribute = "security.capability" if os.geteuid() == 0 else "user.note"
    value = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    with contextlib.suppress(OSError):  # a file system without them
        os.setxattr(nested / "tool", attribute, value)
    for path in below(checkpoint):
        path.chmod(0o2755 | stat.S_ISVTX if path.is_dir() else 0o4755)
    nested.chmod(0o7755)
    return checkpoint


@pytest.mark.parametrize("link", ["copy", "reflink", "auto"])
def test_no_special_bit_comes_along(
    run: Run, copy: Copy, tmp_path: Path, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copy("0.17.1-idle-w1")
    checkpoint = with_special_bits(root)
    out = tmp_path / "out"
    if link == "reflink":  # where the file system has none, by the same way as one that has
        monkeypatch.setattr(links.fcntl, "ioctl", clone)
    ckptmigrate.migrate(root, to="pre-rerun", output=out, link=links.Link(link))
    copied = [path for path in below(out) if path.lstat().st_ino not in inodes(checkpoint)]
    assert {"tool", "inner", "run_config.yaml", ".metadata"} <= {path.name for path in copied}
    assert [path for path in copied if path.stat().st_mode & SPECIAL] == []
    assert [path for path in copied if os.listxattr(path)] == []
    assert (checkpoint_of(out) / "notes/inner/tool").stat().st_mode & 0o777 == 0o755
    ckptmigrate.migrate(out, to="sharded-rerun", in_place=True)
    assert [path for path in below(out) if path.stat().st_mode & SPECIAL and path in copied] == []


def clone(new: int, _: int, old: int) -> None:
    os.sendfile(new, old, 0, os.fstat(old).st_size)


def inodes(root: Path) -> set[int]:
    return {path.stat().st_ino for path in below(root)}


def test_a_rewritten_file_in_place_loses_them(copy: Copy) -> None:
    root = copy("0.17.1-idle-w1")
    (checkpoint_of(root) / ".metadata").chmod(0o6755)
    ckptmigrate.migrate(root, to="sharded-rerun", in_place=True)
    assert (checkpoint_of(root) / ".metadata").stat().st_mode & 0o7777 == 0o755


def test_a_setgid_bit_from_the_system_stays(copy: Copy, tmp_path: Path) -> None:
    root = copy("0.17.1-idle-w1")
    (checkpoint_of(root) / "notes").mkdir()
    place = tmp_path / "shared"
    place.mkdir()
    place.chmod(0o2775)
    ckptmigrate.migrate(root, to="pre-rerun", output=place / "out")
    made = [place / "out", checkpoint_of(place / "out"), checkpoint_of(place / "out") / "notes"]
    assert all(path.stat().st_mode & stat.S_ISGID for path in made)


@pytest.mark.parametrize(
    ("mode", "kept", "other"),
    [
        (0o644, 0o644, 0o644),
        (0o640, 0o640, 0o600),
        (0o664, 0o664, 0o644),
        (0o604, 0o604, 0o600),
        (0o660, 0o660, 0o600),
        (0o777, 0o777, 0o777),
        (0o7711, 0o711, 0o711),
        (0o444, 0o444, 0o444),
    ],
)
def test_another_group_gets_what_everybody_had(
    tmp_path: Path, mode: int, kept: int, other: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fchown", refuse)
    path = tmp_path / "file"
    path.touch()
    now = path.stat()
    for group, expected in ((now.st_gid, kept), (now.st_gid + 1, other)):
        model = os.stat_result((stat.S_IFREG | mode, 0, 0, 1, now.st_uid, group, 0, 0, 0, 0))
        with path.open() as file:
            durable.adopt(file.fileno(), model)
        assert path.stat().st_mode & 0o7777 == expected


def refuse(*_: object) -> None:
    raise PermissionError


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("modes", [(0o700, 0o755), (0o755, 0o750), (0o711, 0o711)])
def test_with_umask_0_nothing_is_wider_than_the_source(
    copy: Copy,
    tmp_path: Path,
    umask: Callable[[int], None],
    in_place: bool,
    modes: tuple[int, int],
) -> None:
    root = copy("0.17.1-idle-w1")
    for path, mode in zip((root, checkpoint_of(root)), modes, strict=True):
        path.chmod(mode)
    there = {path.name: path.stat().st_mode for path in below(checkpoint_of(root))}
    umask(0)
    out = root if in_place else tmp_path / "out"
    place = {"in_place": True} if in_place else {"output": out}
    ckptmigrate.migrate(root, to="sharded-rerun", **place)  # type: ignore[arg-type]
    assert out.stat().st_mode & 0o077 <= modes[0] & 0o077
    narrowest = 0o700 | modes[0] & modes[1] if not in_place else modes[1]
    for path in below(out):
        mode = path.stat().st_mode
        if path.is_dir() and path != out:
            assert mode & 0o777 & ~(modes[1] | 0o700) == 0, path
        elif path.name in there:
            assert mode == there[path.name], path
        elif path != out:
            assert mode & 0o022 == 0, path
    assert out.stat().st_mode & 0o777 & ~(narrowest | modes[0]) == 0


def test_an_umask_is_kept_to(copy: Copy, tmp_path: Path, umask: Callable[[int], None]) -> None:
    root = copy("0.17.1-idle-w1")
    (checkpoint_of(root) / "notes").mkdir()
    umask(0o077)
    ckptmigrate.migrate(root, to="pre-rerun", output=tmp_path / "out")
    assert [p for p in below(tmp_path / "out") if p.is_dir() and p.stat().st_mode & 0o077] == []


def test_the_owner_can_undo_what_root_did_in_place(copy: Copy, tmp_path: Path) -> None:
    root = copy("0.17.1-idle-w1")
    give(root)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.geteuid() and not path.stat().st_mode & stat.S_IXOTH:
            path.chmod(0o755)
    checkpoint = checkpoint_of(root)
    ckptmigrate.migrate(root, to="sharded-rerun", in_place=True)
    kept = [path for path in below(checkpoint) if ".ckptmigrate" in str(path)]
    assert len(kept) >= 3
    assert {(p.stat().st_uid, p.stat().st_gid) for p in below(root)} == {(USER, GROUP)}
    child = os.fork()
    if not child:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(GROUP)
                os.setuid(USER)
            ckptmigrate.undo(checkpoint)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not (checkpoint / ".ckptmigrate").exists()


def test_a_copy_belongs_to_the_owner_of_the_source(copy: Copy, tmp_path: Path) -> None:
    root = copy("0.17.1-idle-w1")
    (checkpoint_of(root) / "notes").mkdir()
    give(root)
    ckptmigrate.migrate(root, to="pre-rerun", output=tmp_path / "out", link=links.Link.COPY)
    for path in below(checkpoint_of(tmp_path / "out")):
        assert (path.stat().st_uid, path.stat().st_gid) == (USER, GROUP), path
