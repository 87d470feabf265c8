"""Write measured cells into compat_matrix.yaml, and leave every other line as it is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from ckptmigrate.matrix import CellRow, GroupRow

_UNBROKEN: Final = 10_000  # a line's width, in characters, that no row reaches


def updated(text: str, groups: Sequence[GroupRow]) -> str:
    """The text of a compat_matrix.yaml with the cells of some groups, comments kept.

    Args:
        groups: groups that the file has, with the cells to be there. Cells that are there
            already keep their lines.
    """
    yaml = _yaml()
    content = yaml.load(text)
    wanted = {(group.writer, group.scenario): group for group in groups}
    changed = False
    for row in content["matrix"]:
        group = wanted.get((row["writer"], row["scenario"]))
        if group is None or [dict(cell) for cell in row["cells"]] == list(map(asdict, group.cells)):
            continue
        row["cells"] = _sequence(group.cells)
        changed = True
    if not changed:
        return text
    out = io.StringIO()
    yaml.dump(content, out)
    return out.getvalue()


def update(path: Path, groups: Sequence[GroupRow]) -> bool:
    """Write the cells of groups into a file; whether it changed.

    Raises:
        OSError: it cannot be read or written.
    """
    text = path.read_text(encoding="utf-8")
    new = updated(text, groups)
    if new != text:
        path.write_text(new, encoding="utf-8")
    return new != text


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = _UNBROKEN
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _sequence(cells: Sequence[CellRow]) -> Any:
    """One line per cell."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    found = CommentedSeq()
    for cell in cells:
        row = CommentedMap(asdict(cell))
        for key in ("reader", "error"):
            row[key] = DoubleQuotedScalarString(row[key])
        row.fa.set_flow_style()
        found.append(row)
    return found
