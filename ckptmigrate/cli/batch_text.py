"""A batch in words and in JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ckptmigrate.batch.driving import Batch
from ckptmigrate.batch.work import Outcome, Status
from ckptmigrate.commands import command, shell
from ckptmigrate.linking import Link
from ckptmigrate.printable import printable
from ckptmigrate.verifying.findings import counted

_COLUMN: Final = 12  # width of the status
_MOST_UNDONE: Final = 8  # checkpoints in one command that takes them back
_REWRITING: Final = ("upgrade", "downgrade", "repair")


def lines(found: Batch, verb: str) -> list[str]:
    """A line for each checkpoint, how many came to what, and how to take it back."""
    shown = [_line(outcome) for outcome in found.outcomes]
    shown += [f"{'not begun':{_COLUMN}}{path}" for path in found.not_begun]
    shown.append(_summary(found))
    for root in found.roots:
        if root.tracker is not None:
            shown.append(f"wrote {root.path}: use it as {shell('--load', root.path)}")
        else:
            why = root.error.reason if root.error else "the iteration it names has not arrived"
            shown.append(f"wrote {root.path}, without a tracker file yet: {why}")
    undone = _undo(found, verb)
    if len(_rewritten(found)) > _MOST_UNDONE and not found.roots:
        undone = ["`ckptmigrate undo` with the checkpoints that are done above"]
    shown += [f"undo: {each}" for each in undone]
    if any(outcome.done.link == Link.HARDLINK.value for outcome in found.outcomes):
        shown.append(
            "caution: payload files are hard links; a job that saves one of these iterations "
            "again overwrites them in place, in both roots"
        )
    return [printable(line) for line in shown]


def _line(outcome: Outcome) -> str:
    done = outcome.done
    if outcome.error is not None:
        return f"{outcome.status.value:{_COLUMN}}{done.text}"
    moved = f" -> {done.result}" if done.result not in (None, outcome.path) else ""
    return f"{outcome.status.value:{_COLUMN}}{outcome.path}{moved}: {done.text}"


def _summary(found: Batch) -> str:
    counts = [f"{n} {status.value}" for status in Status if (n := found.count(status))]
    counts += [f"{len(found.not_begun)} not begun"] if found.not_begun else []
    total = counted(found.total, "checkpoint")
    return f"{total}: {', '.join(counts) or 'nothing to do'}, in {found.seconds:.1f} s"


def _undo(found: Batch, verb: str) -> list[str]:
    """The commands that take back what this run did."""
    if verb not in _REWRITING:
        return []
    if found.roots:
        return [shell("rm", "-r", root.path) for root in found.roots]
    done = _rewritten(found)
    return [command("undo", *done)] if done else []


def _rewritten(found: Batch) -> list[str]:
    return [o.path for o in found.outcomes if o.status is Status.DONE and o.done.result == o.path]


def as_json(found: Batch, verb: str, again: str | None) -> dict[str, Any]:
    """The documented JSON form (docs/many.md)."""
    return {
        "verb": verb,
        "good": found.good,
        "summary": {
            "total": found.total,
            **{status.value: found.count(status) for status in Status},
            "not_begun": len(found.not_begun),
        },
        "seconds": round(found.seconds, 3),
        "signal": found.signal,
        "go_on": None if found.good else again,
        "undo": _undo(found, verb),
        "roots": [root.as_json() for root in found.roots],
        "checkpoints": [outcome.as_json() for outcome in found.outcomes],
        "not_begun": list(found.not_begun),
    }


def what_is_left(found: Batch, again: str | None) -> str | None:
    """The sentence for stderr; None where all was done, and only something found wanting."""
    left = [outcome for outcome in found.outcomes if not outcome.status.good]
    failed = [outcome for outcome in left if outcome.status is not Status.WANTING]
    go_on = f"; to go on run `{again}`" if again else ""
    if found.signal is not None:
        ended = found.total - len(found.not_begun) - found.count(Status.INTERRUPTED)
        what = "what was under way was finished or taken back"
        return f"interrupted after {ended} of {found.total} checkpoints; {what}{go_on}"
    if failed:
        total = counted(found.total, "checkpoint")
        return f"{len(failed)} of {total} failed, first {failed[0].path}{go_on}"
    if found.not_begun:
        what = f"what came of {len(found.not_begun)} of {found.total} is not known"
        return f"the Dask scheduler was lost; {what}{go_on}"
    roots: Sequence[Any] = [root.error for root in found.roots if root.error is not None]
    return str(roots[0]) if roots else None
