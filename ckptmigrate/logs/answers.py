"""The answer to an error line or a log, with the evidence of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

from ckptmigrate.logs.diagnosis import Decision, Prediction, decide, predict
from ckptmigrate.logs.examined import Seen
from ckptmigrate.logs.kinds import VERIFY, ErrorKind, Sure
from ckptmigrate.logs.log_reader import Found, Log, parse_log, read_log
from ckptmigrate.logs.recognition import Recognised
from ckptmigrate.places import Place
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.commands import filled

_PATH = "PATH"


@dataclass(frozen=True)
class Answer:
    """The meaning of an error.

    Attributes:
        recognised: its kind, how sure that is, and the causes that the log does not exclude.
        decisions: the causes with the evidence of the checkpoint; causes that hold are first.
        found: the lines of the log; None for an error that the user named.
        prediction: the releases that fail with it on the checkpoint; None without a checkpoint.
        notes: further facts about the checkpoint.
        path: the checkpoint, as commands name it.
    """

    recognised: Recognised
    decisions: tuple[Decision, ...]
    found: Found | None = None
    prediction: Prediction | None = None
    notes: tuple[str, ...] = ()
    path: Place | str = _PATH

    @property
    def kind(self) -> ErrorKind:
        """Return the kind of the error."""
        return self.recognised.kind

    @property
    def open(self) -> tuple[Decision, ...]:
        """Return the causes to consider: those that hold, or else those that are not excluded."""
        holding = tuple(each for each in self.decisions if each.evidence and each.evidence.holds)
        return holding or tuple(
            each for each in self.decisions if not each.evidence or each.evidence.holds is not False
        )

    @property
    def what(self) -> str:
        """Return the meaning: that of the only cause left, if the text has several meanings."""
        if self.kind.sure is Sure.POSSIBLE and len(self.open) == 1:
            return self.open[0].cause.why
        return self.kind.what

    @property
    def sure(self) -> Sure:
        """Return how sure the meaning is: likely if a checkpoint shows one of several causes."""
        shown = [each for each in self.open if each.evidence and each.evidence.holds]
        if len(shown) == 1 and self.recognised.sure is Sure.POSSIBLE:
            return Sure.LIKELY
        return self.recognised.sure

    @property
    def ruled_out(self) -> tuple[Decision, ...]:
        """Return the causes that the checkpoint excludes."""
        return tuple(
            each for each in self.decisions if each.evidence and each.evidence.holds is False
        )

    def fix(self, decision: Decision) -> str:
        """Return the fix of a cause; `verify` where the checkpoint may refuse the repair."""
        fix = decision.cause.fix
        shown = decision.evidence is not None and decision.evidence.holds
        doubtful = self.path != _PATH and not shown and "`ckptmigrate repair " in fix
        return filled(VERIFY if doubtful else fix, self.path)

    @property
    def fixes(self) -> tuple[str, ...]:
        """Return the fixes: repairs of causes that hold, the advice of `check`, then the others."""
        of_causes = [self.fix(each) for each in self.open]
        repairs = [each for each in of_causes if "`ckptmigrate repair " in each]
        advised = [] if self.prediction is None else predicted_fixes(self.prediction)
        if advised:  # the advice already contains the command that `check` prints
            of_causes = [each for each in of_causes if "`ckptmigrate check " not in each]
        holding = any(each.evidence and each.evidence.holds for each in self.open)
        first = [*repairs, *advised] if holding else advised
        return tuple(dict.fromkeys([*first, *of_causes]))

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form, without the keys that every explanation has."""
        return {
            "sure": self.sure.value,
            "causes": [
                {
                    "cause": each.cause.why,
                    "tell": each.cause.tell,
                    "fix": self.fix(each),
                    "holds": each.evidence.holds if each.evidence else None,
                    "evidence": each.evidence.text if each.evidence else "",
                }
                for each in self.decisions
            ],
            "releases": list(self.prediction.releases) if self.prediction else [],
            "notes": list(self.notes),
            "log": None
            if self.found is None
            else {
                "text": self.found.text,
                "line": self.found.line,
                "count": self.found.count,
                "ranks": sorted(self.found.ranks, key=_by_number),
            },
        }


@dataclass(frozen=True)
class LogAnswer:
    """The meaning of the known errors in a log.

    Attributes:
        answers: one per kind of error: errors that end a job are first, in the order of the log.
        log: the content of the log.
        checkpoint: the checkpoint that was examined, or None.
    """

    answers: tuple[Answer, ...]
    log: Log
    checkpoint: Place | None = None


def predicted_fixes(prediction: Prediction) -> list[str]:
    """Return the advice of `check` for the newest release that fails with the error."""
    fix, release = prediction.fix, prediction.release
    flags = f"run the job with {' '.join(fix.flags)}" if fix.flags else ""
    if fix.command:
        then = f", then {flags}" if flags else ""
        return [f"for {release}: run `{fix.command}`{then}"]
    return [f"for {release}: {flags}"] if flags else []


def of_kind(kind: ErrorKind, seen: Seen | None = None) -> Answer:
    """Return the answer to the name of an error."""
    return _answer(Recognised(kind, {}, kind.sure, kind.causes), None, seen)


def of_text(text: str, seen: Seen | None = None) -> LogAnswer:
    """Return the answer to a text, such as one line of a log."""
    return _of(parse_log(text), seen)


def of_log(
    file: BinaryIO, checkpoint: Place | None = None, progress: Progress | None = None
) -> LogAnswer:
    """Return the answer to a log.

    Args:
        file: the log, a stream of bytes.
        checkpoint: the checkpoint or root that the job loaded, or None to examine none.
        progress: as in `read_log`.

    Raises:
        NotACheckpointError: the checkpoint is not a directory.
    """
    seen = None if checkpoint is None else Seen(checkpoint)
    return _of(read_log(file, progress), seen)


def _of(log: Log, seen: Seen | None) -> LogAnswer:
    answers = tuple(_answer(each.recognised, each, seen) for each in log.found)
    return LogAnswer(answers, log, None if seen is None else seen.path)


def _answer(recognised: Recognised, found: Found | None, seen: Seen | None) -> Answer:
    if seen is None:
        return Answer(recognised, tuple(map(Decision, recognised.causes)), found)
    key = recognised.values.get("key", "")
    notes = []
    if key in seen.keys and "Missing key" in recognised.kind.example:
        notes.append(f"the checkpoint has the key {key}: the log may be about another one")
    if seen.refusal is not None:
        notes.append(f"verify: {seen.refusal}")
    return Answer(
        recognised,
        decide(recognised, seen),
        found,
        predict(recognised.kind, seen, "" if found is None else found.text),
        tuple(notes),
        seen.path,
    )


def _by_number(rank: str) -> tuple[int, str]:
    return (int(rank) if rank.isdigit() else -1, rank)
