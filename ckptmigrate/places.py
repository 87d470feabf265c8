"""Places of checkpoints: local paths and URLs of object stores.

A `Url` is a name, with the parts of pathlib's interface that need no access to the store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias


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


Place: TypeAlias = Path | Url


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
