"""One object store: list, read a range, create, replace, copy, remove.

This is the only module that imports fsspec; store_errors.py translates the errors of its libraries.
Every error is raised as a `StoreError`, except FileNotFoundError and FileExistsError, which report
the state of a checkpoint.
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

from ckptmigrate.errors import DamagedError, StoreError
from ckptmigrate.storage import local_files
from ckptmigrate.storage.directories import LARGEST_JSON, Progress, too_large
from ckptmigrate.storage.places import Url
from ckptmigrate.storage.store_calls import Calls
from ckptmigrate.storage.store_errors import code_of, explained, first_line, translated
from ckptmigrate.storage.transfers import counted, pieces, sent_twice
from ckptmigrate.text.commands import install

_PACKAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "s3": ("s3fs",),
    "s3a": ("s3fs",),
    "gs": ("gcsfs",),
    "gcs": ("gcsfs",),
    "msc": ("multi-storage-client", "fsspec"),
}
# Fields of a listing that change each time an object is written.
_VERSION: Final = ("ETag", "etag", "generation", "md5Hash", "LastModified", "mtime", "created")
_COPY: Final = "copy the checkpoint to a local directory, and name that"
_PIECE: Final = 64 * 1024 * 1024  # bytes per part of an upload; S3 accepts 10,000 parts per object


@dataclass(frozen=True)
class Listing:
    """The objects and directories directly below a place.

    Attributes:
        files: name -> size in bytes.
        versions: name of a file -> a value that changes when the file is written again, as far as
            the store reports one.
        folders: names with objects below them; an empty name for `iter_0000005//x`.
    """

    files: dict[str, int]
    versions: dict[str, str]
    folders: tuple[str, ...]

    def check(self, place: Url) -> None:
        """Raise if a name is not valid for a file below a directory.

        Args:
            place: the listed place.

        Raises:
            DamagedError: a name is invalid.
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
        root: place of the bucket.
        is_exclusive: whether the store itself can refuse to overwrite an object (If-None-Match).
    """

    def __init__(self, root: Url, filesystem: Any) -> None:
        self.root = root
        self._fs = filesystem
        self._call = Calls(root, filesystem)
        self.is_exclusive = "mode" in inspect.signature(filesystem.pipe_file).parameters
        self._is_s3 = hasattr(filesystem, "_lsdir")

    def copies_from(self, other: Store) -> bool:
        """Return whether objects of another store can be copied here on the server side."""
        # Each profile of multi-storage-client is a separate store.
        same_root = self.root == other.root or self.root.protocol != "msc"
        return same_root and bool(self._fs == other._fs)

    def list(self, place: Url, prefix: str = "") -> Listing:
        """Return the objects directly below a place; an empty listing if there are none.

        Args:
            prefix: prefix of the wanted names; a store that cannot filter returns other names, too.
        """
        own = str(self._fs._strip_protocol(str(place))).strip("/")
        files: dict[str, int] = {}
        versions: dict[str, str] = {}
        folders = set()
        for item in self._items(place, prefix):
            full = item["name"].strip("/")
            if full == own:  # an object of this name, or a directory marker
                if self._is_below_empty_part(item, place):
                    folders.add("")
                continue
            name = full.rpartition("/")[2]
            if item["type"] == "directory":
                folders.add(name)
            else:
                told = item["size"]  # None in a listing over HTTP
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
        """Return the items that the library lists directly below a place."""
        # If nothing is below a place, the `ls` of s3fs lists the siblings of the place, too.
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
        """Return whether an item that is listed under the name of the place is inside `PLACE//`."""
        if self.root.protocol in ("http", "https"):  # a page may link to itself
            return False
        if item["type"] != "directory":  # an empty object named `PLACE/` is a directory marker
            return bool(item["name"].endswith("/") and item["size"])
        if item["name"].endswith("/"):
            return True
        # gcsfs and others list both under the same name; only those that filter by prefix can
        # distinguish them.
        if "prefix" not in inspect.signature(self._fs.find).parameters:
            return False
        with translated(place, "list"):
            return bool(self._call("find", place, prefix="/"))

    def walk(self, place: Url) -> Iterator[tuple[str, int]]:
        """Yield the relative name and the size in bytes of every object below a place.

        Raises:
            DamagedError: a name is not a valid path below a directory.
        """
        here = self.list(place)
        here.check(place)
        yield from here.files.items()
        for folder in here.folders:
            for name, size in self.walk(place / folder):
                yield f"{folder}/{name}", size

    def is_file(self, place: Url) -> bool:
        """Return whether an object of this name exists.

        Unlike `isfile` and `exists` of fsspec, do not take every error for a missing object.
        """
        with translated(place, "look at"):
            try:
                return bool(self._call("info", place)["type"] == "file")
            except (FileNotFoundError, NotADirectoryError) as error:
                if code_of(error) == "NoSuchBucket":
                    raise
                return False

    def size(self, place: Url) -> int:
        """Return the size of an object in bytes."""
        with translated(place, "look at"):
            size = self._call("info", place)["size"]
        if size is None:
            raise StoreError("has a size that its server does not tell", path=place, fix=_COPY)
        return int(size)

    def is_directory(self, place: Url) -> bool:
        """Return whether objects exist below a place; not for an empty directory on a disk."""
        if self._is_s3:  # two items are enough
            own = str(self._fs._strip_protocol(str(place)))
            with translated(place, "list"):
                found = self._call("lsdir", place, max_items=2, delimiter="")
            return any(each["name"] != f"{own}/" or each["size"] for each in found)
        here = self.list(place)
        return bool(here.files) or any(
            not name or self.is_directory(place / name) for name in here.folders
        )

    def read(self, place: Url, size: int | None = None) -> bytes:
        """Return a whole object.

        Args:
            size: its listed size in bytes; None for a small object that was not listed.

        Raises:
            StoreError: the size has changed since the listing.
            DamagedError: the object was not listed and is too large.
        """
        if size == 0:
            return b""
        most = LARGEST_JSON if size is None else size
        # Read one byte more to detect a longer object.
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
        """Return the first bytes of an object.

        Args:
            most: maximum number of bytes.
            size: known size in bytes, for the time limit.
        """
        with translated(place, "read"):
            try:
                return bytes(self._call("cat_file", place, start=0, end=most, size=size))
            except Exception as error:
                if code_of(error) not in ("InvalidRange", "416"):
                    raise
                return b""  # an empty object has no valid range

    def read_range(self, place: Url, start: int, end: int) -> bytes:
        """Return a range of at least one byte of an object.

        Raises:
            StoreError: the number of bytes differs, as for a web server without range requests.
        """
        with translated(place, "read"):
            found = bytes(self._call("cat_file", place, start=start, end=end, size=end - start))
        if len(found) != end - start:
            what = f"gives {len(found)} bytes where {end - start} were asked for"
            raise StoreError(what, path=place, fix=_COPY)
        return found

    def _holds(self, place: Url, content: bytes) -> bool:
        """Return whether an object consists of these bytes (at least one)."""
        try:
            # Read one byte more to detect a longer object.
            size = len(content)
            found = self._call("cat_file", place, start=0, end=size + 1, size=size)
        except FileNotFoundError:
            return False
        return bytes(found) == content

    def _check(self, place: Url, content: bytes) -> None:
        """Raise if an object does not read back as written, for example because of a proxy."""
        if not self._holds(place, content):
            raise StoreError(
                "does not read back as it was written",
                path=place,
                fix="make sure that nothing else writes to it, then run this again",
            )

    def create(self, place: Url, content: bytes) -> None:
        """Write a new object atomically and read it back.

        Raises:
            FileExistsError: an object of this name exists.
            StoreError: the object does not read back as written.
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
        """Write or overwrite an object atomically and read it back.

        Raises:
            StoreError: the object does not read back as written.
        """
        with translated(place, "write"):
            with sent_twice(place, lambda: self._holds(place, content)):
                self._call("pipe_file", place, content, size=len(content))
            self._check(place, content)

    def copy(self, source: Url, target: Url, size: int) -> None:
        """Copy an object on the server side; in parts if it is large.

        Args:
            size: size of the object in bytes.
        """

        def arrived() -> bool:
            return self._same(target, self.size(source), functools.partial(self.read_range, source))

        with translated(target, "copy to", missing=source), sent_twice(target, arrived):
            self._call("cp_file", source, str(target), size=size)

    def remove(self, place: Url) -> None:
        """Remove an object if it exists."""
        with translated(place, "remove"), contextlib.suppress(FileNotFoundError):
            self._call("rm_file", place)

    def upload(self, source: Path, target: Url, progress: Progress) -> None:
        """Upload a local file; in parts if it is large.

        Raises:
            FileExistsError: a different object of this name exists.
        """
        options = {"mode": "create"} if self.is_exclusive else {}
        size = source.stat().st_size

        def read(start: int, end: int) -> bytes:
            with local_files.opened(source) as file:
                file.seek(start)
                return file.read(end - start)

        with (
            translated(target, "write", missing=source),
            counted(size, progress) as callback,
            sent_twice(target, lambda: self._same(target, size, read), exclusive=True),
        ):
            self._call("put_file", source, str(target), callback=callback, size=size, **options)

    def download(self, source: Url, target: Path, size: int, progress: Progress) -> None:
        """Download an object into a local file."""
        with translated(source, "read"), counted(size, progress) as callback:
            self._call("get_file", source, str(target), callback=callback, size=size)

    def transfer(self, source: Url, target: Url, size: int, progress: Progress) -> None:
        """Copy an object of another store in chunks; after an error, no object is left.

        Args:
            size: size of the object in bytes.

        Raises:
            FileExistsError: a different object of this name exists.
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
        """Return whether an object has the expected content, byte for byte.

        Args:
            size: expected size in bytes.
            read: returns the expected bytes from a start to an end offset.
        """
        return (
            self.is_file(target)
            and self.size(target) == size
            and all(self.read_range(target, *each) == read(*each) for each in pieces(size))
        )

    def abandoned(self, below: Url) -> int:
        """Abort unfinished multipart uploads below a place and free their hidden storage.

        Returns:
            The number of uploads; 0 for a store that is not S3 or does not list uploads.
        """
        if not hasattr(self._fs, "list_multipart_uploads"):
            return 0
        bucket = self.root.key
        prefix = below.key.removeprefix(f"{bucket}/") + "/"
        with translated(below, "list uploads to"):
            try:
                uploads = self._call("list_multipart_uploads", bucket)
            except PermissionError:  # few users have this permission
                return 0
            found = [upload for upload in uploads if upload["Key"].startswith(prefix)]
            for upload in found:
                with contextlib.suppress(FileNotFoundError):  # the upload has ended in the meantime
                    self._call("abort_mpu", bucket, upload["Key"], upload["UploadId"])
        return len(found)


def of(place: Url) -> Store:
    """Return the store of a place.

    Raises:
        StoreError: the library is missing, or the store cannot be set up.
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
        # Do not cache listings: other processes write to the store, too.
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
    # Without a handler, Python prints retries and similar warnings of the library on the terminal.
    library = logging.getLogger(type(filesystem).__module__.partition(".")[0])
    library.addHandler(logging.NullHandler())
    return Store(root, filesystem)
