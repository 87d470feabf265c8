"""The compiler of compat_matrix.yaml, which people edit, to the data files of the package.

    python -m ckptmigrate.compat.compilation      (or: make facts)

Commands read only the compiled files, because parsing YAML with comments and line numbers takes a
second. A test checks that both have the same content.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from ckptmigrate.compat import bounded_yaml, cells
from ckptmigrate.compat.cells import CellRow, Matrix
from ckptmigrate.errors import CompatError
from ckptmigrate.releases import facts
from ckptmigrate.releases.facts import Compat, matches
from ckptmigrate.storage import local_files

FILE: Final = "compat_matrix.yaml"
_SCHEMA: Final = 1
_ROWS: Final = {**facts.ROWS, **cells.ROWS}
_MAY_BE_EMPTY: Final = ("error", "resized_error", "torch", "sibling")
_SPECIFIERS: Final = ("releases", "present", "absent", "importable", "pickled", "engines")


def compiled(text: str, *, path: Path | str = FILE) -> dict[str, Any]:
    """Return the sections of a compat_matrix.yaml as plain lists and mappings.

    Raises:
        CompatError: the text is not YAML or does not fit the schema; the message names the line.
    """
    content = bounded_yaml.load(text, path)
    try:
        return _sections(content)
    except _Mistake as mistake:
        raise CompatError(f"line {mistake.line}: {mistake}", path=path) from mistake


def parse(text: str, *, path: Path | str = FILE) -> tuple[Compat, Matrix]:
    """Return the facts about releases, and the matrix, of a compat_matrix.yaml.

    Raises:
        CompatError: see `compiled`.
    """
    sections = compiled(text, path=path)
    return facts.from_sections(sections), cells.from_sections(sections)


def package_data(text: str, *, path: Path | str = FILE) -> dict[str, str]:
    """Return the data files of the package: file name -> text.

    Raises:
        CompatError: see `compiled`.
    """
    sections = compiled(text, path=path)
    of_releases = (*facts.ROWS, *facts.TEXTS)
    return {
        facts.COMPILED: _json({name: sections[name] for name in of_releases}),
        cells.COMPILED: _json({name: sections[name] for name in cells.ROWS}),
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


class _Mistake(Exception):
    """A line of the file that does not fit the schema."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


def _sections(content: Any) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise _Mistake(1, "is not a mapping")
    _check_keys(content, {"schema", *_ROWS, *facts.TEXTS}, 1)
    if content["schema"] != _SCHEMA:
        raise _Mistake(_line(content, "schema"), f"schema is not {_SCHEMA}")
    sections: dict[str, Any] = {name: _rows(content, name, row) for name, row in _ROWS.items()}
    sections |= {name: _texts(content, name) for name in facts.TEXTS}
    for text in sections["known_releases"]:
        _check_version(text, _line(content, "known_releases"))
    _check_names(content, sections)
    return sections


def _rows(content: Any, section: str, row_type: type) -> list[dict[str, Any]]:
    rows = content[section]
    if not isinstance(rows, list):
        raise _Mistake(_line(content, section), f"{section} is not a list")
    found = []
    for number, row in enumerate(rows):
        line = rows.lc.item(number)[0] + 1  # type: ignore[attr-defined]
        if not isinstance(row, Mapping):
            raise _Mistake(line, f"a row of {section} is not a mapping")
        kinds = {field.name: str(field.type) for field in fields(row_type)}
        _check_keys(row, set(kinds), line)
        found.append({key: _value(row, key, kind) for key, kind in kinds.items()})
    return found


def _value(row: Any, key: str, kind: str) -> Any:
    """Return one value of a row, checked against the type that its dataclass declares."""
    if kind == "tuple[CellRow, ...]":
        return _rows(row, key, CellRow)
    if kind.startswith("tuple"):
        return _texts(row, key)
    value = row[key]
    if kind.startswith("Mapping"):
        if not isinstance(value, Mapping) or not all(type(v) is int for v in value.values()):
            raise _Mistake(_line(row, key), f"{key!r} is not a mapping of names to numbers")
        return {str(name): number for name, number in value.items()}
    if not isinstance(value, str) or not (value or key in _MAY_BE_EMPTY):
        raise _Mistake(_line(row, key), f"{key!r} is not text")
    if key in _SPECIFIERS:
        _check_specifier(value, _line(row, key))
    if key in ("release", "writer", "reader"):
        _check_version(value, _line(row, key))
    return str(value)


def _texts(content: Any, section: str) -> list[str]:
    texts = content[section]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _Mistake(_line(content, section), f"{section} is not a list of quoted text")
    return list(map(str, texts))


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
        raise _Mistake(line, f"{text!r} is not a version specifier") from error


def _check_version(text: str, line: int) -> None:
    from packaging.version import InvalidVersion, Version

    try:
        Version(text)
    except InvalidVersion as error:
        raise _Mistake(line, f"{text!r} is not a release") from error


def _check_names(content: Any, sections: Mapping[str, Any]) -> None:
    """Raise if a cell names a scenario, outcome, knowledge row or group that the file lacks."""
    scenarios = {row["scenario"] for row in sections["scenarios"]}
    outcomes = {*cells.MEANINGS, *(row["failure"] for row in sections["failures"])}
    knowledge = {row["known"] for row in sections["knowledge"]}
    groups = {(row["writer"], row["scenario"]) for row in sections["matrix"]}
    for row in content["matrix"]:
        _check_name(row, "scenario", scenarios)
        for cell in row["cells"]:
            for key in ("raw", "migrated"):
                _check_name(cell, key, outcomes)
                _check_name(cell, f"{key}_known", knowledge)
    for row in content["alike"]:
        if (row["like"], row["like_scenario"]) not in groups:
            raise _Mistake(_line(row, "like"), f"there is no group {row['like']} to derive from")
        _check_name(row, "scenario", scenarios)


def _check_name(row: Any, key: str, known: set[str]) -> None:
    if row[key] not in known:
        raise _Mistake(_line(row, key), f"{key} {row[key]!r} is not defined in this file")


def _line(content: Any, key: str) -> int:
    return int(content.lc.key(key)[0]) + 1


def write(source: Path) -> list[str]:
    """Compile a compat_matrix.yaml into the package next to it, and return the changed files.

    Writes nothing if there is no package.

    Raises:
        CompatError: see `compiled`.
        OSError: the package cannot be written.
    """
    changed = []
    for name, text in package_data(bounded_yaml.read(source), path=source).items():
        target = source.absolute().parent / "ckptmigrate" / name
        if not target.parent.is_dir():
            continue
        if not target.exists() or local_files.read_text(target) != text:
            local_files.write_text(target, text)
            changed.append(str(target))
    return changed


if __name__ == "__main__":
    for name in write(Path(sys.argv[1] if len(sys.argv) > 1 else FILE)):
        print(f"wrote {name}")
