"""A batch as lines of text and as JSON."""

from __future__ import annotations

from typing import Any, Final

from ckptmigrate.batch import summary
from ckptmigrate.batch.drive import Batch, Root
from ckptmigrate.batch.tasks import Outcome, Status
from ckptmigrate.storage.urls import place
from ckptmigrate.text.commands import load
from ckptmigrate.text.lines import Line
from ckptmigrate.text.printable import counted

_COLUMN: Final = 12  # width of the status
_HANG: Final = 2  # small, because paths need the width
_MOST_UNDONE: Final = 8  # checkpoints that one undo command names
_STYLES: Final = {
    Status.DONE: "green",
    Status.UNCHANGED: "green",
    Status.PLANNED: "green",
    Status.SKIPPED: "",
    Status.WANTING: "yellow",
    Status.FAILED: "red",
    Status.INTERRUPTED: "yellow",
}


def lines(found: Batch, verb: str) -> list[Line]:
    """Return the lines of a batch: each checkpoint, the number per status, and how to undo it."""
    shown = [_line(outcome) for outcome in found.outcomes]
    shown += [Line(path, f"{'not begun':{_COLUMN}}", hang=_HANG) for path in found.not_begun]
    shown.append(Line(summary.summary(found), hang=_HANG, style="bold"))
    shown += map(_root, found.roots)
    undone = summary.undo(found, verb)
    done = [each for each in found.outcomes if each.status is Status.DONE]
    if len(done) > _MOST_UNDONE and not found.roots:
        undone = ["`ckptmigrate undo` with the checkpoints that are done above"][: len(undone)]
    shown += [Line(each, "undo: ", whole=True) for each in undone]
    shown += [Line(text, "caution: ", style="yellow") for text in summary.cautions(found)]
    return shown


def _line(outcome: Outcome) -> Line:
    done = outcome.done
    text = done.text
    if outcome.error is None:
        moved = f" -> {done.result}" if done.result not in (None, outcome.path) else ""
        text = f"{outcome.path}{moved}: {done.text}"
    head = f"{outcome.status.value:{_COLUMN}}"
    return Line(text, head, hang=_HANG, style=_STYLES[outcome.status])


def _root(root: Root) -> Line:
    text = f"wrote {root.path}"
    if root.tracker is None:
        text += f", without a tracker file yet: {summary.root_without_tracker(root)}"
    elif use := load(place(root.path)):
        text += f": use it as {use}"
    return Line(text, hang=_HANG)


def as_json(found: Batch, verb: str, again: str | None) -> dict[str, Any]:
    """Return the documented JSON form (docs/many.md)."""
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
        "undo": summary.undo(found, verb),
        "roots": [root.as_json() for root in found.roots],
        "checkpoints": [outcome.as_json() for outcome in found.outcomes],
        "not_begun": list(found.not_begun),
    }


def what_is_left(found: Batch, again: str | None) -> str | None:
    """Return the sentence for stderr, or None.

    None if every checkpoint is finished, although a check may have found problems.
    """
    left = [outcome for outcome in found.outcomes if not outcome.status.good]
    failed = [outcome for outcome in left if outcome.status is not Status.WANTING]
    go_on = f"; to go on run `{again}`" if again else ""
    if found.signal is not None:
        ended = found.total - len(found.not_begun) - found.count(Status.INTERRUPTED)
        what = "what was under way was finished or taken back"
        return f"interrupted after {ended} of {found.total} checkpoints; {what}{go_on}"
    if failed:
        total = counted(found.total, "checkpoint")
        if again and not all(each.transient for each in failed):
            # Running the same command again does not help before the cause is fixed.
            go_on = f"; do what each line says, then to go on run `{again}`"
        return f"{len(failed)} of {total} failed, first {failed[0].path}{go_on}"
    if found.not_begun:
        what = f"what came of {len(found.not_begun)} of {found.total} is not known"
        return f"the Dask scheduler was lost; {what}{go_on}"
    return next((str(root.error) for root in found.roots if root.error is not None), None)
