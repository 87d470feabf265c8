"""The expected outcomes of the roots in a folder: a JSON file with one line per root and reader."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ckptmigrate.errors import RefusedError
from ckptmigrate.storage import local_files

_SCHEMA: Final = 1
_KEYS: Final = ("root", "reader", "raw", "migrated")


@dataclass(frozen=True)
class RootCell:
    """The outcomes of one reader for one root.

    Attributes:
        root: the path of the root in its folder.
        reader: the release.
        raw, migrated: the outcomes, as in a cell of the matrix. A failure that the matrix does not
            have is the type of the exception; `refused` if the checkpoint cannot be migrated.
        raw_error, migrated_error: the error messages; empty if the release resumes.
    """

    root: str
    reader: str
    raw: str
    migrated: str
    raw_error: str = ""
    migrated_error: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Return what identifies the cell."""
        return self.root, self.reader


@dataclass(frozen=True)
class RootDifference:
    """An outcome that is not the expected one."""

    root: str
    reader: str
    what: str

    def __str__(self) -> str:
        return f"{self.root} -> {self.reader}: {self.what}"


def read(file: Path) -> list[RootCell]:
    """Return the cells of a file.

    Raises:
        RefusedError: the file does not exist or does not fit the schema.
    """
    if not file.exists():
        raise RefusedError("does not exist", path=file, fix="write it with --update")
    try:
        content = json.loads(local_files.read_text(file))
        if content["schema"] != _SCHEMA:
            raise ValueError(f"schema is not {_SCHEMA}")
        rows = [[row[key] for key in _KEYS] for row in content["cells"]]
        if not all(isinstance(value, str) for row in rows for value in row):
            raise ValueError("a cell has a value that is not text")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RefusedError(
            f"is not a file of expected outcomes ({error!r})",
            path=file,
            fix="name another file with --expect FILE",
        ) from error
    return [RootCell(*row) for row in rows]


def differences(
    cells: Iterable[RootCell], expected: Iterable[RootCell], readers: Collection[str] = ()
) -> Iterator[RootDifference]:
    """Yield the outcomes that changed, appeared or disappeared.

    Args:
        readers: the readers that were measured, if not all.
    """
    old = {cell.key: cell for cell in expected if not readers or cell.reader in readers}
    for cell in cells:
        was = old.pop(cell.key, None)
        if was is None:
            what = f"is not expected: raw {cell.raw}, migrated {cell.migrated}"
            yield RootDifference(*cell.key, what)
            continue
        for name in ("raw", "migrated"):
            before, now = getattr(was, name), getattr(cell, name)
            if before != now:
                error = getattr(cell, f"{name}_error")
                what = f"{name} was {before!r} and is {now!r}"
                yield RootDifference(*cell.key, f"{what} ({error})" if error else what)
    for key in old:
        yield RootDifference(*key, "is expected and was not measured")


def text(cells: Iterable[RootCell]) -> str:
    """Return the text of a file with cells, in the same order for the same cells."""
    rows = (_row(cell) for cell in sorted(cells, key=lambda cell: cell.key))
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return f'{{"schema": {_SCHEMA}, "cells": [\n{lines}\n]}}\n'


def _row(cell: RootCell) -> Mapping[str, Any]:
    return {key: getattr(cell, key) for key in _KEYS}
