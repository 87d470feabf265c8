"""The measured compatibility matrix: which release can resume from whose checkpoint.

compat_matrix.yaml contains it, and `matrix run` (measuring/) measures it. No command that migrates
or checks a checkpoint uses it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from ckptmigrate.storage import local_files

COMPILED: Final = "data/matrix.json"
IDLE: Final = "idle"
OPTIMIZER: Final = "optimizer"  # the scenario whose migrations convert the optimizer
# The KnowledgeRow of a migrated outcome if nothing had to be written: that of `raw` applies.
UNTOUCHED: Final = "untouched"

# The outcomes of a load, apart from the failures of FailureRow.
OK: Final = "ok"
NO_FAULT: Final = "ok-no-fault"
STALE_FAULT: Final = "ok-stale-fault"
NO_OPTIMIZER: Final = "ok-no-optimizer"
MEANINGS: Final = {
    OK: "resumes with everything in the checkpoint",
    NO_FAULT: "resumes without the fault context",
    STALE_FAULT: "resumes with a fault context that has the source lines of another release: the "
    "failing call never matches, and every later resume exits",
    NO_OPTIMIZER: "resumes with --no-load-optim, without the optimizer state",
}


def grade(outcome: str) -> str:
    """Return the grade of an outcome: `ok`, `partial` (resumes without something) or `fails`."""
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
    """A way in which a load fails.

    Attributes:
        failure: the name that cells use.
        error: a regular expression that matches a part of the error message.
        why: the reason in words.
        source: the tag, file or sample that shows it.
    """

    failure: str
    error: str
    why: str
    source: str


@dataclass(frozen=True)
class KnowledgeRow:
    """The evidence for an outcome.

    Attributes:
        known: the name that cells use.
        how: `measured` or `derived`.
        torch: the PyTorch version of the measurement; empty if derived.
        source: who measured it, or the rule that it is derived from.
    """

    known: str
    how: str
    torch: str
    source: str


@dataclass(frozen=True)
class CellRow:
    """The outcomes of one reader for the checkpoints of a group.

    Attributes:
        reader: the release.
        raw: the outcome for the unmigrated checkpoint: one of MEANINGS, or a failure.
        raw_known: the name of the KnowledgeRow for `raw`.
        migrated: the outcome for the migrated checkpoint.
        migrated_known: the name of the KnowledgeRow for `migrated`.
        error: the error message for the unmigrated checkpoint; empty if it resumes.
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
        scenario: the name of a ScenarioRow.
        checkpoints: the checkpoints that are measured: names of samples, or names such as
            `saved/w1` for a checkpoint that the real release saves during the measurement.
        cells: one per reader.
    """

    writer: str
    scenario: str
    checkpoints: tuple[str, ...]
    cells: tuple[CellRow, ...]


@dataclass(frozen=True)
class AlikeRow:
    """A writer whose checkpoints of a scenario have the same outcomes as those of another group.

    An error that ends the load of an idle checkpoint of the writer also ends these loads.

    Attributes:
        writer, scenario: the cells.
        like, like_scenario: the writer and scenario of the group whose cells are repeated.
        because: the rule.
        source: the evidence for the rule.
    """

    writer: str
    scenario: str
    like: str
    like_scenario: str
    because: str
    source: str


# The sections of compat_matrix.yaml that belong to the matrix.
ROWS: Final[dict[str, type]] = {
    "scenarios": ScenarioRow,
    "failures": FailureRow,
    "knowledge": KnowledgeRow,
    "matrix": GroupRow,
    "alike": AlikeRow,
}


@dataclass(frozen=True)
class Cell:
    """The outcomes for the checkpoint of a writer in a reader, with the evidence.

    Attributes:
        writer, reader: releases.
        scenario: the name of a ScenarioRow.
        raw, migrated: outcomes, see CellRow.
        raw_known, migrated_known: the evidence for each, in words.
        error: the error message for the unmigrated checkpoint; empty if it resumes.
        reason: why the unmigrated checkpoint fails; empty if it resumes.
        command: the command that lets the reader resume; empty if none is needed or helps.
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
    """The matrix: its sections of compat_matrix.yaml, in the order of the file."""

    scenarios: tuple[ScenarioRow, ...]
    failures: tuple[FailureRow, ...]
    knowledge: tuple[KnowledgeRow, ...]
    matrix: tuple[GroupRow, ...]
    alike: tuple[AlikeRow, ...]

    @cached_property
    def readers(self) -> tuple[str, ...]:
        """Return the readers of the first group, oldest first."""
        return tuple(cell.reader for cell in self.matrix[0].cells) if self.matrix else ()

    @cached_property
    def cells(self) -> Mapping[tuple[str, str, str], Cell]:
        """Return every cell by (writer, reader, scenario).

        The cells of an AlikeRow require those of the same writer in the scenario `idle`.
        """
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
        """Return the writers that have cells of a scenario, oldest first."""
        from packaging.version import Version

        found = {writer for writer, _, of in self.cells if of == scenario}
        return tuple(sorted(found, key=Version))

    def group(self, writer: str, scenario: str) -> GroupRow:
        """Return the group of a writer and a scenario."""
        return next(g for g in self.matrix if (g.writer, g.scenario) == (writer, scenario))

    def failure(self, error: str) -> FailureRow | None:
        """Return the first failure whose pattern matches an error; None for an unknown error."""
        return next((row for row in self.failures if re.search(row.error, error)), None)

    def meaning(self, outcome: str) -> str:
        """Return an outcome in words."""
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
            _command(writer, row.reader, scenario, row.raw, row.migrated),
        )

    def _known(self, name: str, reader: str, of_raw: str = "") -> str:
        row = next(row for row in self.knowledge if row.known == name)
        if name == UNTOUCHED:
            return f"{self._known(of_raw, reader)}; {row.source}"
        if row.how == "measured":
            return f"measured with {reader} under torch {row.torch}: {row.source}"
        return f"derived: {row.source}"

    def _like(self, cell: Cell, idle: Cell, alike: AlikeRow) -> Cell:
        """Return a cell that repeats one of another writer.

        A load error of the idle checkpoint of the writer also applies to this cell. A load error
        of the other writer alone does not.
        """
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
            command=_command(cell.writer, cell.reader, cell.scenario, raw, cell.migrated),
        )


def _command(writer: str, reader: str, scenario: str, raw: str, migrated: str) -> str:
    """Return the command that lets a reader resume; empty if none is needed or helps."""
    from packaging.version import Version

    if raw in (migrated, OK) or grade(migrated) == "fails":
        return ""
    verb = "upgrade" if Version(writer) < Version(reader) else "downgrade"
    convert = " --optimizer convert" if scenario == OPTIMIZER else ""
    loss = {NO_FAULT: " --allow-loss fault-context", NO_OPTIMIZER: " --allow-loss optimizer-state"}
    return f"ckptmigrate {verb} PATH --to {reader}{convert}{loss.get(migrated, '')}"


def from_sections(sections: Mapping[str, Any]) -> Matrix:
    """Return the matrix from plain lists and mappings that fit the schema (see compiling.py)."""
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
    """Return the matrix that the package contains."""
    return from_sections(json.loads(local_files.shipped(COMPILED)))
