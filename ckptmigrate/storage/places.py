"""Places of checkpoints: local paths and URLs of object stores.

A `Url` has the few parts of pathlib's interface that are needed to find a checkpoint. The library
of its store is imported only when the store is accessed.
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
    from ckptmigrate.errors import StoreError
    from ckptmigrate.storage.store import Store

TRACKER_FILE: Final = "latest_checkpointed_iteration.txt"
LATEST_TRAIN_STATE: Final = "latest_train_state.pt"  # of Megatron-Bridge, see trackers.py
TRACKERS: Final = (LATEST_TRAIN_STATE, TRACKER_FILE)  # in the order of writing
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.ASCII | re.IGNORECASE | re.DOTALL)
_LOCAL: Final = ("file", "local")


@dataclass(frozen=True)
class Url:
    """URL in an object store; every `/` in its key separates directories.

    Attributes:
        protocol: the part before `://`.
        key: the part after `://`, starting with the bucket, without a trailing `/`.
    """

    protocol: str
    key: str

    def __str__(self) -> str:
        return f"{self.protocol}://{self.key}"

    def __truediv__(self, name: str) -> Url:
        return Url(self.protocol, f"{self.key}/{name}")

    @property
    def name(self) -> str:
        """Return the last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> Url:
        """Return the enclosing place; for a bucket, the bucket itself."""
        return Url(self.protocol, self.key.rpartition("/")[0] or self.key)

    @property
    def root(self) -> Url:
        """Return the bucket (or profile, or host)."""
        return Url(self.protocol, self.key.partition("/")[0])

    def with_name(self, name: str) -> Url:
        """Return the place of that name in the same directory."""
        return self.parent / name

    def is_file(self) -> bool:
        """Return whether an object of this name exists."""
        return self.store.is_file(self)

    def is_dir(self) -> bool:
        """Return whether objects exist below this place."""
        return self.store.is_directory(self)

    def exists(self) -> bool:
        """Return whether the place is an object or has objects below it."""
        return self.is_file() or self.is_dir()

    @property
    def store(self) -> Store:
        """Return the store of this place."""
        from ckptmigrate.storage import store

        return store.of(self)


Place: TypeAlias = Path | Url


def place(text: str | Place) -> Place:
    """Return the place for a path or URL; `file://` is a local path.

    Raises:
        StoreError: the URL is invalid, or contains a secret.
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
        # Some libraries resolve these parts as a file system does, others keep them.
        if part in ("", ".", ".."):
            raise _no_place(text, f"has a part {part!r}", "name the place without such parts")


def _no_place(text: str, reason: str, fix: str) -> StoreError:
    """Return the error for an invalid URL, with its secrets masked."""
    from ckptmigrate.errors import StoreError
    from ckptmigrate.text import secrets

    return StoreError(reason, path=secrets.masked_url(text), fix=fix)


def lies_in(found: Place, other: Place) -> bool:
    """Return whether a place is another place or is inside it, links resolved."""
    return resolved(other) in enclosing(found)


def enclosing(found: Place) -> Iterator[Place]:
    """Yield a place with links resolved, then each enclosing place, innermost first."""
    found = resolved(found)
    while True:
        yield found
        outer = found.parent
        if outer == found:
            return
        found = outer


def resolved(found: Place) -> Place:
    """Return a place with links resolved as far as it exists; a loop of links is kept."""
    return found if isinstance(found, Url) else Path(os.path.realpath(found))


def absolute(found: Place) -> Place:
    """Return the place as an absolute path; do not resolve links."""
    return found if isinstance(found, Url) else Path(os.path.abspath(found))
