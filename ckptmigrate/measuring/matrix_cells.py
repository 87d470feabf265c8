"""The cells of compat_matrix.yaml, as a measurement finds them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ckptmigrate.compat.cells import MEANINGS, CellRow, GroupRow, Matrix
from ckptmigrate.errors import RefusedError
from ckptmigrate.measuring import subjects
from ckptmigrate.measuring.load_results import LoadPair
from ckptmigrate.measuring.measure import Measurement


@dataclass(frozen=True)
class CellDifference:
    """A difference between an outcome and the matrix."""

    writer: str
    reader: str
    scenario: str
    what: str

    def __str__(self) -> str:
        return f"{self.writer} -> {self.reader}, {self.scenario}: {self.what}"


@dataclass
class Measured:
    """The result of a measurement of the matrix.

    Attributes:
        groups: the measured groups, with new cells.
        differences: cells that changed, and checkpoints of a group that contradict each other.
    """

    groups: list[GroupRow] = field(default_factory=list)
    differences: list[CellDifference] = field(default_factory=list)


def measured(
    measurement: Measurement,
    groups: Sequence[GroupRow],
    samples: Path,
    asked: Collection[str] = (),
) -> Measured:
    """Measure groups of the matrix.

    The cells of a sample that was measured elsewhere and is not in the directory stay.

    Args:
        groups: the groups to measure.
        samples: the directory of the samples.
        asked: the readers; default: every release of the section `readers`.

    Raises:
        RefusedError: a release does not run, or its error matches no row of `failures`.
    """
    saves = measurement.work / "saves"
    groups = [
        group
        for group in groups
        if all(subjects.is_present(group.scenario, name, samples) for name in group.checkpoints)
        or not measurement.training.has(group.checkpoints)
    ]
    every = {
        (group.writer, group.scenario): [
            subjects.of_matrix(group.writer, group.scenario, name, samples, saves)
            for name in group.checkpoints
        ]
        for group in groups
    }
    order = [row.release for row in measurement.compat.readers]
    releases = [release for release in order if not asked or release in asked]
    found = measurement.run([each for of in every.values() for each in of], releases)
    result = Measured()
    for group in groups:
        keys = [each.key for each in every[group.writer, group.scenario]]
        cells = [cell for cell in group.cells if cell.reader not in releases]
        for release in releases:
            pairs = [found[release][key] for key in keys]
            _require_defined(measurement.matrix, group, release, pairs)
            cells.append(_cell(group, release, pairs, result.differences.append))
        cells.sort(key=lambda cell: order.index(cell.reader))
        result.groups.append(
            GroupRow(group.writer, group.scenario, group.checkpoints, tuple(cells))
        )
    return result


def _require_defined(
    matrix: Matrix, group: GroupRow, release: str, pairs: Sequence[LoadPair]
) -> None:
    """Raise if compat_matrix.yaml does not define an outcome."""
    defined = {*MEANINGS, *(row.failure for row in matrix.failures)}
    for result in (result for pair in pairs for result in (pair.raw, pair.migrated)):
        if result.result not in defined:
            raise RefusedError(
                f"{release} fails on {group.writer}, {group.scenario} in a way that no row of "
                f"failures has: {result.error}",
                fix="add one to compat_matrix.yaml",
            )


def _cell(
    group: GroupRow,
    release: str,
    pairs: Sequence[LoadPair],
    report: Callable[[CellDifference], object],
) -> CellRow:
    """Return a cell, and report its differences.

    A difference is a change of the cell, or an outcome that the checkpoints do not share.
    """

    def differs(what: str) -> None:
        report(CellDifference(group.writer, release, group.scenario, what))

    raw, migrated = pairs[0].raw, pairs[0].migrated
    for name, other in zip(group.checkpoints, pairs, strict=True):
        if (other.raw.result, other.migrated.result) != (raw.result, migrated.result):
            differs(
                f"{name} ends with {other.raw.result} and {other.migrated.result}, "
                f"{group.checkpoints[0]} with {raw.result} and {migrated.result}"
            )
    cell = CellRow(release, raw.result, raw.known, migrated.result, migrated.known, raw.error)
    old = next((row for row in group.cells if row.reader == release), None)
    if old is None:
        differs(f"is new: raw {cell.raw}, migrated {cell.migrated}")
        return cell
    for name, value in asdict(cell).items():
        if getattr(old, name) != value:
            differs(f"{name} was {getattr(old, name)!r} and is {value!r}")
    return cell


def groups_of(
    matrix: Matrix, *, writers: Collection[str] = (), scenarios: Collection[str] = ()
) -> Iterator[GroupRow]:
    """Yield the groups of some writers and scenarios; default: all."""
    for group in matrix.matrix:
        if (not writers or group.writer in writers) and (
            not scenarios or group.scenario in scenarios
        ):
            yield group
