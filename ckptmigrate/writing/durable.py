"""Write so that a power cut takes nothing back: new files, directories, removal."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from ckptmigrate.access import opener


def write(path: Path, content: bytes, like: Path | None = None) -> None:
    """A new file, never through a link, on disk when this returns; its name is not yet.

    Args:
        path: its name, which must not exist.
        content: its bytes.
        like: a file whose permissions it gets, and owner where that is allowed.
    """
    with opener.create(path) as file:
        if like is not None:
            _adopt(file.fileno(), like)
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


def _adopt(handle: int, like: Path) -> None:
    model, now = like.stat(), os.fstat(handle)
    if (model.st_uid, model.st_gid) != (now.st_uid, now.st_gid):
        with contextlib.suppress(PermissionError):
            os.fchown(handle, model.st_uid, model.st_gid)
    os.fchmod(handle, stat.S_IMODE(model.st_mode))


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
    with os.scandir(path) as found:
        inside = [Path(item.path) for item in found]
    for item in inside:
        remove(item)
    path.rmdir()
