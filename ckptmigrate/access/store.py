"""One object store: list, read a range, write new, replace, copy inside, remove.

The only module that imports fsspec, and the only one that knows what its libraries raise. Every
error leaves it as a `StoreError`, but for the two that say something of a checkpoint:
FileNotFoundError and FileExistsError.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ckptmigrate.access.places import Url
from ckptmigrate.access.storage import Progress
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
        folders: names of what has objects below.
    """

    files: dict[str, int]
    folders: tuple[str, ...]


class Store:
    """One bucket (or profile, or host) of an object store.

    Attributes:
        root: its place.
    """

    def __init__(self, root: Url, filesystem: Any) -> None:
        self.root = root
        self._fs = filesystem
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
        with _told(place):
            try:
                found = self._fs.ls(str(place), detail=True)
            except NotADirectoryError:
                found = []
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                found = []
        for item in found:
            full = item["name"].strip("/")
            if full == own:  # an object of this name, or one that stands for the directory
                continue
            name = full.rpartition("/")[2]
            if item["type"] == "directory":
                folders.add(name)
            else:
                told = item["size"]  # over HTTP a listing does not tell
                files[name] = self.size(place / name) if told is None else int(told)
        return Listing(dict(sorted(files.items())), tuple(sorted(folders)))

    def walk(self, place: Url) -> Iterator[tuple[str, int]]:
        """Every object below a place: its name from there on, and its size in bytes.

        Raises:
            DamagedError: a name that is no path below a directory.
        """
        here = self.list(place)
        for name in (*here.files, *here.folders):
            if name in ("", ".", "..") or "\0" in name:
                raise DamagedError(f"holds an object with a part {name!r} in its name", path=place)
        yield from here.files.items()
        for folder in here.folders:
            for name, size in self.walk(place / folder):
                yield f"{folder}/{name}", size

    def is_file(self, place: Url) -> bool:
        """Whether there is an object of this name."""
        with _told(place):
            return bool(self._fs.isfile(str(place)))

    def size(self, place: Url) -> int:
        """The size of an object in bytes."""
        with _told(place):
            size = self._fs.info(str(place))["size"]
        if size is None:
            raise StoreError("has a size that its server does not tell", path=place, fix=_COPY)
        return int(size)

    def is_directory(self, place: Url) -> bool:
        """Whether there are objects below a place; a directory without any (of a disk) is none."""
        return next(self.walk(place), None) is not None

    def read(self, place: Url) -> bytes:
        """A whole object."""
        with _told(place):
            return bytes(self._fs.cat_file(str(place)))

    def read_range(self, place: Url, start: int, end: int) -> bytes:
        """Some bytes of an object, of which there has to be at least one.

        Raises:
            StoreError: it gives others, as a web server does that knows no ranges.
        """
        with _told(place):
            found = bytes(self._fs.cat_file(str(place), start=start, end=end))
        if len(found) != end - start:
            what = f"gives {len(found)} bytes where {end - start} were asked for"
            raise StoreError(what, path=place, fix=_COPY)
        return found

    def _holds(self, place: Url, content: bytes) -> bool:
        """Whether an object has these bytes, of which there is at least one."""
        try:
            # One byte more, to find an object that is longer.
            found = self._fs.cat_file(str(place), start=0, end=len(content) + 1)
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
        with _told(place):
            try:
                if self.is_exclusive:
                    self._fs.pipe_file(str(place), content, mode="create")
                elif self._fs.exists(str(place)):
                    raise FileExistsError(str(place))
                else:
                    self._fs.pipe_file(str(place), content)
            except Exception as error:
                if not _says_it_exists(error):
                    raise
                # A request that was sent twice, since the first answer was lost, meets itself.
                if not self._holds(place, content):
                    raise FileExistsError(str(place)) from error
            else:
                self._check(place, content)

    def replace(self, place: Url, content: bytes) -> None:
        """Write an object, new or not, and read it back; readers find the old bytes or the new.

        Raises:
            StoreError: it does not read back.
        """
        with _told(place):
            self._fs.pipe_file(str(place), content)
            self._check(place, content)

    def copy(self, source: Url, target: Url) -> None:
        """Copy an object without moving its bytes over here; in parts where it is large."""
        with _told(target):
            self._fs.cp_file(str(source), str(target))

    def remove(self, place: Url) -> None:
        """Remove an object; nothing where there is none."""
        with _told(place), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(str(place))

    def upload(self, source: Path, target: Url, progress: Progress) -> None:
        """Bring a local file here, in parts where it is large."""
        options = {"mode": "create"} if self.is_exclusive else {}
        with _told(target), _counted(source.stat().st_size, progress) as callback:
            self._fs.put_file(str(source), str(target), callback=callback, **options)

    def download(self, source: Url, target: Path, size: int, progress: Progress) -> None:
        """Bring an object into a local file."""
        with _told(source), _counted(size, progress) as callback:
            self._fs.get_file(str(source), str(target), callback=callback)

    def write(self, target: Url, pieces: Iterator[bytes]) -> None:
        """A new object from pieces, sent as they come; after an error there is none."""
        with _told(target):
            file = self._fs.open(str(target), "wb", block_size=_PIECE)
            try:
                for piece in pieces:
                    file.write(piece)
            except BaseException:
                if hasattr(file, "discard"):
                    file.discard()
                raise
            file.close()

    def abandoned(self, below: Url) -> int:
        """Drop what uploads in parts that did not finish have stored, unseen, below a place.

        Returns:
            How many there were; of a store that is not S3, none.
        """
        if not hasattr(self._fs, "list_multipart_uploads"):
            return 0
        bucket = self.root.key
        prefix = below.key.removeprefix(f"{bucket}/") + "/"
        with _told(below):
            found = [
                upload
                for upload in self._fs.list_multipart_uploads(bucket)
                if upload["Key"].startswith(prefix)
            ]
            for upload in found:
                self._fs.abort_mpu(bucket, upload["Key"], upload["UploadId"])
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
            f"cannot be opened ({_first_line(error)})",
            path=root,
            fix="name a local path, or a URL of a store that fsspec knows, such as s3:// or gs://",
        ) from error
    except Exception as error:
        raise _explained(error, root) from error
    # Retries and the like are told to who asks for logs; on a terminal one sentence is enough.
    library = logging.getLogger(type(filesystem).__module__.partition(".")[0])
    library.addHandler(logging.NullHandler())
    return Store(root, filesystem)


