"""One object store: read a range, create, replace, copy, remove.

This is the only module that imports fsspec; store_errors.py translates the errors of its libraries.
Every error is raised as a `StoreError`, except FileNotFoundError and FileExistsError, which report
the state of a checkpoint.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from ckptmigrate.errors import StoreError
from ckptmigrate.places import Url
from ckptmigrate.storage import local_files
from ckptmigrate.storage.limits import LARGEST_JSON, too_large
from ckptmigrate.storage.progress import Progress
from ckptmigrate.storage.store_errors import code_of, explained, first_line, translated
from ckptmigrate.storage.store_index import COPY, StoreIndex
from ckptmigrate.storage.transfers import counted, pieces, sent_twice
from ckptmigrate.text.commands import install

_PACKAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "s3": ("s3fs",),
    "s3a": ("s3fs",),
    "gs": ("gcsfs",),
    "gcs": ("gcsfs",),
    "msc": ("multi-storage-client", "fsspec"),
}
_PIECE: Final = 16 * 1024 * 1024  # bytes per part of an upload, at least; several are in memory
_MOST_PIECES: Final = 9000  # S3 accepts 10,000 parts per object


class Store(StoreIndex):
    """One bucket (or profile, or host) of an object store."""

    def copies_from(self, other: Store) -> bool:
        """Return whether objects of another store can be copied here on the server side."""
        # Each profile of multi-storage-client is a separate store.
        same_root = self.root == other.root or self.root.protocol != "msc"
        return same_root and bool(self._fs == other._fs)

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
            count = "more" if len(found) > size else f"{len(found)}"
            raise StoreError(
                f"has {count} bytes, but was listed with {size}",
                path=place,
                fix="stop other programs that write to it, then run the command again",
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
            what = f"returned {len(found)} of {end - start} requested bytes"
            raise StoreError(what, path=place, fix=COPY)
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

    def create(self, place: Url, content: bytes) -> None:
        """Write a new object atomically and read it back.

        Raises:
            FileExistsError: an object of this name exists.
            StoreError: the object does not read back as written.
        """
        self._write(place, content, exclusive=True)

    def replace(self, place: Url, content: bytes) -> None:
        """Write or overwrite an object atomically and read it back.

        Raises:
            StoreError: the object does not read back as written.
        """
        self._write(place, content, exclusive=False)

    def _write(self, place: Url, content: bytes, *, exclusive: bool) -> None:
        refuses = exclusive and self.is_exclusive  # the store itself
        options = {"mode": "create"} if refuses else {}
        with translated(place, "write" if exclusive else "replace"):
            with sent_twice(place, lambda: self._holds(place, content), exclusive=refuses):
                if exclusive and not refuses and self.is_file(place):
                    raise FileExistsError(str(place))
                self._call("pipe_file", place, content, size=len(content), **options)
            if not self._holds(place, content):  # for example because of a proxy
                raise StoreError(
                    "differs from what was written when read back",
                    path=place,
                    fix="stop other programs that write to it, then run the command again",
                )

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
            sent_twice(target, lambda: self._same(target, size, read), exclusive=self.is_exclusive),
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
        read = functools.partial(store_of(source).read_range, source)

        def content() -> Iterator[bytes]:
            for start, end in pieces(size):
                yield read(start, end)
                progress(end - start)

        with translated(target, "write", missing=source):
            self.create_large(target, size, content)

    def create_large(self, target: Url, size: int, content: Callable[[], Iterator[bytes]]) -> None:
        """Write a new object piece by piece; after an error, no object is left.

        Args:
            size: size of the object in bytes.
            content: yields its bytes in order; every call yields the same bytes.

        Raises:
            FileExistsError: a different object of this name exists.
        """

        def arrived() -> bool:
            return self._consists_of(target, size, content())

        with (
            translated(target, "write"),
            sent_twice(target, arrived, exclusive=self.is_exclusive),
        ):
            mode = "xb" if self.is_exclusive else "wb"
            block = max(_PIECE, size // _MOST_PIECES)
            file = self._fs.open(str(target), mode, block_size=block)
            try:
                for piece in content():
                    file.write(piece)
            except BaseException:
                if hasattr(file, "discard"):
                    file.discard()
                    file.closed = True  # else fsspec tries to write it when it is deleted
                raise
            file.close()

    def _same(self, target: Url, size: int, read: Callable[[int, int], bytes]) -> bool:
        """Return whether an object has the expected content, byte for byte.

        Args:
            size: expected size in bytes.
            read: returns the expected bytes from a start to an end offset.
        """
        return self._consists_of(target, size, (read(*each) for each in pieces(size)))

    def _consists_of(self, target: Url, size: int, content: Iterator[bytes]) -> bool:
        """Return whether an object has a size in bytes and consists of these pieces."""
        if not self.is_file(target) or self.size(target) != size:
            return False
        start = 0
        for piece in content:
            if piece and self.read_range(target, start, start + len(piece)) != piece:
                return False
            start += len(piece)
        return True

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


def store_of(place: Url) -> Store:
    """Return the store of a place.

    Raises:
        StoreError: the library is missing, or the store cannot be set up.
    """
    return _of(place.root)


@functools.cache
def _of(root: Url) -> Store:
    if not root.key:
        raise StoreError(
            "does not contain a bucket", path=root, fix="use a URL such as s3://bucket/run"
        )
    packages = _PACKAGES.get(root.protocol)
    try:
        import fsspec
    except ImportError as error:
        raise StoreError(
            "is in an object store, and fsspec is not installed",
            path=root,
            fix=f"run `{install(*packages or ('fsspec',))}`",
        ) from error
    try:
        # Do not cache listings: other processes write to the store, too.
        filesystem, _ = fsspec.core.url_to_fs(str(root), use_listings_cache=False)
    except ImportError as error:
        raise StoreError(
            "is in an object store whose library is not installed",
            path=root,
            fix=f"run `{install(*packages)}`" if packages else f"install it ({error})",
        ) from error
    except ValueError as error:
        raise StoreError(
            f"cannot be opened ({first_line(error)})",
            path=root,
            fix="use a local path, or a URL of a store that fsspec supports, such as s3:// or "
            "gs://",
        ) from error
    except Exception as error:
        raise explained(error, root) from error
    # Without a handler, Python prints retries and similar warnings of the library on the terminal.
    library = logging.getLogger(type(filesystem).__module__.partition(".")[0])
    library.addHandler(logging.NullHandler())
    return Store(root, filesystem)
