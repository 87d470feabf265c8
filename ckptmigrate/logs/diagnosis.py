"""The cause of an error and the releases that fail with it, decided by a checkpoint.

Writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ckptmigrate.logs.cause_tests import CAUSE_TESTS, Evidence
from ckptmigrate.logs.examined import Seen
from ckptmigrate.logs.kinds import Cause, ErrorKind
from ckptmigrate.logs.recognition import Recognised, recognise
from ckptmigrate.planning import fixes
from ckptmigrate.planning.fixes import Advice
from ckptmigrate.releases.job import RAISE_ALL, Job
from ckptmigrate.releases.prediction import Verdict

# The job for which `check` predicts the error.
_JOBS: Final = {
    "strict-rerun-shards": Job(strictness=RAISE_ALL),
    "strict-keys": Job(strictness=RAISE_ALL),
    "lone-rerun-mode": Job(finetune=True),
}


@dataclass(frozen=True)
class Decision:
    """A cause and the evidence of the checkpoint for it.

    Attributes:
        cause: the cause.
        evidence: the evidence; None if a checkpoint cannot show the cause.
    """

    cause: Cause
    evidence: Evidence | None = None


@dataclass(frozen=True)
class Prediction:
    """The releases that `check` predicts to fail with an error on a checkpoint.

    Attributes:
        releases: the releases, oldest first.
        release: the newest of them that is not a development version.
        fix: the fix for a job of that release.
    """

    releases: tuple[str, ...]
    release: str
    fix: Advice


def decide(found: Recognised, seen: Seen) -> tuple[Decision, ...]:
    """Return the evidence of a checkpoint for each cause of an error, causes that hold first."""
    decisions = [Decision(cause, _examine(cause, found.values, seen)) for cause in found.causes]
    order: dict[bool | None, int] = {True: 0, None: 1, False: 2}
    return tuple(
        sorted(decisions, key=lambda each: order[each.evidence.holds if each.evidence else None])
    )


def predict(kind: ErrorKind, seen: Seen, text: str = "") -> Prediction | None:
    """Return the releases that `check` predicts to fail with an error, and the fix.

    Args:
        kind: the error.
        seen: the checkpoint.
        text: the log line, which excludes releases that print another text.

    Returns:
        None if no release fails with the error or the checkpoint cannot be read.
    """
    if seen.reading is None:
        return None
    job = _JOBS.get(kind.error, Job())
    verdicts = seen.verdicts(job)

    def failing(test: Callable[[str], bool]) -> list[Verdict]:
        return [each for each in verdicts if any(test(found.error) for found in each.obstacles)]

    def is_kind(error: str) -> bool:
        recognised = recognise(error)
        return recognised is not None and recognised.kind is kind

    found = failing(lambda error: is_kind(error) and kind.same(error, text)) or failing(is_kind)
    if not found:
        return None
    # The newest reader is a development version, which few jobs run.
    released = [each for each in found if ".dev" not in each.reader.release] or found
    fix = fixes.advise(seen.reading, released[-1], job, (seen.path,))
    releases = tuple(each.reader.release for each in found)
    return Prediction(releases, released[-1].reader.release, fix)


def _examine(cause: Cause, values: Mapping[str, str], seen: Seen) -> Evidence | None:
    test = CAUSE_TESTS.get(cause.test)
    return None if test is None else test(seen, values)
