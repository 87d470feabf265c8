"""A place: where a checkpoint lies, a local path or the URL of an object store.

A `Url` has the few parts of pathlib's interface that finding a checkpoint needs. It is text until
it is asked what is there; only then is the library of its store imported.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from ckptmigrate.access.store import Store

TRACKER_FILE: Final = "latest_checkpointed_iteration.txt"
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

    def is_relative_to(self, other: Url) -> bool:
        """Whether it is the other place or lies in it."""
        return self == other or str(self).startswith(f"{other}/")

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
    """The place that a user's text means; `file://` is a local path."""
    if not isinstance(text, str):
        return text
    match = _SCHEME.fullmatch(text)
    if match is None:
        return Path(text)
    protocol, key = match[1].lower(), match[2]
    if protocol in _LOCAL:
        return Path(unquote(urlsplit(text).path))
    return Url(protocol, key.rstrip("/"))


def absolute(found: Place) -> Place:
    """The same place, whatever the working directory; links are not resolved."""
    return found if isinstance(found, Url) else Path(os.path.abspath(found))
