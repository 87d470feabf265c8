"""compat_matrix.yaml: the facts about releases, read at run time and checked.

ruamel and packaging are imported where they are used: together they cost a third of the time
of a migration between layouts, which needs neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar

from ckptmigrate.errors import CompatError

FILE: Final = "compat_matrix.yaml"
_SCHEMA: Final = 1


@dataclass(frozen=True)
class LayoutRow:
    """Which releases write a layout.

    Attributes:
        layout: its name.
        releases: a specifier (see `matches`).
        summary: one line.
        source: the tag, file or sample it is known from.
    """

    layout: str
    releases: str
    summary: str
    source: str


@dataclass(frozen=True)
class SignRow:
    """A trace that releases, or versions of torch, leave in a checkpoint.

    Attributes:
        sign: kind and name, for example `argument:rerun_mode`.
        present: specifier of the releases (or torch versions) where it is there.
        absent: specifier of those where it is not.
        source: the tag, file or sample it is known from.
    """

    sign: str
    present: str
    absent: str
    source: str


@dataclass(frozen=True)
class ReaderRow:
    """A release that `check` asks by default, with the torch it usually runs under."""

    release: str
    torch: str
    source: str


@dataclass(frozen=True)
class LoadingRow:
    """Which symbols a reader's load of common.pt admits: `any` or `torch-default`."""

    releases: str
    symbols: str
    source: str


@dataclass(frozen=True)
class MissingCommonRow:
    """The error of a reader that finds no common.pt; `{path}` stands for the checkpoint."""

    releases: str
    error: str
    source: str


@dataclass(frozen=True)
class AllowListRow:
    """Symbols that a release adds to torch's allow-list."""

    releases: str
    symbols: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class SymbolRow:
    """A symbol that comes and goes with the release.

    Attributes:
        symbol: its dotted name.
        releases: specifier of the readers that can resolve it.
        members: member name -> value, where it is an enum.
        source: the tag, file or sample it is known from.
    """

    symbol: str
    releases: str
    members: Mapping[str, int]
    source: str


@dataclass(frozen=True)
class ShardingRow:
    """A distributed optimizer sharding type, its readers, and the error of all others."""

    type: str
    releases: str
    error: str
    source: str


@dataclass(frozen=True)
class FormRow:
    """A form of optimizer states that some releases do not read.

    Attributes:
        form: its name; optimizer.py says how it is recognised.
        releases: specifier of its readers.
        why: the reason that all others do not read it.
        error: their error; names in braces stand for values.
        source: the tag, file or sample it is known from.
    """

    form: str
    releases: str
    why: str
    error: str
    source: str


@dataclass(frozen=True)
class RngRow:
    """The axes of the grid of `rng_state`, under expert parallelism; else they are PP, TP."""

    releases: str
    axes: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Compat:
    """The content of compat_matrix.yaml; the sections in the order of the file."""

    layouts: tuple[LayoutRow, ...]
    known_releases: tuple[str, ...]
    writer_signs: tuple[SignRow, ...]
    torch_signs: tuple[SignRow, ...]
    readers: tuple[ReaderRow, ...]
    common_loading: tuple[LoadingRow, ...]
    missing_common: tuple[MissingCommonRow, ...]
    allow_lists: tuple[AllowListRow, ...]
    torch_allows: tuple[str, ...]
    symbols: tuple[SymbolRow, ...]
    optimizer_sharding: tuple[ShardingRow, ...]
    optimizer_forms: tuple[FormRow, ...]
    rng_grids: tuple[RngRow, ...]

    def row(self, layout: str) -> LayoutRow:
        """The row of a layout."""
        return next(row for row in self.layouts if row.layout == layout)

    def symbol(self, path: str) -> SymbolRow | None:
        """The row of a symbol, if it has one."""
        return next((row for row in self.symbols if row.symbol == path), None)


# Sections that are lists of rows, and those that are lists of plain text.
_ROWS: Final[dict[str, type]] = {
    "layouts": LayoutRow,
    "writer_signs": SignRow,
    "torch_signs": SignRow,
    "readers": ReaderRow,
    "common_loading": LoadingRow,
    "missing_common": MissingCommonRow,
    "allow_lists": AllowListRow,
    "symbols": SymbolRow,
    "optimizer_sharding": ShardingRow,
    "optimizer_forms": FormRow,
    "rng_grids": RngRow,
}
_TEXTS: Final = ("known_releases", "torch_allows")


