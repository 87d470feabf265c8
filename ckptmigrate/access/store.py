"""One object store: list, read a range, write new, replace, copy inside, remove.

The only module that imports fsspec; what its libraries raise is in store_errors.py. Every error
leaves it as a `StoreError`, but for the two that say something of a checkpoint: FileNotFoundError
and FileExistsError.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ckptmigrate.access import opener
from ckptmigrate.access.calls import Calls
from ckptmigrate.access.moving import counted, pieces, sent_twice
from ckptmigrate.access.places import Url
from ckptmigrate.access.storage import Progress
from ckptmigrate.access.store_errors import (
    code_of,
    explained,
    first_line,
    translated,
)
from ckptmigrate.errors import DamagedError, StoreError
from ckptmigrate.text.commands import install

_PACKAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "s3": ("s3fs",),
    "s3a": ("s3fs",),
    "gs": ("gcsfs",),
    "gcs": ("gcsfs",),
    "msc": ("multi-storage-client", "fsspec"),
}
_COPY: Final = "copy the checkpoint to a local directory, and name that"
_PIECE: Final = 64 * 1024 * 1024  # bytes sent at a time; S3 takes 10,000 pieces of an object


@dataclass(frozen=True)
class Listing:
    """What lies directly below a place.

    Attributes:
        files: name -> size in bytes.
        folders: names of what has objects below; an empty one for `iter_0000005//x`.
    """

    files: dict[str, int]
    folders: tuple[str, ...]

    def check(self, place: Url) -> None:
        """Raise if a name cannot be that of a file below a directory.

        Args:
            place: what was listed.

        Raises:
            DamagedError: there is one.
        """
        for name in (*self.files, *self.folders):
            if name in ("", ".", "..") or "\0" in name:
                raise DamagedError(
                    f"holds an object with a part {name!r} in its name",
                    path=place,
                    fix="rename it, or remove it, with the tools of the store",
                )


class Store:
    """One bucket (or profile, or host) of an object store.

    Attributes:
        root: its place.
    """

    def __init__(self, root: Url, filesystem: Any) -> None:
        self.root = root
        self._fs = filesystem
        self._call = Calls(root, filesystem)
        # Where it can, the store itself refuses to write over an object (If-None-Match).
        self.is_exclusive = "mode" in inspect.signature(filesystem.pipe_file).parameters

    def copies_from(self, other: Store) -> bool:
        """Whether objects of the other come here without leaving the store."""
        # A profile of multi-storage-client is a store of its own.
        same_root = self.root == other.root or self.root.protocol != "msc"
        return same_root and bool(self._fs == other._fs)

    def list(self, place: Url) -> Listing:
        """What lies directly below a place; nothing where there is none."""
        own = str(self._fs._strip_protocol(str(place))).strip("/")
        files: dict[str, int] = {}
        folders = set()
        with translated(place):
            try:
                found = self._call("ls", place, detail=True)
            except NotADirectoryError:
                found = []
            except FileNotFoundError as error:
                if code_of(error) == "NoSuchBucket":
                    raise
                found = []
        for item in found:
            full = item["name"].strip("/")
            if full == own:  # an object of this name, or one that stands for the directory
                if self._is_below_empty_part(item, place):
                    folders.add("")
                continue
            name = full.rpartition("/")[2]
            if item["type"] == "directory":
                folders.add(name)
            else:
                told = item["size"]  # over HTTP a listing does not tell
                files[name] = self.size(place / name) if told is None else int(told)
        return Listing(dict(sorted(files.items())), tuple(sorted(folders)))

    def _is_below_empty_part(self, item: Mapping[str, Any], place: Url) -> bool:
        """Whether what a listing names like the place itself lies in `PLACE//`."""
        if self.root.protocol in ("http", "https"):  # a page may link to itself
            return False
        if item["type"] != "directory":  # an empty object named `PLACE/` stands for the directory
            return bool(item["name"].endswith("/") and item["size"])
        if item["name"].endswith("/"):
            return True
        # gcsfs names both of them alike, and so do others, which cannot be asked.
        if "prefix" not in inspect.signature(self._fs.find).parameters:
            return False
        with translated(place):
            return bool(self._call("find", place, prefix="/"))

    def walk(self, place: Url) -> Iterator[tuple[str, int]]:
        """Every object below a place: its name from there on, and its size in bytes.

        Raises:
            DamagedError: a name that is no path below a directory.
        """
        here = self.list(place)
        here.check(place)
        yield from here.files.items()
        for folder in here.folders:
            for name, size in self.walk(place / folder):
                yield f"{folder}/{name}", size

    def is_file(self, place: Url) -> bool:
        """Whether there is an object of this name."""
        with translated(place):
            return bool(self._call("isfile", place))

    def size(self, place: Url) -> int:
        """The size of an object in bytes."""
        with translated(place):
            size = self._call("info", place)["size"]
        if size is None:
            raise StoreError("has a size that its server does not tell", path=place, fix=_COPY)
        return int(size)

    def is_directory(self, place: Url) -> bool:
        """Whether there are objects below a place; a directory without any (of a disk) is none."""
        here = self.list(place)
        return bool(here.files) or any(
            not name or self.is_directory(place / name) for name in here.folders
        )

    def read(self, place: Url, size: int = 0) -> bytes:
        """A whole object.

        Args:
            size: in bytes, where it is known and may be large.
        """
        with translated(place):
            return bytes(self._call("cat_file", place, size=size))

    def read_range(self, place: Url, start: int, end: int) -> bytes:
        """Some bytes of an object, of which there has to be at least one.

        Raises:
            StoreError: it gives others, as a web server does that knows no ranges.
        """
        with translated(place):
            found = bytes(self._call("cat_file", place, start=start, end=end, size=end - start))
        if len(found) != end - start:
            what = f"gives {len(found)} bytes where {end - start} were asked for"
            raise StoreError(what, path=place, fix=_COPY)
        return found

    def _holds(self, place: Url, content: bytes) -> bool:
        """Whether an object has these bytes, of which there is at least one."""
        try:
            # One byte more, to find an object that is longer.
            size = len(content)
            found = self._call("cat_file", place, start=0, end=size + 1, size=size)
        except FileNotFoundError:
            return False
        return bytes(found) == content

    def _check(self, place: Url, content: bytes) -> None:
        """Raise unless what was written reads back: a proxy may answer for a store."""
        if not self._holds(place, content):
            raise StoreError(
                "does not read back as it was written",
                path=place,
                fix="make sure that nothing else writes to it, then run this again",
            )

    def create(self, place: Url, content: bytes) -> None:
        """Write a new object, whole or not at all, and read it back.

        Raises:
            FileExistsError: there is one of this name.
            StoreError: it does not read back.
        """
        with translated(place):
            with sent_twice(place, lambda: self._holds(place, content), exclusive=True):
                if self.is_exclusive:
                    self._call("pipe_file", place, content, mode="create", size=len(content))
                elif self._call("exists", place):
                    raise FileExistsError(str(place))
                else:
                    self._call("pipe_file", place, content, size=len(content))
            self._check(place, content)

    def replace(self, place: Url, content: bytes) -> None:
        """Write an object, new or not, and read it back; readers find the old bytes or the new.

        Raises:
            StoreError: it does not read back.
        """
        with translated(place):
            with sent_twice(place, lambda: self._holds(place, content)):
                self._call("pipe_file", place, content, size=len(content))
            self._check(place, content)

    def copy(self, source: Url, target: Url, size: int) -> None:
        """Copy an object without moving its bytes over here; in parts where it is large.

        Args:
            size: in bytes.
        """

        def arrived() -> bool:
            return self._same(target, self.size(source), functools.partial(self.read_range, source))

        with translated(target, missing=source), sent_twice(target, arrived):
            self._call("cp_file", source, str(target), size=size)

    def remove(self, place: Url) -> None:
        """Remove an object; nothing where there is none."""
        with translated(place), contextlib.suppress(FileNotFoundError):
            self._call("rm_file", place)

    def upload(self, source: Path, target: Url, progress: Progress) -> None:
        """Bring a local file here, in parts where it is large.

        Raises:
            FileExistsError: there is another object of this name.
        """
        options = {"mode": "create"} if self.is_exclusive else {}
        size = source.stat().st_size

        def read(start: int, end: int) -> bytes:
            with opener.opened(source) as file:
                file.seek(start)
                return file.read(end - start)

        with (
            translated(target, missing=source),
            counted(size, progress) as callback,
            sent_twice(target, lambda: self._same(target, size, read), exclusive=True),
        ):
            self._call("put_file", source, str(target), callback=callback, size=size, **options)

    def download(self, source: Url, target: Path, size: int, progress: Progress) -> None:
        """Bring an object into a local file."""
        with translated(source), counted(size, progress) as callback:
            self._call("get_file", source, str(target), callback=callback, size=size)

    def transfer(self, source: Url, target: Url, size: int, progress: Progress) -> None:
        """Bring an object of another store here, piece by piece; after an error there is none.

        Args:
            size: of the object, in bytes.

        Raises:
            FileExistsError: there is another object of this name.
        """
        read = functools.partial(source.store.read_range, source)
        with (
            translated(target, missing=source),
            sent_twice(target, lambda: self._same(target, size, read), exclusive=self.is_exclusive),
        ):
            mode = "xb" if self.is_exclusive else "wb"
            file = self._fs.open(str(target), mode, block_size=_PIECE)
            try:
                for start, end in pieces(size):
                    file.write(read(start, end))
                    progress(end - start)
            except BaseException:
                if hasattr(file, "discard"):
                    file.discard()
                raise
            file.close()

    def _same(self, target: Url, size: int, read: Callable[[int, int], bytes]) -> bool:
        """Whether an object is what was to be written there, byte for byte.

        Args:
            size: what it should have, in bytes.
            read: returns the bytes from one offset to another.
        """
        return (
            self.is_file(target)
            and self.size(target) == size
            and all(self.read_range(target, *each) == read(*each) for each in pieces(size))
        )

    def abandoned(self, below: Url) -> int:
        """Drop what uploads in parts that did not finish have stored, unseen, below a place.

        Returns:
            How many there were; of a store that is not S3, none.
        """
        if not hasattr(self._fs, "list_multipart_uploads"):
            return 0
        bucket = self.root.key
        prefix = below.key.removeprefix(f"{bucket}/") + "/"
        with translated(below):
            found = [
                upload
                for upload in self._call("list_multipart_uploads", bucket)
                if upload["Key"].startswith(prefix)
            ]
            for upload in found:
                with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
                    self._call("abort_mpu", bucket, upload["Key"], upload["UploadId"])
        return len(found)


def of(place: Url) -> Store:
    """The store that a place lies in.

    Raises:
        StoreError: its library is missing, or it cannot be set up.
    """
    return _of(place.root)


@functools.cache
def _of(root: Url) -> Store:
    if not root.key:
        raise StoreError("names no bucket", path=root, fix="name one, as in s3://bucket/run")
    packages = _PACKAGES.get(root.protocol)
    try:
        import fsspec
    except ImportError as error:
        raise StoreError(
            "lies in a store, and fsspec is not installed",
            path=root,
            fix=f"run `{install(*packages or ('fsspec',))}`",
        ) from error
    try:
        # Listings are asked for anew each time: other runs write here, too.
        filesystem, _ = fsspec.core.url_to_fs(str(root), use_listings_cache=False)
    except ImportError as error:
        raise StoreError(
            "lies in a store whose library is not installed",
            path=root,
            fix=f"run `{install(*packages)}`" if packages else f"install it ({error})",
        ) from error
    except ValueError as error:
        raise StoreError(
            f"cannot be opened ({first_line(error)})",
            path=root,
            fix="name a local path, or a URL of a store that fsspec knows, such as s3:// or gs://",
        ) from error
    except Exception as error:
        raise explained(error, root) from error
    # Retries and the like are told to who asks for logs; on a terminal one sentence is enough.
    library = logging.getLogger(type(filesystem).__module__.partition(".")[0])
    library.addHandler(logging.NullHandler())
    return Store(root, filesystem)
