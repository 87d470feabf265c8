"""Pointers: small text files in place of files that a version control tool did not fetch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ckptmigrate.errors import PointerError
from ckptmigrate.places import Place
from ckptmigrate.storage import local_files
from ckptmigrate.text.commands import shell

LARGEST: Final = 1024  # bytes; a pointer is smaller
_ATTRIBUTES: Final = ".gitattributes"
_LARGEST_ATTRIBUTES: Final = 1024**2  # bytes


@dataclass(frozen=True)
class PointerKind:
    """The pointers of one tool.

    Attributes:
        tool: the name of the tool.
        starts: the first bytes of its pointers.
        fetch: the arguments of git that fetch all files of a clone.
        filter: what .gitattributes of a clone with such files contains.
        source: the files of these facts.
    """

    tool: str
    starts: tuple[bytes, ...]
    fetch: tuple[str, ...]
    filter: bytes
    source: str


KINDS: Final = (
    PointerKind(
        "Git LFS",
        (
            b"version https://git-lfs.github.com/spec/v1",
            b"version https://hawser.github.com/spec/v1",
            b"version http://git-media.io/v/2",
        ),
        ("lfs", "pull"),
        b"filter=lfs",
        "git-lfs v3.7.0 docs/spec.md (The Pointer), lfs/pointer.go v1Aliases",
    ),
    PointerKind(
        "git-annex",
        (b"/annex/objects/",),
        ("annex", "get", "."),
        b"filter=annex",
        "git-annex 10 doc/internals/pointer_file.mdwn",
    ),
)


def kind_of(start: bytes, size: int) -> PointerKind | None:
    """Return the kind of a pointer; None for other files.

    Args:
        start: the first bytes of the file.
        size: the size of the file in bytes.
    """
    if size >= LARGEST:
        return None
    return next((kind for kind in KINDS if start.startswith(kind.starts)), None)


def check(path: Place, start: bytes, size: int) -> None:
    """Raise if a file is a pointer; arguments as in `kind_of`.

    Raises:
        PointerError: it is one; names the command that fetches the file.
    """
    kind = kind_of(start, size)
    if kind is not None:
        raise PointerError(
            f"is a {kind.tool} pointer: the content of the file was not downloaded",
            path=path,
            fix=_fix(kind, path),
        )


def _fix(kind: PointerKind, path: Place) -> str:
    clone = next((each for each in _above(path) if _is_clone(each, kind)), None)
    if clone is not None:
        return f"to download all files of the clone, run `{shell('git', '-C', clone, *kind.fetch)}`"
    return (
        f"run `{shell('git', *kind.fetch)}` in the clone that the file is from, or download the "
        "file again"
    )


def _above(path: Place) -> tuple[Path, ...]:
    return tuple(path.parents) if isinstance(path, Path) else ()


def _is_clone(folder: Path, kind: PointerKind) -> bool:
    """Return whether a directory is a clone with files of a tool."""
    if not os.path.exists(folder / ".git"):
        return False
    try:
        return kind.filter in local_files.read(folder / _ATTRIBUTES, _LARGEST_ATTRIBUTES)
    except OSError:
        return False
