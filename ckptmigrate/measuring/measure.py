"""The measurement: real releases load checkpoints, unmigrated and migrated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ckptmigrate.compat.cells import NO_OPTIMIZER, OK, UNTOUCHED, Matrix
from ckptmigrate.errors import CorruptError, DamagedError, RefusedError
from ckptmigrate.measuring import jobs, load_results, subjects
from ckptmigrate.measuring.load_results import LoadPair, LoadResult
from ckptmigrate.measuring.subjects import Checkpoint
from ckptmigrate.measuring.training_results import Rows, TrainingResults
from ckptmigrate.planning.losses import OPTIMIZER_STATE
from ckptmigrate.planning.targets import CONVERT, KEEP
from ckptmigrate.releases import prediction
from ckptmigrate.releases.facts import Compat
from ckptmigrate.releases.prediction import Verdict
from ckptmigrate.releases.readers import reader
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
class _Migrated:
    """A checkpoint after the migration for one reader.

    Attributes:
        folder: the iteration to load; that of the source if nothing had to be written.
        untouched: whether nothing had to be written.
        losses: the data losses that the migration needed.
        refusal: why the checkpoint cannot be migrated; empty if it can.
    """

    folder: Path
    untouched: bool
    losses: tuple[str, ...] = ()
    refusal: str = ""

    @property
    def as_before(self) -> bool:
        """Return whether a job loads it as it loads the unmigrated checkpoint."""
        return self.untouched and not self.losses


class Measurement:
    """A measurement of loads.

    Args:
        matrix, compat: the content of compat_matrix.yaml.
        readers: a directory with one directory per release, see `make readers`.
        work: an empty directory for saved and migrated checkpoints.
        say: called with a line of text for each step.
        training: what training did with the checkpoints, by name.
    """

    def __init__(
        self,
        matrix: Matrix,
        compat: Compat,
        readers: Path,
        work: Path,
        say: Say,
        training: TrainingResults,
    ) -> None:
        self.matrix, self.compat, self.say = matrix, compat, say
        self.readers, self.work, self.training = readers, work, training
        self.wheels = jobs.installed(readers)

    def run(
        self, every: Sequence[Checkpoint], releases: Sequence[str]
    ) -> dict[str, dict[str, LoadPair]]:
        """Measure checkpoints, those to save included.

        Args:
            releases: the readers. The results of a release that is not installed are derived.

        Returns:
            release -> key of a checkpoint -> results.

        Raises:
            RefusedError: a release does not run, or contradicts what training did.
        """
        self._save([checkpoint for checkpoint in every if checkpoint.saved])
        self.tensors = {
            each.key: subjects.digests(read(LocalDirectory(each.folder)).manifest)
            for each in every
            if each.program == jobs.TRAINING  # OPTIMIZER compares them with its formula
        }
        with ThreadPoolExecutor(2) as pool:
            found = pool.map(lambda release: self._ask(release, every), releases)
            return dict(zip(releases, found, strict=True))

    def _save(self, wanted: Sequence[Checkpoint]) -> None:
        for writer in dict.fromkeys(each.writers[0] for each in wanted):
            self.say(f"{writer} saves")
            mine = [each for each in wanted if each.writers == (writer,)]
            answers = self._run(writer, mine, [self._saving(each) for each in mine])
            for each, ranks in zip(mine, answers, strict=True):
                for rank in ranks:
                    if rank["error"]:
                        raise RefusedError(f"{writer} cannot save: {rank['error']}", path=each.root)

    def _saving(self, each: Checkpoint) -> dict[str, Any]:
        state = "idle" if each.program == jobs.OPTIMIZER else each.scenario
        return {"checkpoint": str(each.folder), "save": state, **dict(each.job)}

    def _run(
        self, release: str, of: Sequence[Checkpoint], wanted: Sequence[dict[str, Any]]
    ) -> list[Any]:
        """Return the outcomes of the ranks of jobs, each with the program of its checkpoint."""
        found: list[Any] = [None] * len(wanted)
        for program in sorted({each.program for each in of}):
            mine = [number for number, each in enumerate(of) if each.program == program]
            answers = jobs.run(release, self.readers, [wanted[n] for n in mine], program)
            for number, ranks in zip(mine, answers, strict=True):
                found[number] = ranks
        return found

    def _ask(self, release: str, every: Sequence[Checkpoint]) -> dict[str, LoadPair]:
        """Return the results of a reader for each checkpoint, by key."""
        migrated = {each.key: self._migrate(each, release) for each in every}
        if release not in self.wheels:
            self.say(f"{release} is not a wheel: its cells are derived")
            return {each.key: self._derive(each, release, migrated[each.key]) for each in every}
        self.say(f"{release} reads {len(every)} checkpoints, raw and migrated")
        wanted = [self._loading(each, each.folder, release) for each in every]
        changed = [
            each
            for each in every
            if not (migrated[each.key].as_before or migrated[each.key].refusal)
        ]
        for each in changed:
            after = migrated[each.key]
            job = self._loading(each, after.folder, release)
            wanted.append({**job, "no_load_optim": OPTIMIZER_STATE in after.losses})
        answers = self._run(release, [*every, *changed], wanted)
        raw = {
            each.key: self._known_otherwise(each, release, self._outcome(each, release, ranks, ()))
            for each, ranks in zip(every, answers, strict=False)
        }
        loaded = {
            each.key: self._outcome(each, release, ranks, migrated[each.key].losses)
            for each, ranks in zip(changed, answers[len(every) :], strict=True)
        }
        found = {}
        for each in every:
            refusal = migrated[each.key].refusal
            after_load = loaded.get(each.key) or (
                LoadResult(load_results.REFUSED, _RULES, refusal)
                if refusal
                else replace(raw[each.key], known=UNTOUCHED)
            )
            after_load = self._trained_migrated(each, release, after_load)
            found[each.key] = LoadPair(raw[each.key], after_load)
        return found

    def _loading(self, each: Checkpoint, folder: Path, release: str) -> dict[str, Any]:
        lasting = load_results.lasting(each.writers) and load_results.lasting((release,))
        step = each.scenario == "fault" and lasting
        return {"checkpoint": str(folder), "step": step, **dict(each.job)}

    def _migrate(self, each: Checkpoint, release: str) -> _Migrated:
        """Migrate a checkpoint for a release, and allow the data losses that this requires."""
        output = self.work / f"{each.key}-for-{release}"
        optimizer = CONVERT if each.program == jobs.OPTIMIZER else KEEP
        request = MigrationRequest(release, output=output, optimizer=optimizer)
        try:
            try:
                done = request.run(each.root)
            except RefusedError as refused:
                if not refused.losses:
                    raise
                request = replace(request, allow_loss=refused.losses)
                done = request.run(each.root)
        except (RefusedError, CorruptError, DamagedError) as error:
            return _Migrated(each.folder, False, refusal=error.reason)
        if all(plan.satisfied for plan in done.plans):
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
                return self._failed(each, rank["error"], _WHEEL)
        no_optimizer = OPTIMIZER_STATE in losses
        expected = {
            key: value
            for key, value in self.tensors.get(each.key, {}).items()
            if not (no_optimizer and key.startswith("optimizer."))
        }
        if any(rank.get("tensors", {}) != expected or rank.get("unequal") for rank in ranks):
            error = f"{release} loads other tensors than the checkpoint contains"
            return LoadResult(load_results.OTHER_TENSORS, _WHEEL, error)
        result = load_results.rerun_result(each, release, ranks)
        if result == load_results.OTHER_STATE:
            return LoadResult(result, _WHEEL, f"{release} has a fault that the checkpoint has not")
        return LoadResult(NO_OPTIMIZER if no_optimizer and result == OK else result, _WHEEL)

    def _failed(self, each: Checkpoint, error: str, known: str) -> LoadResult:
        """Return the result of an error: a failure of the matrix, or the type of the exception."""
        row = self.matrix.failure(error)
        name = load_results.exception_type(error) if row is None else row.failure
        return LoadResult(name, known, load_results.one_line(error, each))

    def _known_otherwise(self, each: Checkpoint, release: str, found: LoadResult) -> LoadResult:
        """Return the outcome of Megatron-LM training if it was measured, else the given one.

        Jobs of TRAINING have no distributed optimizer, which rejects some sharding types. If
        training was not measured, the rules of `check` decide whether it does.
        """
        training = self._trained(each, release, self.training.raw)
        if training is not None:
            if training.result != found.result:
                raise RefusedError(
                    f"{release} on {each.key}: measured {training.result} with training and "
                    f"{found.result} with the wheel"
                )
            return training
        if each.optimizer and each.program == jobs.TRAINING and found.result == OK:
            verdict = self._check(each.folder, release)
            if verdict.obstacles:
                return self._failed(each, verdict.obstacles[0].error, _RULES)
        return found

    def _trained_migrated(self, each: Checkpoint, release: str, found: LoadResult) -> LoadResult:
        """Return the migrated outcome of training if it was measured, else the given one."""
        training = self._trained(each, release, self.training.migrated)
        if training is None:
            return found
        if training.result != found.result:
            raise RefusedError(
                f"{release} on the migrated {each.key}: measured {training.result} with training, "
                f"and {found.result} otherwise"
            )
        return training

    def _trained(self, each: Checkpoint, release: str, rows: Rows) -> LoadResult | None:
        row = rows.get((release, each.trained))
        if row is None:
            return None
        known = _TRAINING.format(torch=row["reader_torch"])
        if row["stage"] != "ok":
            return self._failed(each, row["error"], known)
        if each.scenario != "fault":
            return LoadResult(OK, known)
        return LoadResult(
            load_results.fault_result(each, release, kept=row["fault_context_kept"]), known
        )

    def _derive(self, each: Checkpoint, release: str, after: _Migrated) -> LoadPair:
        """Return the outcomes for a reader without a wheel: measured by training, or from rules."""
        raw = self._trained(each, release, self.training.raw)
        raw = raw or self._by_rules(each, each.folder, release)
        if after.refusal:
            outcome = LoadResult(load_results.REFUSED, _RULES, after.refusal)
        elif after.as_before:
            outcome = replace(raw, known=UNTOUCHED)
        elif OPTIMIZER_STATE in after.losses:
            outcome = LoadResult(NO_OPTIMIZER, _RULES)
        else:
            outcome = self._by_rules(each, after.folder, release)
        return LoadPair(raw, self._trained_migrated(each, release, outcome))

    def _by_rules(self, each: Checkpoint, folder: Path, release: str) -> LoadResult:
        verdict = self._check(folder, release)
        if verdict.obstacles:
            return self._failed(each, verdict.obstacles[0].error, _RULES)
        if each.scenario != "fault":
            return LoadResult(OK, _RULES)
        kept = WITHOUT_CONTEXT not in verdict.without
        found = read(LocalDirectory(folder)).record.kind.value
        return LoadResult(
            load_results.fault_result(each, release, kept=kept and found == "fault"), _RULES
        )

    def _check(self, folder: Path, release: str) -> Verdict:
        return prediction.check(read(LocalDirectory(folder)), reader(release, self.compat))