@lru_cache(maxsize=1)
def compat() -> Compat:
    """The shipped compat_matrix.yaml.

    Raises:
        CompatError: it does not fit the schema; names the line.
    """
    shipped = resources.files("ckptmigrate") / FILE
    return parse(shipped.read_text(encoding="utf-8"), path=FILE)


def parse(text: str, *, path: Path | str) -> Compat:
    """Read the text of a compat_matrix.yaml.

    Raises:
        CompatError: it is no YAML or does not fit the schema; names the line.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="rt", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "is no YAML"
        raise CompatError(f"line {mark.line + 1 if mark else 1}: {problem}", path=path) from error
    try:
        return _compat(content)
    except _Mistake as mistake:
        raise CompatError(f"line {mistake.line}: {mistake}", path=path) from mistake


class _Mistake(Exception):
    """A place in the file that does not fit the schema."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


def _compat(content: Any) -> Compat:
    if not isinstance(content, Mapping):
        raise _Mistake(1, "is no mapping")
    _check_keys(content, {"schema", *_ROWS, *_TEXTS}, 1)
    if content["schema"] != _SCHEMA:
        raise _Mistake(_line(content, "schema"), f"schema is not {_SCHEMA}")
    sections: dict[str, Any] = {name: _rows(content, name, row) for name, row in _ROWS.items()}
    sections |= {name: _texts(content, name) for name in _TEXTS}
    return Compat(**sections)


_Row = TypeVar("_Row")


def _rows(content: Any, section: str, row_type: Callable[..., _Row]) -> tuple[_Row, ...]:
    rows = content[section]
    if not isinstance(rows, list):
        raise _Mistake(_line(content, section), f"{section} is no list")
    found = []
    for number, row in enumerate(rows):
        line = content[section].lc.item(number)[0] + 1
        if not isinstance(row, Mapping):
            raise _Mistake(line, f"a row of {section} is no mapping")
        kinds = {field.name: str(field.type) for field in fields(row_type)}  # type: ignore[arg-type]
        _check_keys(row, set(kinds), line)
        found.append(row_type(**{key: _value(row, key, kind) for key, kind in kinds.items()}))
    return tuple(found)


def _value(row: Any, key: str, kind: str) -> Any:
    """One value of a row, of the kind that its dataclass declares."""
    if kind.startswith("tuple"):
        return _texts(row, key)
    value = row[key]
    if kind.startswith("Mapping"):
        if not isinstance(value, Mapping) or not all(type(v) is int for v in value.values()):
            raise _Mistake(_line(row, key), f"{key!r} is no mapping of names to numbers")
        return {str(name): number for name, number in value.items()}
    if not isinstance(value, str) or not (value or key == "error"):
        raise _Mistake(_line(row, key), f"{key!r} is no text")
    if key in ("releases", "present", "absent"):
        _check_specifier(value, _line(row, key))
    return str(value)


def _texts(content: Any, section: str) -> tuple[str, ...]:
    texts = content[section]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _Mistake(_line(content, section), f"{section} is no list of quoted text")
    return tuple(map(str, texts))


def _check_keys(content: Mapping[str, Any], known: set[str], line: int) -> None:
    for key in content:
        if key not in known:
            raise _Mistake(_line(content, key), f"unknown key {key!r}")
    for key in sorted(known - content.keys()):
        raise _Mistake(line, f"the key {key!r} is missing")


def _check_specifier(text: str, line: int) -> None:
    from packaging.specifiers import InvalidSpecifier

    try:
        matches("0", text)
    except InvalidSpecifier as error:
        raise _Mistake(line, f"{text!r} is no version specifier") from error


def _line(content: Any, key: str) -> int:
    return int(content.lc.key(key)[0]) + 1


def matches(release: str, specifier: str) -> bool:
    """Whether a release is in a specifier (PEP 440), or in one of several between `|`.

    Development versions count.
    """
    from packaging.specifiers import SpecifierSet

    # One specifier may name two ranges ("<0.8|>=0.16"): then either side will do.
    return any(
        SpecifierSet(part).contains(release, prereleases=True) for part in specifier.split("|")
    )


def minor(release: str) -> tuple[int, ...]:
    """The minor release that a release belongs to, for example (0, 13) for `0.13.1`."""
    from packaging.version import Version

    return Version(release).release[:2]
