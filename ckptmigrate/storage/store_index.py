"""The objects of a store: which exist, with their sizes, in a place and below it.

Every error is raised as a `StoreError`, except FileNotFoundError.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.errors import DamagedError, StoreError
from ckptmigrate.places import Url
from ckptmigrate.storage.store_calls import Calls
from ckptmigrate.storage.store_errors import code_of, translated

# Fields of a listing that change each time an object is written.
_VERSION: Final = ("ETag", "etag", "generation", "md5Hash", "LastModified", "mtime", "created")
# Not a name of a file (NUL, no UTF-8), or for s3fs a version of another object.
_NOT_A_NAME: Final = re.compile(r"\0|[\ud800-\udfff]|\?versionId=")
COPY: Final = "copy the checkpoint to a local directory, and use that"


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
            if name in ("", ".", "..") or _NOT_A_NAME.search(name):
                raise _misnamed(f"an object with the part {name!r} in its name", place)
        both = self.files.keys() & set(self.folders)
        if both:
            raise _misnamed(f"an object and a directory with the name {min(both)!r}", place)


def _misnamed(what: str, place: Url) -> DamagedError:
    fix = "rename or remove it with the tools of the store"
    return DamagedError(f"contains {what}", path=place, fix=fix)


class StoreIndex:
    """The names and sizes of the objects of one bucket (or profile, or host).

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
                listed = item["size"]  # None in a listing over HTTP
                size = self.size(place / name) if listed is None else int(listed)
                if files.setdefault(name, size) != size:
                    raise StoreError(
                        f"is listed twice, with {files[name]} and {size} bytes",
                        path=place / name,
                        fix="stop other programs that write to it, then run the command again",
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
            raise StoreError(
                "has an unknown size (the server does not report it)", path=place, fix=COPY
            )
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
