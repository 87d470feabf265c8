"""What people and reports are told of a batch as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ckptmigrate.access.places import place
from ckptmigrate.batch.driving import Batch, Root
from ckptmigrate.batch.work import Status
from ckptmigrate.text.commands import command, removal, shell
from ckptmigrate.verifying.findings import counted
from ckptmigrate.writing.linking import Link

REWRITING: Final = ("upgrade", "downgrade", "repair")
CAUTION: Final = (
    "payload files are hard links; a job that saves one of these iterations again overwrites them "
    "in place, in both roots"
)


def summary(found: Batch) -> str:
    """How many came to what."""
    counts = [f"{n} {status.value}" for status in Status if (n := found.count(status))]
    counts += [f"{len(found.not_begun)} not begun"] if found.not_begun else []
    total = counted(found.total, "checkpoint")
    return f"{total}: {', '.join(counts) or 'nothing to do'}, in {found.seconds:.1f} s"


def undo(found: Batch, verb: str) -> list[str]:
    """The commands that take back what this run did."""
    if verb not in REWRITING:
        return []
    done = [each for each in found.outcomes if each.status is Status.DONE and each.done.result]
    here = [each.path for each in done if each.done.result == each.path]
    made = [root.path for root in found.roots]
    if not made:  # of a repair, each PATH has its own
        made = [str(each.done.result) for each in done if each.done.result != each.path]
    removed = [removal(place(root), "-r") for root in made]
    return removed + ([command("undo", *here)] if here else [])


def use(root: Root) -> str | None:
    """The flags of a job that resumes from a new root.

    Megatron reads local paths and multi-storage-client; other stores are for its callers.
    """
    where = place(root.path)
    if isinstance(where, Path) or where.protocol == "msc":
        return shell("--load", where)
    return None


def root_without_tracker(root: Root) -> str:
    """Why a new root has no tracker file."""
    return root.error.reason if root.error else "the iteration it names has not arrived"


def is_hard_linked(found: Batch) -> bool:
    """Whether payload is shared between roots."""
    return any(outcome.done.link == Link.HARDLINK.value for outcome in found.outcomes)
