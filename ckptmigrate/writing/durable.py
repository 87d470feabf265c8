"""Write so that a power cut takes nothing back: new files, directories, removal."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from ckptmigrate.access import opener
from ckptmigrate.access.storage import DEEPEST


def write(path: Path, content: bytes, like: Path | None = None) -> None:
    """A new file, never through a link, on disk when this returns; its name is not yet.

    Args:
        path: its name, which must not exist.
        content: its bytes.
        like: a file whose owner and permissions it gets (see `adopt`); without one it is for no
            more people than its directory.
    """
    mode = path.parent.stat().st_mode & 0o666 if like is None else 0o600
    with opener.create(path, mode) as file:
        if like is not None:
            adopt(file.fileno(), like.stat())
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def new_of(path: Path) -> Path:
    """Where `overwrite` builds the new content of a file; a run that is cut short leaves it."""
    return path.with_name(f".{path.name}.ckptmigrate-new")


def overwrite(path: Path, content: bytes) -> None:
    """New bytes for a file, or a new file: a reader finds the old bytes or the new."""
    fresh = new_of(path)
    remove(fresh)
    write(fresh, content, like=path if path.exists() else None)
    os.rename(fresh, path)
    sync_directory(path.parent)


def adopt(handle: int, model: os.stat_result) -> None:
    """Give something new the owner, the group and the permissions of a model, as far as is allowed.

    Never setuid, setgid or sticky: they would hold for another owner. Where the group is another
    one, group and others get what both of them had, so nobody is let in whom the model keeps out.
    A directory stays open to its owner, and keeps a setgid bit that the system gave it.

    Args:
        handle: of the open file or directory.
        model: what it is a copy of.
    """
    now = os.fstat(handle)
    if (model.st_uid, model.st_gid) != (now.st_uid, now.st_gid):
        for user in (model.st_uid, -1):  # its own group is what a user may give without being root
            with contextlib.suppress(OSError):
                os.fchown(handle, user, model.st_gid)
                break
        now = os.fstat(handle)
    mode = model.st_mode & 0o777
    if now.st_gid != model.st_gid:
        both = mode >> 3 & mode & 0o7
        mode = mode & 0o700 | both << 3 | both
    if stat.S_ISDIR(now.st_mode):
        mode = (mode | 0o700) & now.st_mode | now.st_mode & stat.S_ISGID
    os.fchmod(handle, mode)


def make_directory(path: Path, *like: Path) -> None:
    """Make a directory for no more people than any of some others, nor than the umask allows.

    Raises:
        OSError: it exists, or cannot be made.
    """
    mode = 0o777
    for each in like:
        mode &= 0o700 | each.stat().st_mode
    os.mkdir(path, mode)


def adopt_directory(path: Path, like: Path) -> None:
    """The same as `adopt` for a directory; call it when nothing more is written into it.

    Whoever owns a directory can put links into it, and root would write through them.
    """
    handle = opener.directory(path)
    try:
        adopt(handle, like.stat())
    finally:
        os.close(handle)


def sync_directory(path: Path) -> None:
    """Put the names in a directory on disk."""
    try:
        handle = opener.directory(path)
    except PermissionError:
        # It may be written and not read. What a crash could then lose is a name, never a file.
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system without it
            raise
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file, a link or a directory with all in it; nothing where there is nothing.

    Raises:
        OSError: part of it is left.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    raised: list[str] = []
    _empty(path, path, raised)
    while raised:
        folder = Path(raised.pop())
        _empty(folder, path, raised)
        folder.rmdir()
    path.rmdir()


def _empty(folder: Path, top: Path, raised: list[str], depth: int = 0) -> None:
    """Remove what is in a directory; what is too deep for that is raised to the top, to be next."""
    with os.scandir(folder) as found:
        inside = [*found]
    for item in inside:
        if not item.is_dir(follow_symlinks=False):
            os.unlink(item.path)
        elif depth < DEEPEST:
            _empty(Path(item.path), top, raised, depth + 1)
            os.rmdir(item.path)
        else:
            raised.append(str(top / f".{item.inode()}"))
            os.rename(item.path, raised[-1])
