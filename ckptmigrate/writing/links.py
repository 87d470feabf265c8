"""The transfer of unchanged files into a new directory, by links where possible."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final

from ckptmigrate.checkpoint.manifest import METADATA_FILES
from ckptmigrate.errors import DestinationError, Retry
from ckptmigrate.places import Url
from ckptmigrate.storage import local_files
from ckptmigrate.storage.directories import unreadable, within
from ckptmigrate.storage.limits import DEEPEST, too_deep
from ckptmigrate.storage.link_rules import stays_link
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.commands import shell
from ckptmigrate.writing.durable import (
    adopt,
    adopt_directory,
    make_directory,
    require_space,
    sync_directory,
)


class Link(str, Enum):
    """The ways to bring a data file to the destination.

    reflink: a copy that shares its blocks until one side changes (XFS, Btrfs).
    hardlink: a second name of the same file; a change to one changes both.
    symlink: a link to the source, which must stay where it is.
    copy: a full copy.
    auto: reflink, else hardlink, else copy.
    """

    AUTO = "auto"
    REFLINK = "reflink"
    HARDLINK = "hardlink"
    SYMLINK = "symlink"
    COPY = "copy"


_FICLONE: Final = 0x40049409  # linux/fs.h
_PIECE: Final = 16 * 1024 * 1024  # bytes copied at a time
# Files smaller than this are always copied, except data files: a copy is cheap, and an edit (of
# run_config.yaml) must not change the source. Metadata files are copied whatever their size, so
# that a job that saves again does not change the source either.
_SMALL: Final = 1024 * 1024
_PAYLOAD_SUFFIX: Final = ".distcp"
# Errors of a link that the file system does not support.
CANNOT: Final = {
    errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP,
    errno.EINVAL, errno.ENOTTY, errno.ENOSYS,
}  # fmt: skip


NewFile = Callable[[Path], None]  # writes a new file at a path that does not exist
NO_FILES: Final[Mapping[str, NewFile]] = MappingProxyType({})


class Carrier:
    """Brings the files of a checkpoint to a destination, data files by the cheapest way that works.

    Attributes:
        requested: the requested way.
        used: the way that was used for the last data file.
        progress: is called with each number of bytes of data files that were copied.
    """

    def __init__(self, link: Link, progress: Progress | None = None) -> None:
        self._means: tuple[Link, ...] = _AUTO if link is Link.AUTO else (link,)
        self.requested = link
        self.progress = progress or (lambda _: None)
        self.used = link

    def carry_directory(
        self,
        source: Path,
        target: Path,
        except_for: Collection[str] = (),
        new: Mapping[str, NewFile] = NO_FILES,
        depth: int = 0,
    ) -> None:
        """Bring a directory tree to an existing directory.

        Data files and large files use the requested way; small files and metadata files are copied.

        Args:
            except_for: names to skip, `folder/name` below a folder.
            new: name -> function that writes a file of that name in `target`.
            depth: number of directories between the checkpoint and `source`.

        Raises:
            DestinationError: the requested way does not work here, or a file of `source` cannot be
                transferred at all.
            OSError: `target` cannot be written.
        """
        if depth > DEEPEST:
            raise too_deep(source)
        for item in sorted(os.scandir(source), key=lambda entry: entry.name):
            if item.name in except_for:
                continue
            here, there = Path(item.path), target / item.name
            if stays_link(here):  # a relative link must keep its target
                os.symlink(os.path.join(source.absolute(), os.readlink(here)), there)
            elif not (item.is_dir() or item.is_file()):
                raise DestinationError(
                    f"{item.name} is neither a file nor a directory, and cannot be copied",
                    path=source,
                    fix=f"to remove it from the checkpoint, run `{shell('rm', here)}`",
                )
            elif item.is_dir():
                make_directory(there, here)
                left_out = within(item.name, dict.fromkeys(except_for))
                self.carry_directory(here, there, left_out, within(item.name, new), depth + 1)
                adopt_directory(there, here)
            elif item.name in METADATA_FILES or not _is_large(item):
                _copy(here, there, lambda _: None)
            else:
                self._carry_file(here, there)
        for name, write in new.items():
            if "/" not in name:  # the others were written by the calls for their folders
                write(target / name)
        sync_directory(target)

    def carry_file(self, source: Path, target: Path) -> None:
        """Bring one file: copy a small one or one with special permissions, else as requested.

        Raises:
            DestinationError, OSError: as `carry_directory`.
        """
        found = os.stat(source)
        if found.st_size < _SMALL or found.st_mode & 0o7000:
            _copy(source, target, self.progress)
        else:
            self._carry_file(source, target)

    def _carry_file(self, source: Path, target: Path) -> None:
        refusal: OSError | None = None
        for means in self._means:
            try:
                _BY[means](source, target, self.progress)
            except OSError as error:
                if error.errno not in CANNOT or os.path.lexists(target):
                    raise
                refusal = error
                continue
            if means is not self._means[0]:
                # A way that fails for one file fails for all.
                self._means = self._means[self._means.index(means) :]
            self.used = means
            return
        assert refusal is not None
        raise DestinationError(
            f"the data files cannot be transferred with --link {self.requested.value}: "
            + _reason(refusal),
            path=source,
            fix="use --link auto, or a destination on the file system of the source",
            retry=Retry(add=("--link", "auto")),
        ) from refusal


def duplicate(source: Path, target: Path) -> None:
    """Create a second name of a file, or a copy with its owner, permissions and times.

    Raises:
        OSError: the target exists, or cannot be written.
    """
    if not linked(source, target):
        _copy(source, target, lambda _: None)


def linked(source: Path, target: Path) -> bool:
    """Create a second name of a file; return False if the file system does not support that.

    Raises:
        OSError: the target exists, or cannot be written.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in CANNOT or source.is_symlink():
            raise
        return False
    return True


