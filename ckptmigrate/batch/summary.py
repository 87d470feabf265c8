"""The texts about a batch as a whole, for the terminal and for reports."""

from __future__ import annotations

from typing import Final

from ckptmigrate.batch.drive import Batch, Root
from ckptmigrate.batch.tasks import Status
from ckptmigrate.report.sentences import CAUTIONS
from ckptmigrate.storage.urls import place
from ckptmigrate.text.commands import command, removal
from ckptmigrate.text.printable import counted

REWRITING: Final = ("upgrade", "downgrade", "repair")


def summary(found: Batch) -> str:
    """Return the number of checkpoints by status, and the duration."""
    counts = [f"{n} {status.value}" for status in Status if (n := found.count(status))]
    counts += [f"{len(found.not_begun)} not begun"] if found.not_begun else []
    total = counted(found.total, "checkpoint")
    return f"{total}: {', '.join(counts) or 'nothing to do'}, in {found.seconds:.1f} s"


def undo(found: Batch, verb: str) -> list[str]:
    """Return the commands that undo this run."""
    if verb not in REWRITING:
        return []
    done = [each for each in found.outcomes if each.status is Status.DONE and each.done.result]
    here = [each.path for each in done if each.done.result == each.path]
    made = [root.path for root in found.roots]
    if not made:  # each task of `repair` creates its own root
        made = [str(each.done.result) for each in done if each.done.result != each.path]
    removed = [removal(place(root), "-r") for root in made]
    return removed + ([command("undo", *here)] if here else [])


def root_without_tracker(root: Root) -> str:
    """Return why a new root has no tracker file."""
    return root.error.reason if root.error else "the iteration it names has not arrived"


def cautions(found: Batch) -> list[str]:
    """Return the warnings about the way the data files were brought into the new roots."""
    used = {outcome.done.link for outcome in found.outcomes}
    return [text for link, text in CAUTIONS.items() if link in used]
