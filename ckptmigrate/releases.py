"""compat_matrix.yaml: the facts about releases, read at run time and checked.

ruamel and packaging are imported where they are used: together they cost a third of the time
of a migration, which needs neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from ckptmigrate.errors import CompatError

FILE: Final = "compat_matrix.yaml"
_SCHEMA: Final = 1
_LAYOUT_KEYS: Final = ("layout", "releases", "summary", "source")
_SIGN_KEYS: Final = ("sign", "present", "absent", "source")


@dataclass(frozen=True)
class LayoutRow:
    """Which releases write a layout.

    Attributes:
        layout: its name.
        releases: a PEP 440 specifier.
        summary: one line.
        source: the tag, file or sample it is known from.
    """

    layout: str
    releases: str
    summary: str
    source: str


@dataclass(frozen=True)
class SignRow:
    """A trace that releases leave in a checkpoint.

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
class Compat:
    """The content of compat_matrix.yaml.

    Attributes:
        layouts: in order of release.
        known_releases: minor releases, oldest first.
        signs: traces of the writing release.
        torch_signs: traces of the writer's torch.
    """

    layouts: tuple[LayoutRow, ...]
    known_releases: tuple[str, ...]
    signs: tuple[SignRow, ...]
    torch_signs: tuple[SignRow, ...]

    def row(self, layout: str) -> LayoutRow:
        """The row of a layout."""
        return next(row for row in self.layouts if row.layout == layout)


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
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or "is no YAML"
        raise CompatError(f"line {line}: {problem}", path=path) from error
    if not isinstance(content, Mapping):
        raise CompatError("line 1: is no mapping", path=path)
    known = {"schema", "layouts", "known_releases", "writer_signs", "torch_signs"}
    for key in content:
        if key not in known:
            raise CompatError(f"line {_line(content, key)}: unknown key {key!r}", path=path)
    for key in sorted(known):
        if key not in content:
            raise CompatError(f"line 1: the key {key!r} is missing", path=path)
    if content["schema"] != _SCHEMA:
        raise CompatError(f"line {_line(content, 'schema')}: schema is not {_SCHEMA}", path=path)
    layouts = tuple(LayoutRow(**row) for row in _rows(content, "layouts", _LAYOUT_KEYS, path))
    signs, torch_signs = (
        tuple(SignRow(**row) for row in _rows(content, section, _SIGN_KEYS, path))
        for section in ("writer_signs", "torch_signs")
    )
    releases = content["known_releases"]
    if not isinstance(releases, list) or not all(isinstance(r, str) for r in releases):
        line = _line(content, "known_releases")
        raise CompatError(f"line {line}: known_releases is no list of quoted versions", path=path)
    return Compat(layouts, tuple(releases), signs, torch_signs)


def _rows(
    content: Any, section: str, keys: tuple[str, ...], path: Path | str
) -> list[dict[str, str]]:
    rows = content[section]
    if not isinstance(rows, list):
        raise CompatError(f"line {_line(content, section)}: {section} is no list", path=path)
    found: list[dict[str, str]] = []
    for number, row in enumerate(rows):
        line = content[section].lc.item(number)[0] + 1
        if not isinstance(row, Mapping):
            raise CompatError(f"line {line}: a row of {section} is no mapping", path=path)
        for key in row:
            if key not in keys:
                raise CompatError(f"line {_line(row, key)}: unknown key {key!r}", path=path)
        for key in keys:
            if key not in row:
                raise CompatError(f"line {line}: the key {key!r} is missing", path=path)
            if not isinstance(row[key], str) or not row[key]:
                raise CompatError(f"line {_line(row, key)}: {key!r} is no text", path=path)
            if key in ("releases", "present", "absent"):
                _check_specifier(row[key], _line(row, key), path)
        found.append({key: str(row[key]) for key in keys})
    return found


def _check_specifier(text: str, line: int, path: Path | str) -> None:
    from packaging.specifiers import InvalidSpecifier

    try:
        matches("0", text)
    except InvalidSpecifier as error:
        raise CompatError(f"line {line}: {text!r} is no version specifier", path=path) from error


def _line(content: Any, key: str) -> int:
    return int(content.lc.key(key)[0]) + 1


def matches(release: str, specifier: str) -> bool:
    """Whether a release is in a specifier, or in one of several between `|`.

    Development versions count.
    """
    from packaging.specifiers import SpecifierSet

    return any(
        SpecifierSet(part).contains(release, prereleases=True) for part in specifier.split("|")
    )