def check_store_link(link: Link, place: Url) -> None:
    """Raise if data files cannot be brought to or from a store in the requested way.

    Raises:
        DestinationError: `link` is neither auto nor copy.
    """
    if link not in (Link.AUTO, Link.COPY):
        raise DestinationError(
            f"the data files cannot be transferred with --link {link.value}: an object store has "
            "no links",
            path=place,
            fix="use --link auto, which copies inside the store",
        )


def _is_large(item: os.DirEntry[str]) -> bool:
    return item.name.endswith(_PAYLOAD_SUFFIX) or item.stat().st_size >= _SMALL


def _reason(error: OSError) -> str:
    if error.errno == errno.EXDEV:
        return "the destination is on another device"
    return f"the file system does not support it ({error.strerror})"


def _hardlink(source: Path, target: Path, progress: Progress) -> None:
    os.link(source.resolve(), target)


def _symlink(source: Path, target: Path, progress: Progress) -> None:
    os.symlink(source.resolve(), target)


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[BinaryIO]:
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(local_files.opened(source))
        except OSError as error:
            raise unreadable(source, error) from error
        yield file


def _reflink(source: Path, target: Path, progress: Progress) -> None:
    with _opened(source) as old, local_files.create(target, 0o600) as new:
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
        except OSError:
            os.unlink(target)
            raise
        _finish(old, new)


def _copy(source: Path, target: Path, progress: Progress) -> None:
    with _opened(source) as old, local_files.create(target, 0o600) as new:
        left = local_files.size_of(old)
        require_space(left, target)
        while piece := old.read(min(left, _PIECE)):
            left -= len(piece)
            new.write(piece)
            progress(len(piece))
        new.flush()
        _finish(old, new)


def _finish(old: BinaryIO, new: BinaryIO) -> None:
    """Copy owner, permissions and times, and sync the file.

    Copies no extended attributes: one may be a capability, which is as powerful as a setuid bit.
    """
    model = os.fstat(old.fileno())
    adopt(new.fileno(), model)
    os.utime(new.fileno(), ns=(model.st_atime_ns, model.st_mtime_ns))
    os.fsync(new.fileno())


_AUTO: Final = (Link.REFLINK, Link.HARDLINK, Link.COPY)
_BY: Final = {
    Link.REFLINK: _reflink,
    Link.HARDLINK: _hardlink,
    Link.SYMLINK: _symlink,
    Link.COPY: _copy,
}
