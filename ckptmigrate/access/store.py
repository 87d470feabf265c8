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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ckptmigrate.access import opener
from ckptmigrate.access.calls import Calls
from ckptmigrate.access.moving import counted, pieces, sent_twice
from ckptmigrate.access.places import Url
from ckptmigrate.access.storage import LARGEST_JSON, Progress, too_large
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
# What a library tells of an object that is another after each write.
_VERSION: Final = ("ETag", "etag", "generation", "md5Hash", "LastModified", "mtime", "created")
_COPY: Final = "copy the checkpoint to a local directory, and name that"
_PIECE: Final = 64 * 1024 * 1024  # bytes sent at a time; S3 takes 10,000 pieces of an object


@dataclass(frozen=True)
class Listing:
    """What lies directly below a place.

    Attributes:
        files: name -> size in bytes.
        versions: name of a file -> what changes when it is written again, as far as that is told.
        folders: names of what has objects below; an empty one for `iter_0000005//x`.
    """

    files: dict[str, int]
    versions: dict[str, str]
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
        self._is_s3 = hasattr(filesystem, "_lsdir")

    def copies_from(self, other: Store) -> bool:
        """Whether objects of the other come here without leaving the store."""
        # A profile of multi-storage-client is a store of its own.
        same_root = self.root == other.root or self.root.protocol != "msc"
        return same_root and bool(self._fs == other._fs)

    def list(self, place: Url, prefix: str = "") -> Listing:
        """What lies directly below a place; nothing where there is none.

        Args:
            prefix: of the names that are wanted; a store that lists by none gives others, too.
        """
        own = str(self._fs._strip_protocol(str(place))).strip("/")
        files: dict[str, int] = {}
        versions: dict[str, str] = {}
        folders = set()
        for item in self._items(place, prefix):
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
                size = self.size(place / name) if told is None else int(told)
                if files.setdefault(name, size) != size:
                    raise StoreError(
                        f"is listed with {files[name]} bytes and with {size}",
                        path=place / name,
                        fix="make sure that nothing writes to it, then run this again",
                    )
                versions[name] = repr([item[key] for key in _VERSION if key in item])
        return Listing(dict(sorted(files.items())), versions, tuple(sorted(folders)))

    def _items(self, place: Url, prefix: str) -> Iterable[Mapping[str, Any]]:
        """What the library lists directly below a place."""
        # The `ls` of s3fs lists all that is beside a place, too, where nothing is below it.
        name, method = (
            ("lsdir", self._fs._lsdir) if self._is_s3 else ("ls", getattr(self._fs, "_ls", None))
        )
        options: dict[str, Any] = {} if self._is_s3 else {"detail": True}
        if prefix and method and "prefix" in inspect.signature(method).parameters:
            options["prefix"] = prefix
        with translated(place, "list"):
            try:
                found: Iterable[Mapping[str, Any]] = self._call(name, place, **options)
                return found
            except NotADirectoryError:
                return []
            except FileNotFoundError as error:
                if code_of(error) == "NoSuchBucket":
                    raise
                return []

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
        with translated(place, "list"):
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
        """Whether there is an object of this name.

        Not by the `isfile` or `exists` of fsspec, to which every error means that there is none.
        """
        with translated(place, "look at"):
            try:
                return bool(self._call("info", place)["type"] == "file")
            except (FileNotFoundError, NotADirectoryError) as error:
                if code_of(error) == "NoSuchBucket":
                    raise
                return False

    def size(self, place: Url) -> int:
        """The size of an object in bytes."""
        with translated(place, "look at"):
            size = self._call("info", place)["size"]
        if size is None:
            raise StoreError("has a size that its server does not tell", path=place, fix=_COPY)
        return int(size)

    def is_directory(self, place: Url) -> bool:
        """Whether there are objects below a place; a directory without any (of a disk) is none."""
        if self._is_s3:  # which is asked for two of them, and not for all
            own = str(self._fs._strip_protocol(str(place)))
            with translated(place, "list"):
                found = self._call("lsdir", place, max_items=2, delimiter="")
            return any(each["name"] != f"{own}/" or each["size"] for each in found)
        here = self.list(place)
        return bool(here.files) or any(
            not name or self.is_directory(place / name) for name in here.folders
        )

    def read(self, place: Url, size: int | None = None) -> bytes:
        """A whole object.

        Args:
            size: in bytes, as it was listed; without it the object is a small one.

        Raises:
            StoreError: it has another size by now.
            DamagedError: it is no small one.
        """
        if size == 0:
            return b""
        most = LARGEST_JSON if size is None else size
        # One byte more, to find an object that is longer.
        found = self.read_start(place, most + 1, size or 0)
        if size is None and len(found) > most:
            raise too_large(place, most)
        if size is not None and len(found) != size:
            told = "more" if len(found) > size else f"{len(found)}"
            raise StoreError(
                f"gives {told} bytes, and was listed with {size}",
                path=place,
                fix="make sure that nothing writes to it, then run this again",
            )
        return found

    def read_start(self, place: Url, most: int, size: int = 0) -> bytes:
        """The first bytes of an object, whatever its size.

        Args:
            most: how many, if there are so many.
            size: as far as it is known, in bytes.
        """
        with translated(place, "read"):
            try:
                return bytes(self._call("cat_file", place, start=0, end=most, size=size))
            except Exception as error:
                if code_of(error) not in ("InvalidRange", "416"):
                    raise
                return b""  # of an empty object there is no range

    def read_range(self, place: Url, start: int, end: int) -> bytes:
        """Some bytes of an object, of which there has to be at least one.

        Raises:
            StoreError: it gives others, as a web server does that knows no ranges.
        """
        with translated(place, "read"):
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
        with translated(place, "write"):
            with sent_twice(place, lambda: self._holds(place, content), exclusive=True):
                if self.is_exclusive:
                    self._call("pipe_file", place, content, mode="create", size=len(content))
                elif self.is_file(place):
                    raise FileExistsError(str(place))
                else:
                    self._call("pipe_file", place, content, size=len(content))
            self._check(place, content)

    def replace(self, place: Url, content: bytes) -> None:
        """Write an object, new or not, and read it back; readers find the old bytes or the new.

        Raises:
            StoreError: it does not read back.
        """
        with translated(place, "write"):
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

        with translated(target, "copy to", missing=source), sent_twice(target, arrived):
            self._call("cp_file", source, str(target), size=size)

    def remove(self, place: Url) -> None:
        """Remove an object; nothing where there is none."""
        with translated(place, "remove"), contextlib.suppress(FileNotFoundError):
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
            translated(target, "write", missing=source),
            counted(size, progress) as callback,
            sent_twice(target, lambda: self._same(target, size, read), exclusive=True),
        ):
            self._call("put_file", source, str(target), callback=callback, size=size, **options)

    def download(self, source: Url, target: Path, size: int, progress: Progress) -> None:
        """Bring an object into a local file."""
        with translated(source, "read"), counted(size, progress) as callback:
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
            translated(target, "write", missing=source),
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
            How many there were; none of a store that is not S3, or that does not list them.
        """
        if not hasattr(self._fs, "list_multipart_uploads"):
            return 0
        bucket = self.root.key
        prefix = below.key.removeprefix(f"{bucket}/") + "/"
        with translated(below, "list uploads to"):
            try:
                uploads = self._call("list_multipart_uploads", bucket)
            except PermissionError:  # a right of its own, which few have
                return 0
            found = [upload for upload in uploads if upload["Key"].startswith(prefix)]
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
