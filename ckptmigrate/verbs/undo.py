"""The verb `undo`: undo the last in-place migration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ckptmigrate.checkpoint import locate
from ckptmigrate.places import Place
from ckptmigrate.planning import undo_plan
from ckptmigrate.verbs import recover
from ckptmigrate.verbs.changes import UNDO, Migration, before, finished
from ckptmigrate.verbs.result import Watch, unwatched
from ckptmigrate.writing.links import Link


@dataclass(frozen=True)
class UndoRequest:
    """A request to undo the last in-place migration of the checkpoints of a PATH.

    Attributes:
        iteration, every: this iteration, or every iteration, of a root instead of the one in the
            tracker file.
        dry_run: whether to plan only.
        forget: whether to remove the original files instead, so that nothing can be undone.
    """

    iteration: int | None = None
    every: bool = False
    dry_run: bool = False
    forget: bool = False
    verb: str = UNDO
    target: None = None
    in_place: bool = True

    def options(self) -> dict[str, Any]:
        """Return the options that affect the result."""
        return {"forget": self.forget}

    def run(self, path: Place, *, reported: bool = False, watch: Watch = unwatched) -> Migration:
        """Undo the last in-place migration of the checkpoints of a PATH."""
        recovered = {} if self.dry_run else recover.in_place(path)
        prepared = replace(prepare(path, self, reported=reported), recovered=recovered)
        return finished(prepared, link=Link.AUTO, dry_run=self.dry_run, watch=watch)


def prepare(path: Place, request: UndoRequest, *, reported: bool = False) -> Migration:
    """Plan to undo the last migration of every checkpoint of `path`, or to forget all.

    Raises:
        CkptMigrateError: as `locate.locate`, `undoing.plan`.
    """
    located = locate.locate(path, iteration=request.iteration, every=request.every)
    plan = undo_plan.forget if request.forget else undo_plan.plan
    plans = tuple(map(plan, located.checkpoints))
    return Migration(
        plans,
        None,
        located,
        root=located.loadable,
        before=before(plans) if reported else (),
    )
