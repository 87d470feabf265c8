"""The measured compatibility matrix: which release resumes from whose checkpoint.

It is written down in compat_matrix.yaml and measured by `matrix run` (measuring/). Nothing that
migrates or checks a checkpoint looks at it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from ckptmigrate.access import opener

COMPILED: Final = "data/matrix.json"
IDLE: Final = "idle"
# The KnowledgeRow of a reader that nothing is written for: what is known of the raw load counts.
UNTOUCHED: Final = "untouched"

# What a reader makes of a checkpoint, apart from the failures of FailureRow.
OK: Final = "ok"
NO_FAULT: Final = "ok-no-fault"
STALE_FAULT: Final = "ok-stale-fault"
NO_OPTIMIZER: Final = "ok-no-optimizer"
MEANINGS: Final = {
    OK: "resumes with all that the checkpoint holds",
    NO_FAULT: "resumes without the fault context",
    STALE_FAULT: "resumes with a fault context that names another release's line numbers: "
    "it is never found again, and every later resume exits",
    NO_OPTIMIZER: "resumes with --no-load-optim, without the optimizer state",
}


def grade(outcome: str) -> str:
    """An outcome as `ok`, `partial` (it resumes without something) or `fails`."""
    if outcome == OK:
        return "ok"
    return "partial" if outcome in MEANINGS else "fails"


@dataclass(frozen=True)
class ScenarioRow:
    """A kind of checkpoint that the matrix has cells for.

    Attributes:
        scenario: its name, for example `idle`.
        summary: what was saved, and how the job loads it.
    """

    scenario: str
    summary: str


@dataclass(frozen=True)
class FailureRow:
    """A way in which a load ends.

    Attributes:
        failure: its name, which cells use.
        error: a regular expression found in what the reader says.
        why: the reason in words.
        source: the tag, file or sample it is known from.
    """

    failure: str
    error: str
    why: str
    source: str


@dataclass(frozen=True)
class KnowledgeRow:
    """How an outcome is known.

    Attributes:
        known: its name, which cells use.
        how: `measured` or `derived`.
        torch: the torch it was measured under; empty for a derived one.
        source: who measured, or the rule that it is derived from.
    """

    known: str
    how: str
    torch: str
    source: str


@dataclass(frozen=True)
class CellRow:
    """What one reader makes of the checkpoints of a group.

    Attributes:
        reader: the release.
        raw: the outcome for the checkpoint as it lies: one of MEANINGS, or a failure.
        raw_known: how that is known, a KnowledgeRow's name.
        migrated: the outcome after one command.
        migrated_known: how that is known.
        error: what the reader said of the checkpoint as it lies; empty where it resumes.
    """

    reader: str
    raw: str
    raw_known: str
    migrated: str
    migrated_known: str
    error: str


@dataclass(frozen=True)
class GroupRow:
    """The cells of one writer in one scenario.

    Attributes:
        writer: the release.
        scenario: a ScenarioRow's name.
        checkpoints: those that stand for it: names of samples, or `saved/w1` and the like for
            one that the real release saves while the matrix is measured.
        cells: one per reader.
    """

    writer: str
    scenario: str
    checkpoints: tuple[str, ...]
    cells: tuple[CellRow, ...]


@dataclass(frozen=True)
class AlikeRow:
    """A writer whose checkpoints of a scenario fare as others do.

    What ends the load of an idle checkpoint of the writer ends the load of these, too.

    Attributes:
        writer, scenario: which cells.
        like, like_scenario: the writer and scenario of the group whose cells they repeat.
        because: the rule.
        source: what shows it.
    """

    writer: str
    scenario: str
    like: str
    like_scenario: str
    because: str
    source: str


# The sections of compat_matrix.yaml that the matrix is made of.
ROWS: Final[dict[str, type]] = {
    "scenarios": ScenarioRow,
    "failures": FailureRow,
    "knowledge": KnowledgeRow,
    "matrix": GroupRow,
    "alike": AlikeRow,
}


@dataclass(frozen=True)
class Cell:
    """What a reader makes of a writer's checkpoint, and how that is known.

    Attributes:
        writer, reader: releases.
        scenario: a ScenarioRow's name.
        raw, migrated: outcomes, see CellRow.
        raw_known, migrated_known: how each is known, in words.
        error: what the reader says of the checkpoint as it lies; empty where it resumes.
        reason: why, where it does not; empty where it resumes.
        command: what is to be run before the reader resumes; empty where nothing is.
    """

    writer: str
    reader: str
    scenario: str
    raw: str
    raw_known: str
    migrated: str
    migrated_known: str
    error: str
    reason: str
    command: str


@dataclass(frozen=True)
class Matrix:
    """The sections of compat_matrix.yaml that the matrix is made of, in the order of the file."""

    scenarios: tuple[ScenarioRow, ...]
    failures: tuple[FailureRow, ...]
    knowledge: tuple[KnowledgeRow, ...]
    matrix: tuple[GroupRow, ...]
    alike: tuple[AlikeRow, ...]

    @cached_property
    def readers(self) -> tuple[str, ...]:
        """The readers, oldest first: those of the first group."""
        return tuple(cell.reader for cell in self.matrix[0].cells) if self.matrix else ()

    @cached_property
    def cells(self) -> Mapping[tuple[str, str, str], Cell]:
        """Every cell by (writer, reader, scenario); the writers as in the scenario `idle`."""
        found = {}
        for group in self.matrix:
            for row in group.cells:
                cell = self._cell(group.writer, group.scenario, row)
                found[group.writer, row.reader, group.scenario] = cell
        for alike in self.alike:
            for row in self.group(alike.like, alike.like_scenario).cells:
                idle = found[alike.writer, row.reader, IDLE]
                cell = self._like(self._cell(alike.writer, alike.scenario, row), idle, alike)
                found[alike.writer, row.reader, alike.scenario] = cell
        return found

    def writers(self, scenario: str) -> tuple[str, ...]:
        """The writers that have cells of a scenario, oldest first."""
        from packaging.version import Version

        found = {writer for writer, _, of in self.cells if of == scenario}
        return tuple(sorted(found, key=Version))

    def group(self, writer: str, scenario: str) -> GroupRow:
        """The group of a writer and a scenario."""
        return next(g for g in self.matrix if (g.writer, g.scenario) == (writer, scenario))

    def failure(self, error: str) -> FailureRow | None:
        """The first failure whose pattern is found in an error; None for an unknown error."""
        return next((row for row in self.failures if re.search(row.error, error)), None)

    def meaning(self, outcome: str) -> str:
        """An outcome in words."""
        if outcome in MEANINGS:
            return MEANINGS[outcome]
        return next(row.why for row in self.failures if row.failure == outcome)

    def _cell(self, writer: str, scenario: str, row: CellRow) -> Cell:
        return Cell(
            writer,
            row.reader,
            scenario,
            row.raw,
            self._known(row.raw_known, row.reader),
            row.migrated,
            self._known(row.migrated_known, row.reader, of_raw=row.raw_known),
            row.error,
            "" if row.raw in MEANINGS else self.meaning(row.raw),
            _command(writer, row.reader, row.raw, row.migrated),
        )

    def _known(self, name: str, reader: str, of_raw: str = "") -> str:
        row = next(row for row in self.knowledge if row.known == name)
        if name == UNTOUCHED:
            return f"{self._known(of_raw, reader)}; {row.source}"
        if row.how == "measured":
            return f"measured with {reader} under torch {row.torch}: {row.source}"
        return f"derived: {row.source}"

    def _like(self, cell: Cell, idle: Cell, alike: AlikeRow) -> Cell:
        """A cell that repeats another one's; what ends an idle checkpoint of the writer ends
        this one, too, and what is of the other writer alone does not."""
        derived = f"derived from {alike.like}, {alike.like_scenario}: {alike.because}"
        raw, error, reason = cell.raw, cell.error, cell.reason
        if grade(idle.raw) == "fails":
            raw, error, reason = idle.raw, idle.error, idle.reason
        elif grade(raw) == "fails" and cell.migrated == OK:
            raw, error, reason = OK, "", ""
        return replace(
            cell,
            raw=raw,
            raw_known=f"{derived} ({cell.raw_known})",
            migrated_known=f"{derived} ({cell.migrated_known})",
            error=error,
            reason=reason,
            command=_command(cell.writer, cell.reader, raw, cell.migrated),
        )


def _command(writer: str, reader: str, raw: str, migrated: str) -> str:
    """The command that makes a reader resume; empty where it resumes from what lies there."""
    from packaging.version import Version

    if raw in (migrated, OK) or grade(migrated) == "fails":
        return ""
    verb = "upgrade" if Version(writer) < Version(reader) else "downgrade"
    loss = {NO_FAULT: " --allow-loss fault-context", NO_OPTIMIZER: " --allow-loss optimizer-state"}
    return f"ckptmigrate {verb} PATH --to {reader}{loss.get(migrated, '')}"


def from_sections(sections: Mapping[str, Any]) -> Matrix:
    """The matrix from plain lists and mappings that fit the schema (see compiling.py)."""
    groups = tuple(
        GroupRow(
            group["writer"],
            group["scenario"],
            tuple(group["checkpoints"]),
            tuple(CellRow(**cell) for cell in group["cells"]),
        )
        for group in sections["matrix"]
    )
    others: dict[str, Any] = {
        name: tuple(row(**each) for each in sections[name])
        for name, row in ROWS.items()
        if row is not GroupRow
    }
    return Matrix(matrix=groups, **others)


def matrix() -> Matrix:
    """The matrix that is shipped."""
    return from_sections(json.loads(opener.shipped(COMPILED)))
