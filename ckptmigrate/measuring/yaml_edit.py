"""Edits of compat_matrix.yaml that write measured cells and keep every other line."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from ckptmigrate.compat import bounded_yaml
from ckptmigrate.compat.cells import CellRow, GroupRow
from ckptmigrate.compat.compilation import FILE
from ckptmigrate.errors import RefusedError
from ckptmigrate.storage import local_files

_UNBROKEN: Final = 10_000  # characters; longer than any row


def updated(text: str, groups: Sequence[GroupRow]) -> str:
    """Return the text of a compat_matrix.yaml with the cells of some groups, comments kept.

    Args:
        groups: groups of the file with their new cells. Cells that do not change keep their lines.
    """
    yaml = _yaml()
    content = bounded_yaml.load(text, FILE, yaml)
    wanted = {(group.writer, group.scenario): group for group in groups}
    changed = False
    for row in content["matrix"]:
        group = wanted.get((row["writer"], row["scenario"]))
        if group is None or [dict(cell) for cell in row["cells"]] == list(map(asdict, group.cells)):
            continue
        cells, old = _sequence(group.cells), row["cells"]
        cells.ca.comment, cells.ca.end = old.ca.comment, old.ca.end  # comments below the group
        row["cells"] = cells
        changed = True
    if not changed:
        return text
    out = io.StringIO()
    yaml.dump(content, out)
    return out.getvalue()


def update(path: Path, groups: Sequence[GroupRow]) -> bool:
    """Write the cells of groups into a file, and return whether it changed.

    Raises:
        OSError: the file cannot be read or written.
    """
    text = bounded_yaml.read(path)
    new = updated(text, groups)
    if new != text:
        local_files.write_text(path, new)
    return new != text


def with_release(text: str, release: str, *, torch: str, source: str) -> str:
    """Return the text with a new release: a reader, and a writer without cells.

    Its layout and constraints are those of the newest rows whose `releases` include it. `matrix
    run --update` then measures what it reads and, if its wheel is installed, what it saves.

    Args:
        torch: the PyTorch version of the release.
        source: where the release is published.

    Raises:
        RefusedError: the file already has the release, or has no rows that the new ones can follow.
    """
    from packaging.version import Version

    content = bounded_yaml.load(text, FILE)
    readers, groups = content["readers"], content["matrix"]
    if any(row["release"] == release for row in readers):
        raise RefusedError(f"release {release} is among the readers already")
    missing = {"idle", "disabled", "fault"} - {group["scenario"] for group in groups}
    if missing or not readers or not content["known_releases"]:
        raise RefusedError("the file has no rows that the new rows can follow")
    older = [n for n, row in enumerate(readers) if Version(row["release"]) < Version(release)]
    rows = {_end(text, readers, max(older, default=0)): _READER.format(release, torch, source)}
    for scenario in ("idle", "disabled", "fault"):
        last = max(n for n, group in enumerate(groups) if group["scenario"] == scenario)
        rows[_end(text, groups, last)] = _GROUP.format(release, scenario)
    lines = text.splitlines(keepends=True)
    for place in sorted(rows, reverse=True):
        lines.insert(place, rows[place])
    new = "".join(lines)
    minor = ".".join(map(str, Version(release).release[:2]))
    known = [str(each) for each in content["known_releases"]]
    if not any(Version(each).release[:2] == Version(minor).release for each in known):
        new = new.replace(f'"{known[-1]}"]', f'"{known[-1]}", "{minor}"]', 1)
    return new


_READER: Final = """\
  - release: "{}"
    torch: "{}"
    source: {}
"""
_GROUP: Final = """\
  - writer: "{}"
    scenario: {}
    checkpoints: [saved/w1]
    cells: []
"""


def _end(text: str, rows: Any, number: int) -> int:
    """Return the line after a row; comments and blank lines below a row belong to the next one."""
    lines = text.splitlines()
    start = int(rows.lc.item(number)[0])
    end = start + 1
    for place in range(start + 1, len(lines)):
        if re.match(r"  - |\S", lines[place]):
            break
        if lines[place].strip() and not lines[place].lstrip().startswith("#"):
            end = place + 1
    return end


def _quoted(text: str) -> Any:
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    return DoubleQuotedScalarString(text)


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = _UNBROKEN
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _sequence(cells: Sequence[CellRow]) -> Any:
    """Return cells as YAML, one line per cell."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    found = CommentedSeq()
    for cell in cells:
        row = CommentedMap(asdict(cell))
        for key in ("reader", "error"):
            row[key] = _quoted(row[key])
        row.fa.set_flow_style()
        found.append(row)
    return found
