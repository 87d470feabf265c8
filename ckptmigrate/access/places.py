"""A place: where a checkpoint lies, a local path or the URL of an object store.

A `Url` has the few parts of pathlib's interface that finding a checkpoint needs. It is text until
it is asked what is there; only then is the library of its store imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from ckptmigrate.access.store import Store
    from ckptmigrate.errors import StoreError

TRACKER_FILE: Final = "latest_checkpointed_iteration.txt"
LATEST_TRAIN_STATE: Final = "latest_train_state.pt"  # the tracker of Megatron-Bridge, trackers.py
TRACKERS: Final = (LATEST_TRAIN_STATE, TRACKER_FILE)  # in the order in which they are written
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.ASCII | re.IGNORECASE | re.DOTALL)
_LOCAL: Final = ("file", "local")


@dataclass(frozen=True)
class Url:
    """A place in an object store; every `/` in its key is taken for a directory.

    Attributes:
        protocol: what stands before `://`.
        key: what stands behind it, the bucket first, without a `/` at the end.
    """

    protocol: str
    key: str

    def __str__(self) -> str:
        return f"{self.protocol}://{self.key}"

    def __truediv__(self, name: str) -> Url:
        return Url(self.protocol, f"{self.key}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> Url:
        """The place around it; of a bucket, itself."""
        return Url(self.protocol, self.key.rpartition("/")[0] or self.key)

    @property
    def root(self) -> Url:
        """The bucket (or profile, or host) alone."""
        return Url(self.protocol, self.key.partition("/")[0])

    def with_name(self, name: str) -> Url:
        """The place of that name beside it."""
        return self.parent / name

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        return self.store.is_file(self)

    def is_dir(self) -> bool:
        """Whether there are objects below."""
        return self.store.is_directory(self)

    def exists(self) -> bool:
        """Whether either is so."""
        return self.is_file() or self.is_dir()

    @property
    def store(self) -> Store:
        """The store that it lies in."""
        from ckptmigrate.access import store

        return store.of(self)


Place: TypeAlias = Path | Url


def place(text: str | Place) -> Place:
    """The place that a user's text means; `file://` is a local path.

    Raises:
        StoreError: a URL that no store has, or that is not to be printed.
    """
    if not isinstance(text, str):
        return text
    if ":" not in text:
        return Path(text)
    from ckptmigrate.text import secrets

    if "://" not in text and not secrets.is_slip(text):
        return Path(text)
    match = _SCHEME.fullmatch(text)
    if match is None:
        raise _no_place(text, "is no URL of one store", "name one, as in s3://bucket/run")
    protocol, key = match[1].lower(), match[2]
    if protocol in _LOCAL:
        return Path(_path_of(text, key))
    _check_key(text, protocol, key)
    return Url(protocol, key.rstrip("/"))


def _path_of(text: str, key: str) -> str:
    path = key.removeprefix("localhost")
    if not path.startswith("/"):
        raise _no_place(text, "names no path of this machine", "name one, as in file:///data/run")
    return os.fsdecode(unquote_to_bytes(os.fsencode(path)))


def _check_key(text: str, protocol: str, key: str) -> None:
    from ckptmigrate.text import secrets

    held, _ = secrets.split(protocol, key)
    if held is not None:
        raise _no_place(
            text,
            f"holds {held}, and a URL is printed and written down",
            "leave it out, and set what opens the store where its library looks for it, such as "
            "the configuration of fsspec",
        )
    if "://" in key:
        raise _no_place(text, "is a chain of URLs", "name one, as in s3://bucket/run")
    for part in key.rstrip("/").split("/")[1:]:
        # Some libraries take these as a directory of a disk would, and others as they are.
        if part in ("", ".", ".."):
            raise _no_place(text, f"has a part {part!r}", "name the place without such parts")


def _no_place(text: str, reason: str, fix: str) -> StoreError:
    """Why a text means no place, which is told without what it holds of secrets."""
    from ckptmigrate.errors import StoreError
    from ckptmigrate.text import secrets

    return StoreError(reason, path=secrets.masked_url(text), fix=fix)


def lies_in(found: Place, other: Place) -> bool:
    """Whether a place is another one or lies in it, by whatever names."""
    return resolved(other) in enclosing(found)


def enclosing(found: Place) -> Iterator[Place]:
    """A place without links, and everything that it lies in, from the inside out."""
    found = resolved(found)
    while True:
        yield found
        outer = found.parent
        if outer == found:
            return
        found = outer


def resolved(found: Place) -> Place:
    """A place without links, as far as it exists; a loop of links stays one."""
    return found if isinstance(found, Url) else Path(os.path.realpath(found))


def absolute(found: Place) -> Place:
    """The same place, whatever the working directory; links are not resolved."""
    return found if isinstance(found, Url) else Path(os.path.abspath(found))