@contextlib.contextmanager
def _counted(size: int, progress: Progress) -> Iterator[Any]:
    """A callback for fsspec; what it is not told (some libraries tell nothing) is told at the end.

    Args:
        size: in bytes, of the file.
    """
    from fsspec.callbacks import Callback

    class Counter(Callback):  # type: ignore[misc]
        told = 0

        def relative_update(self, inc: int = 1) -> None:
            self.told += inc
            progress(inc)

    counter = Counter()
    yield counter
    progress(size - counter.told)


@contextlib.contextmanager
def _told(place: Url) -> Iterator[None]:
    """Say in one sentence what a library of a store raises.

    Raises:
        StoreError: the store cannot be reached, or refuses.
        FileNotFoundError, FileExistsError: with the place as their text.
    """
    try:
        yield
    except FileNotFoundError as error:
        if _code(error) == "NoSuchBucket":
            raise _explained(error, place) from error
        raise FileNotFoundError(str(place)) from error
    except Exception as error:
        if isinstance(error, StoreError | DamagedError):
            raise
        if _says_it_exists(error):
            raise FileExistsError(str(place)) from error
        raise _explained(error, place) from error


def _says_it_exists(error: Exception) -> bool:
    """Whether a store refuses to write over an object."""
    refusals = ("PreconditionFailed", "ConditionalRequestConflict", "412")
    return isinstance(error, FileExistsError) or _code(error) in refusals


# The class or the code of an error -> what is wrong, and what to do. botocore, google-auth and
# others have no common base; their names have been the same for years.
_CREDENTIALS: Final = (
    "cannot be reached without credentials",
    "set them where its library looks for them (AWS_PROFILE, "
    "GOOGLE_APPLICATION_CREDENTIALS, the configuration of fsspec or multi-storage-client)",
)
_UNREACHABLE: Final = (
    "cannot be reached",
    "look at the endpoint (AWS_ENDPOINT_URL) and the network, then run this again",
)
_DENIED: Final = ("access is denied", "use credentials (AWS_PROFILE) that may do this")
_WORDS: Final = {
    "NoSuchBucket": ("does not exist", "name a bucket that does"),
    "NoCredentialsError": _CREDENTIALS,
    "PartialCredentialsError": _CREDENTIALS,
    "CredentialRetrievalError": _CREDENTIALS,
    "TokenRetrievalError": _CREDENTIALS,
    "DefaultCredentialsError": _CREDENTIALS,
    "RefreshError": _CREDENTIALS,
    "ProfileNotFound": ("cannot be reached", "set AWS_PROFILE to a profile that is configured"),
    "EndpointConnectionError": _UNREACHABLE,
    "ConnectTimeoutError": _UNREACHABLE,
    "ConnectionClosedError": _UNREACHABLE,
    "ReadTimeoutError": _UNREACHABLE,
    "ClientConnectorError": _UNREACHABLE,
    "ConnectionRefusedError": _UNREACHABLE,
    "PermissionError": _DENIED,
}


def _explained(error: BaseException, place: Url) -> StoreError:
    causes = list(_causes(error))
    names = [_code(error)] + [kind.__name__ for each in causes for kind in type(each).__mro__]
    what, fix = next(
        (_WORDS[name] for name in names if name in _WORDS),
        (
            "cannot be read or written",
            "look at the URL, and at what the library of its store is set up with",
        ),
    )
    # Of a bucket that is not there, the bucket is what the sentence is about.
    about = place.root if "NoSuchBucket" in names else place
    return StoreError(f"{what} ({_first_line(error)})", path=about, fix=fix)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _code(error: BaseException) -> str:
    """The code that the server gave an error, or the first of its causes that has one."""
    for each in _causes(error):
        response = getattr(each, "response", None)
        if isinstance(response, dict):  # botocore
            return str(response.get("Error", {}).get("Code", ""))
        if type(each).__name__ == "HttpError":  # gcsfs
            return str(getattr(each, "code", ""))
    return ""


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
