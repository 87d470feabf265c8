"""The measurement of the matrix: real releases load every checkpoint, unmigrated and migrated."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ckptmigrate.compat.cells import (
    NO_OPTIMIZER,
    OK,
    UNTOUCHED,
    CellRow,
    GroupRow,
    Matrix,
)
from ckptmigrate.errors import RefusedError
from ckptmigrate.measuring import jobs, load_results, subjects
from ckptmigrate.measuring.load_results import LASTING_SINCE, LoadResult
from ckptmigrate.measuring.subjects import Checkpoint
from ckptmigrate.planning.losses import OPTIMIZER_STATE
from ckptmigrate.releases import prediction
from ckptmigrate.releases.facts import Compat, matches
from ckptmigrate.releases.prediction import Verdict
from ckptmigrate.releases.readers import reader
from ckptmigrate.storage import local_files
from ckptmigrate.storage.directories import LocalDirectory
from ckptmigrate.verbs.migrate import MigrationRequest
from ckptmigrate.versions.detection import read
from ckptmigrate.versions.load_rules import WITHOUT_CONTEXT

Say = Callable[[str], None]

# Names of KnowledgeRows for the outcomes of readers.
_WHEEL: Final = "wheel"
_TRAINING: Final = "training-{torch}"
_RULES: Final = "rules"


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
    """The result of a measurement.

    Attributes:
        groups: the measured groups, with new cells.
        differences: cells that changed, and checkpoints of a group that contradict each other.
    """

    groups: list[GroupRow] = field(default_factory=list)
    differences: list[CellDifference] = field(default_factory=list)


@dataclass(frozen=True)
class _Migrated:
    """A checkpoint after the migration for one reader.

    Attributes:
        folder: the iteration to load; that of the source if nothing had to be written.
        untouched: whether nothing had to be written.
        losses: the data losses that the migration needed.
    """

    folder: Path
    untouched: bool
    losses: tuple[str, ...]

    @property
    def as_before(self) -> bool:
        """Return whether a job loads it as it loads the unmigrated checkpoint."""
        return self.untouched and not self.losses


class Measurement:
    """A measurement of the matrix.

    Args:
        matrix, compat: the content of compat_matrix.yaml.
        readers: a directory with one directory per release, see `make readers`.
        samples: the directory of the samples.
        work: an empty directory for saved and migrated checkpoints.
        say: called with a line of text for each step.
    """

    def __init__(
        self, matrix: Matrix, compat: Compat, readers: Path, samples: Path, work: Path, say: Say
    ) -> None:
        self.matrix, self.compat, self.say = matrix, compat, say
        self.readers, self.samples, self.work = readers, samples, work
        self.wheels = jobs.installed(readers)
        self.training = _trained_cells(samples / "raw_matrix.json")
        self.training_migrated = _trained_cells(samples / "migrated_matrix.json")

    def run(self, groups: Sequence[GroupRow], asked: Collection[str] = ()) -> Measured:
        """Measure groups.

        Args:
            groups: the groups to measure.
            asked: the readers; default: every release of the section `readers`.

        Raises:
            RefusedError: a release does not run, or its error matches no row of `failures`.
        """
        found = {
            (group.writer, group.scenario): [self._checkpoint(group, n) for n in group.checkpoints]
            for group in groups
        }
        every = [checkpoint for each in found.values() for checkpoint in each]
        self._save([checkpoint for checkpoint in every if checkpoint.saved])
        self.tensors = {
            each.key: subjects.digests(read(LocalDirectory(each.folder)).manifest) for each in every
        }
        releases = [r.release for r in self.compat.readers if not asked or r.release in asked]
        with ThreadPoolExecutor(2) as pool:
            answers = dict(
                zip(releases, pool.map(lambda r: self._ask(r, every), releases), strict=True)
            )
        measured = Measured()
        for group in groups:
            cells = [
                self._cell(group, release, [answers[release][c.key] for c in found[key]], measured)
                for key in [(group.writer, group.scenario)]
                for release in releases
            ]
            kept = [cell for cell in group.cells if cell.reader not in releases]
            order = [row.release for row in self.compat.readers]
            cells = sorted([*kept, *cells], key=lambda cell: order.index(cell.reader))
            measured.groups.append(
                GroupRow(group.writer, group.scenario, group.checkpoints, tuple(cells))
            )
        return measured

    def _checkpoint(self, group: GroupRow, name: str) -> Checkpoint:
        return subjects.checkpoint(
            group.writer, group.scenario, name, self.samples, self.work / "saves"
        )

    def _save(self, wanted: Sequence[Checkpoint]) -> None:
        for writer in dict.fromkeys(each.writer for each in wanted):
            self.say(f"{writer} saves")
            mine = [each for each in wanted if each.writer == writer]
            answers = jobs.run(
                writer,
                self.readers,
                [{"checkpoint": str(c.folder), "save": c.scenario, **dict(c.sizes)} for c in mine],
            )
            for each, ranks in zip(mine, answers, strict=True):
                for rank in ranks:
                    if rank["error"]:
                        raise RefusedError(f"{writer} cannot save: {rank['error']}", path=each.root)

    def _ask(self, release: str, every: Sequence[Checkpoint]) -> dict[str, list[LoadResult]]:
        """Return the [unmigrated, migrated] outcomes of a reader for each checkpoint, by key."""
        migrated = {each.key: self._migrate(each, release) for each in every}
        if release not in self.wheels:
            self.say(f"{release} is not a wheel: its cells are derived")
            return {each.key: self._derive(each, release, migrated[each.key]) for each in every}
        self.say(f"{release} reads {len(every)} checkpoints, raw and migrated")
        wanted = [self._job(each, each.folder, release) for each in every]
        changed = [each for each in every if not migrated[each.key].as_before]
        for each in changed:
            after = migrated[each.key]
            job = self._job(each, after.folder, release)
            wanted.append({**job, "no_load_optim": OPTIMIZER_STATE in after.losses})
        answers = jobs.run(release, self.readers, wanted)
        raw = {
            each.key: self._outcome(each, release, ranks, ())
            for each, ranks in zip(every, answers, strict=False)
        }
        for each in every:
            raw[each.key] = self._known_otherwise(each, release, raw[each.key])
        answers_after = answers[len(every) :]
        found = {
            each.key: [raw[each.key], LoadResult(raw[each.key].result, UNTOUCHED)] for each in every
        }
        for each, ranks in zip(changed, answers_after, strict=True):
            outcome = self._outcome(each, release, ranks, migrated[each.key].losses)
            found[each.key] = [raw[each.key], outcome]
        return {
            each.key: [raw[each.key], self._trained_migrated(each, release, found[each.key][1])]
            for each in every
        }

    def _job(self, each: Checkpoint, folder: Path, release: str) -> dict[str, Any]:
        lasting = all(matches(r, LASTING_SINCE) for r in (each.writer, release))
        step = each.scenario == "fault" and lasting
        return {"checkpoint": str(folder), "step": step, **dict(each.sizes)}

    def _migrate(self, each: Checkpoint, release: str) -> _Migrated:
        """Migrate a checkpoint for a release, and allow the data losses that this requires."""
        output = self.work / f"{each.key}-for-{release}"
        request = MigrationRequest(release, output=output)
        try:
            done = request.run(each.root)
        except RefusedError as refused:
            if not refused.losses:
                raise
            request = replace(request, allow_loss=refused.losses)
            done = request.run(each.root)
        if done.destination is None:
            return _Migrated(each.folder, True, request.allow_loss)
        return _Migrated(output / done.names[0], False, request.allow_loss)

    def _outcome(
        self,
        each: Checkpoint,
        release: str,
        ranks: Sequence[dict[str, Any]],
        losses: Collection[str],
    ) -> LoadResult:
        """Return the outcome of a job, from those of its ranks."""
        for rank in ranks:
            if rank["error"]:
                return self._failed(each, release, rank["error"], _WHEEL)
        no_optimizer = OPTIMIZER_STATE in losses
        expected = {
            key: value
            for key, value in self.tensors[each.key].items()
            if not (no_optimizer and key.startswith("optimizer."))
        }
        if any(rank["tensors"] != expected for rank in ranks):
            raise RefusedError(f"{release} loads other tensors than {each.key} has")
        result = load_results.rerun_result(each, release, ranks)
        return LoadResult(NO_OPTIMIZER if no_optimizer and result == OK else result, _WHEEL)

    def _failed(self, each: Checkpoint, release: str, error: str, known: str) -> LoadResult:
        row = self.matrix.failure(error)
        if row is None:
            raise RefusedError(
                f"{release} fails on {each.key} in a way that no row of failures has: {error}",
                fix="add one to compat_matrix.yaml",
            )
        return LoadResult(row.failure, known, load_results.one_line(error, each))

    def _known_otherwise(self, each: Checkpoint, release: str, found: LoadResult) -> LoadResult:
        """Return the outcome of Megatron-LM training if it was measured, else the given one.

        The jobs here do not include the distributed optimizer, which rejects some sharding types.
        If training was not measured, the rules of `check` decide whether it does.
        """
        training = self._trained(each, release, self.training)
        if training is not None:
            if training.result != found.result:
                raise RefusedError(
                    f"{release} on {each.key}: measured {training.result} with training and "
                    f"{found.result} with the wheel"
                )
            return training
        if each.scenario == "optimizer" and found.result == OK:
            verdict = self._check(each.folder, release)
            if not verdict.resumes:
                return self._failed(each, release, verdict.obstacles[0].error, _RULES)
        return found

    def _trained_migrated(self, each: Checkpoint, release: str, found: LoadResult) -> LoadResult:
        """Return the migrated outcome of training if it was measured, else the given one."""
        training = self._trained(each, release, self.training_migrated)
        if training is None:
            return found
        if training.result != found.result:
            raise RefusedError(
                f"{release} on the migrated {each.key}: measured {training.result} with training, "
                f"and {found.result} otherwise"
            )
        return training

    def _trained(
        self, each: Checkpoint, release: str, rows: Mapping[tuple[str, str], dict[str, Any]]
    ) -> LoadResult | None:
        row = rows.get((release, each.name))
        if row is None:
            return None
        known = _TRAINING.format(torch=row["reader_torch"])
        if row["stage"] != "ok":
            return self._failed(each, release, row["error"], known)
        if each.scenario != "fault":
            return LoadResult(OK, known)
        return LoadResult(
            load_results.fault_result(each, release, kept=row["fault_context_kept"]), known
        )

    def _derive(self, each: Checkpoint, release: str, after: _Migrated) -> list[LoadResult]:
        """Return the outcomes for a reader without a wheel: measured by training, or from rules."""
        raw = self._trained(each, release, self.training)
        raw = raw or self._by_rules(each, each.folder, release)
        if after.as_before:
            outcome = LoadResult(raw.result, UNTOUCHED)
        elif OPTIMIZER_STATE in after.losses:
            outcome = LoadResult(NO_OPTIMIZER, _RULES)
        else:
            outcome = self._by_rules(each, after.folder, release)
        return [raw, self._trained_migrated(each, release, outcome)]

    def _by_rules(self, each: Checkpoint, folder: Path, release: str) -> LoadResult:
        verdict = self._check(folder, release)
        if not verdict.resumes:
            return self._failed(each, release, verdict.obstacles[0].error, _RULES)
        if each.scenario != "fault":
            return LoadResult(OK, _RULES)
        kept = WITHOUT_CONTEXT not in verdict.without
        found = read(LocalDirectory(folder)).record.kind.value
        return LoadResult(
            load_results.fault_result(each, release, kept=kept and found == "fault"), _RULES
        )

    def _check(self, folder: Path, release: str) -> Verdict:
        return prediction.check(read(LocalDirectory(folder)), reader(release, self.compat))

    def _cell(
        self,
        group: GroupRow,
        release: str,
        outcomes: Sequence[list[LoadResult]],
        measured: Measured,
    ) -> CellRow:
        """Return a cell, and add its differences to `measured`.

        A difference is a change of the cell, or an outcome that the checkpoints do not share.
        """

        def differs(what: str) -> None:
            measured.differences.append(CellDifference(group.writer, release, group.scenario, what))

        raw, migrated = outcomes[0]
        for name, other in zip(group.checkpoints, outcomes, strict=True):
            if [each.result for each in other] != [raw.result, migrated.result]:
                differs(
                    f"{name} ends with {other[0].result} and {other[1].result}, "
                    f"{group.checkpoints[0]} with {raw.result} and {migrated.result}"
                )
        cell = CellRow(release, raw.result, raw.known, migrated.result, migrated.known, raw.error)
        old = next((row for row in group.cells if row.reader == release), None)
        if old is None:
            differs(f"is new: raw {cell.raw}, migrated {cell.migrated}")
        elif old != cell:
            for name in ("raw", "raw_known", "migrated", "migrated_known", "error"):
                if getattr(old, name) != getattr(cell, name):
                    differs(f"{name} was {getattr(old, name)!r} and is {getattr(cell, name)!r}")
        return cell


def _trained_cells(file: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what Megatron-LM training did: (reader, sample) -> row."""
    return {(row["reader"], row["sample"]): row for row in json.loads(local_files.read_text(file))}


def groups_of(
    matrix: Matrix, *, writers: Collection[str] = (), scenarios: Collection[str] = ()
) -> Iterator[GroupRow]:
    """Yield the groups of some writers and scenarios; default: all."""
    for group in matrix.matrix:
        if (not writers or group.writer in writers) and (
            not scenarios or group.scenario in scenarios
        ):
            yield group
