"""Durable file operations: new files, directories and removals that survive a power failure."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ckptmigrate.checkpoint import sidecar
from ckptmigrate.errors import DestinationError
from ckptmigrate.places import Place
from ckptmigrate.planning.change import Change
from ckptmigrate.storage import local_files
from ckptmigrate.storage.limits import DEEPEST
from ckptmigrate.text.commands import command
from ckptmigrate.text.sizes import size


def write(path: Path, content: bytes, like: Path | None = None) -> None:
    """Create a file and sync its content; do not follow links, and do not sync its directory.

    Args:
        path: the path, which must not exist.
        content: the bytes to write.
        like: a file to copy the owner and permissions from (see `adopt`). Without it, the new file
            grants no more read or write access than its directory.
    """
    write_pieces(path, (content,), like)


def write_pieces(path: Path, pieces: Iterable[bytes], like: Path | None = None) -> None:
    """Do what `write` does, with bytes that need not fit into memory."""
    mode = path.parent.stat().st_mode & 0o666 if like is None else 0o600
    with local_files.create(path, mode) as file:
        if like is not None:
            adopt(file.fileno(), like.stat())
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


class NoSpaceError(OSError):
    """Error for files that are larger than the free space."""

    def __init__(self, needed: int, free: int, path: Path) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self.detail = f"{size(needed)} are needed, and {size(free)} are free"


def require_space(needed: int, target: Path) -> None:
    """Raise before the first write if a file does not fit; a sparse file may have any size.

    Args:
        needed: in bytes.

    Raises:
        NoSpaceError: less space is free.
    """
    there = os.statvfs(target.parent)
    free = there.f_bavail * there.f_frsize
    if needed > free and there.f_blocks:  # some file systems report no blocks at all
        raise NoSpaceError(needed, free, target)


def model_of(change: Change, name: str) -> Path | None:
    """Return the file whose owner and permissions a new file gets, or None.

    It is the file that the new one replaces, else its newest original, else a file of `marks`.
    """
    if not isinstance(change.path, Path):
        return None
    kept = [change.path / sidecar.folder(step) / name for step in range(change.kept_steps, -1, -1)]
    others = [change.path / mark for mark in change.marks]
    return next((p for p in (change.path / name, *kept, *others) if p.is_file()), None)


def new_of(path: Path) -> Path:
    """Return the temporary file of `overwrite`, which an interrupted run leaves behind."""
    return path.with_name(f".{path.name}.ckptmigrate-new")


def overwrite(path: Path, content: bytes) -> None:
    """Replace a file atomically, or create it."""
    fresh = new_of(path)
    remove(fresh)
    write(fresh, content, like=path if path.exists() else None)
    os.rename(fresh, path)
    sync_directory(path.parent)


def adopt(handle: int, model: os.stat_result) -> None:
    """Copy the owner, group and permissions of a model, as far as the system allows it.

    Never copies setuid, setgid or sticky bits: the owner may differ. If the group differs, group
    and others both get the permissions that both had, so nobody gains access. A directory stays
    accessible to its owner and keeps a setgid bit that the system set.

    Args:
        handle: the file descriptor of the new file or directory.
        model: the status of the file or directory to copy from.
    """
    now = os.fstat(handle)
    if (model.st_uid, model.st_gid) != (now.st_uid, now.st_gid):
        for user in (model.st_uid, -1):  # without root, a user can only set one of their groups
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
    """Create a directory that grants group and others no more than any of `like` or the umask.

    Raises:
        OSError: it exists, or cannot be created.
    """
    mode = 0o777
    for each in like:
        mode &= 0o700 | each.stat().st_mode
    os.mkdir(path, mode)


def adopt_directory(path: Path, like: Path) -> None:
    """Do what `adopt` does, for a directory; call it after the last write into the directory.

    The new owner can create links in the directory, and a process of root would write through them.
    """
    handle = local_files.directory(path)
    try:
        adopt(handle, like.stat())
    finally:
        os.close(handle)


def sync_directory(path: Path) -> None:
    """Sync the entries of a directory to disk."""
    try:
        handle = local_files.directory(path)
    except PermissionError:
        # The directory is writable but not readable. A crash may lose a name, but no content.
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not supported by the file system
            raise
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file, a link or a directory tree; do nothing if it does not exist.

    Raises:
        OSError: it could not be removed completely.
    """
    if not os.path.lexists(path):
        return
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
    """Remove the contents of a directory; move directories that are too deep to `top`."""
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


_DISK: Final = "free disk space, or use another destination with -o DEST"
_PLACE: Final = "use a writable destination with -o DEST"
_REASONS: Final = {
    errno.ENOSPC: ("the disk is full", _DISK),
    errno.EDQUOT: ("the disk quota is used up", _DISK),
    errno.EFBIG: ("the file is larger than the file system or the shell (ulimit -f) allows", _DISK),
    errno.EXDEV: ("its directories are on different file systems or project quotas", _PLACE),
    errno.EACCES: ("no permission to write", _PLACE),
    errno.EPERM: ("no permission to write", _PLACE),
    errno.EROFS: ("the file system is read-only", _PLACE),
}


def unwritable(
    path: Path, error: OSError, *, left: bool, kept: str | None = None
) -> DestinationError:
    """Return the error for a place that cannot be written.

    Args:
        left: whether files remain that could not be rolled back.
        kept: which finished data files remain for the next run, or None.
    """
    what, fix = _REASONS.get(error.errno or 0, (error.strerror or str(error), None))
    if isinstance(error, NoSpaceError):
        what += f" ({error.detail})"
    done = "nothing was changed"
    if left:
        done = "the unfinished work could not be rolled back"
        fix = f"when it is writable again, run `{command('recover', path)}`"
    elif kept is not None:
        done = f"{kept} are finished and kept"
        fix = "; ".join(filter(None, (fix, continued(path))))
    return DestinationError(f"cannot be written: {what}; {done}", path=path, fix=fix)


def continued(about: Place) -> str:
    """Return how to continue with the finished data files of a destination, or to remove them."""
    return f"to continue, run the command again; to remove them, run `{command('recover', about)}`"
