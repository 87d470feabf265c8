"""The commands that change a checkpoint, as `work.Work` on one checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ckptmigrate import report
from ckptmigrate.batch.tasks import Done, Status, Task
from ckptmigrate.checkpoint import locate
from ckptmigrate.checkpoint.topology import Given
from ckptmigrate.places import Place
from ckptmigrate.planning.planner import Plan
from ckptmigrate.planning.repairs import Wanted
from ckptmigrate.releases.environment import USUAL, Environment
from ckptmigrate.storage.urls import place
from ckptmigrate.verbs import migrate, recover, repair
from ckptmigrate.verbs.migrate import Migration
from ckptmigrate.writing import swap
from ckptmigrate.writing.links import Link
from ckptmigrate.writing.publisher import publisher

if TYPE_CHECKING:
    from ckptmigrate.report.document import Report


@dataclass(frozen=True)
class Migrate:
    """The work of `upgrade`, `downgrade`, and `migrate` (either direction).

    Attributes:
        always: whether to create a root even if nothing has to change.
        verb, target, allowed, given, torch, environment, native, strict, hash_payload: arguments
            of `migration.prepare`.
        link: how to bring data files into the root.
        dry_run: whether to plan only.
    """

    verb: str
    target: str
    allowed: tuple[str, ...] = ()
    given: Given = field(default_factory=Given)
    torch: str | None = None
    environment: Environment = USUAL
    native: bool = False
    strict: bool = False
    hash_payload: bool = False
    link: Link = Link.AUTO
    dry_run: bool = False
    always: bool = False

    def matters(self) -> dict[str, Any]:
        """Return the relevant options; `link` and `hash_payload` do not change the result."""
        return {
            "allow_loss": sorted(self.allowed),
            **asdict(self.given),
            "torch": self.torch,
            **asdict(self.environment),
            "native": self.native,
            "strict": self.strict,
        }

    def do(self, task: Task) -> Done:
        """Migrate a checkpoint in place, or into a root that other tasks add to."""
        path = place(task.path)
        if task.root is None and not self.dry_run:
            recover.in_place(path)
        prepared = migrate.prepare(
            path,
            self.target,
            verb=None if self.verb == "migrate" else self.verb,
            in_place=True,
            allowed=self.allowed,
            given=self.given,
            torch=self.torch,
            environment=self.environment,
            native=self.native,
            strict=self.strict,
            hash_payload=self.hash_payload,
        )
        [plan] = prepared.plans
        if task.root is None:
            return _rewritten(task, prepared, plan, dry_run=self.dry_run)
        plan, destination = plan.out_of_place(), place(task.root) / prepared.names[0]
        if plan.satisfied and not (task.carry or self.always):
            text = f"release {plan.target} resumes from it as it is"
            told = _told(task, plan, path)
            return _done(task, prepared, Status.UNCHANGED, text, None, told=told)
        text = _text(plan)
        if self.dry_run:
            told = _told(task, plan, destination)
            return _done(task, prepared, Status.PLANNED, text, destination, told=told)
        if any(left.destination == destination for left in publisher(destination.parent).locked()):
            # Remove what an interrupted run left; `discard` raises if that run is in progress.
            publisher(destination).discard(break_lock=False)
        told = _told(task, plan, destination)
        used = None
        if not migrate.has(plan, destination):
            used = publisher(destination).add(plan, link=self.link)
        return _done(task, prepared, Status.DONE, text, destination, used, told=told)


@dataclass(frozen=True)
class Undo:
    """The work of `undo`: undo the last in-place migration."""

    dry_run: bool = False
    verb: str = "undo"
    target: None = None

    def matters(self) -> dict[str, Any]:
        """Return no options: the result depends only on the checkpoint."""
        return {}

    def do(self, task: Task) -> Done:
        """Undo the last in-place migration of a checkpoint."""
        if not self.dry_run:
            recover.in_place(place(task.path))
        prepared = migrate.prepare_undo(place(task.path))
        return _rewritten(task, prepared, prepared.plans[0], dry_run=self.dry_run)


def _rewritten(task: Task, prepared: Migration, plan: Plan, *, dry_run: bool) -> Done:
    told = _told(task, plan, plan.path)
    status, text = Status.DONE, _text(plan)
    if plan.changes_nothing:
        status, text = Status.UNCHANGED, "nothing to change"
    elif dry_run:
        status = Status.PLANNED
    else:
        swap.rewrite(plan)
    return _done(task, prepared, status, text, plan.path, told=told)


def _told(task: Task, plan: Plan, result: Place) -> Report | None:
    """Return the report on a plan; call it before the checkpoint is changed."""
    return task.report(lambda document: report.build.of_plan(document, plan, result))


def _text(plan: Plan) -> str:
    losses = "".join(f", loss: {loss}" for loss in plan.losses)
    return f"{' or '.join(plan.source)} -> {plan.target}{losses}"


def _done(
    task: Task,
    prepared: Migration,
    status: Status,
    text: str,
    result: Place | None,
    link: Link | None = None,
    *,
    told: Report | None,
) -> Done:
    [plan] = prepared.plans
    digests: dict[str, Any] = {task.path: plan.change.before}
    if result is not None and status is not Status.PLANNED:
        digests[str(result)] = plan.change.after
    detail = migrate.plan_json(plan, result or plan.path) if task.detail else None
    where = None if result is None else str(result)
    by = None if link is None else link.value
    return Done(status, text, where, prepared.tracker, by, digests, detail, told)


@dataclass(frozen=True)
class Repair:
    """The work of `repair`, on a whole PATH: a tracker file depends on all checkpoints of a root.

    The fields are arguments of `repairing.prepare` and `repairing.carry_out`.
    """

    wanted: Wanted
    in_place: bool = False
    every: bool = False
    iteration: int | None = None
    link: Link = Link.AUTO
    dry_run: bool = False
    verb: str = "repair"
    target: None = None

    def matters(self) -> dict[str, Any]:
        """Return the options that decide what is written."""
        return {**asdict(self.wanted), "every": self.every, "iteration": self.iteration}

    def do(self, task: Task) -> Done:
        """Repair the checkpoints and the tracker file of a PATH."""
        path = place(task.path)
        if self.in_place and not self.dry_run:
            recover.in_place(path)
        prepared = repair.prepare(
            path,
            self.wanted,
            output=None if task.root is None else place(task.root),
            in_place=self.in_place,
            iteration=self.iteration,
            every=self.every and not locate.is_one(path),
        )
        told = task.report(lambda document: report.build.of_repair(document, prepared))
        used = None
        if not self.dry_run:
            used = repair.carry_out(prepared, link=self.link)
        detail = prepared.as_json(done=not self.dry_run, link=used) if task.detail else None
        if prepared.changes_nothing:
            return Done(Status.UNCHANGED, "nothing to repair", detail=detail, report=told)
        plans = [plan for plan in prepared.migration.plans if not plan.changes_nothing]
        text = "; ".join([f"{plan.path.name}: {_text(plan)}" for plan in plans])
        if prepared.tracker is not None:
            text += f"{'; ' if text else ''}tracker -> {prepared.tracker.text}"
        status = Status.PLANNED if self.dry_run else Status.DONE
        result = str(prepared.migration.destination or path)
        return Done(status, text, result, detail=detail, report=told)
