"""The plans for the checkpoints of a PATH, which `migrate`, `undo` and `repair` carry out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ckptmigrate.checkpoint import locate, sidecar, trackers
from ckptmigrate.checkpoint.sidecar import digest, digest_of
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.places import Place
from ckptmigrate.planning import optimizers
from ckptmigrate.planning.losses import LOSSES
from ckptmigrate.planning.planner import Plan
from ckptmigrate.planning.targets import UNMOVED
from ckptmigrate.report.document import (
    AllowedLoss,
    CheckpointChange,
    CommandOutcome,
    Document,
    Facts,
    FileChange,
    NextStep,
)
from ckptmigrate.storage import directories
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.commands import load, removal
from ckptmigrate.text.sizes import size
from ckptmigrate.verbs.layouts import target_name
from ckptmigrate.verbs.plan_json import plan_json
from ckptmigrate.verbs.result import Digests, Status, Watch, Written
from ckptmigrate.writing import swap
from ckptmigrate.writing.leftover import Leftover
from ckptmigrate.writing.links import Link
from ckptmigrate.writing.parts import MOVING, Moving
from ckptmigrate.writing.publisher import publisher

UNDO: Final = "undo"


@dataclass(frozen=True)
class Migration:
    """The plans for the checkpoints of a PATH, their destination, and whether they are carried out.

    Attributes:
        plans: one per checkpoint.
        destination: the root to create; None in place, or if nothing has to be written.
        tracker: the text of the tracker file of `destination`.
        names: the directory name of each checkpoint in `destination`.
        recovered: checkpoint -> how an interrupted in-place migration of it was recovered first.
        leftovers: interrupted migrations to other destinations in the same directory.
        root: the existing root whose tracker file names the last of the checkpoints, or None.
        existing: whether an earlier run with the same arguments created `destination`.
        added: whether `destination` is a root that other tasks of a batch add to.
        done: whether the plans are carried out.
        link: how the data files were brought to `destination`, or None.
        before: the facts of each checkpoint, and the hash of its migration history, before the
            change; empty unless requested.
    """

    plans: tuple[Plan, ...]
    destination: Place | None
    tracker: str
    names: tuple[str, ...]
    recovered: Mapping[Place, str] = field(default_factory=dict)
    leftovers: tuple[Leftover, ...] = ()
    root: Place | None = None
    existing: bool = False
    added: bool = False
    done: bool = False
    link: Link | None = None
    before: tuple[tuple[Facts, str | None], ...] = ()

    @property
    def load(self) -> Place | None:
        """Return the root to pass to `--load`; None if no root's tracker file names the result."""
        return self.destination or self.root

    @property
    def results(self) -> tuple[Place, ...]:
        """Return the path of each checkpoint after the migration."""
        if self.destination is None:
            return tuple(plan.path for plan in self.plans)
        return tuple(self.destination / name for name in self.names)

    @property
    def status(self) -> Status:
        """Return the status."""
        unchanged = self.destination is None and all(plan.changes_nothing for plan in self.plans)
        if unchanged or self.existing:
            return Status.UNCHANGED
        return Status.DONE if self.done else Status.PLANNED

    @property
    def text(self) -> str:
        """Return a summary in a few words."""
        first = self.plans[0]
        if self.status is Status.UNCHANGED:
            resumes = first.satisfied and first.target not in (*optimizers.TYPES, *UNMOVED)
            return f"{target_name(first.target)} resumes from it" if resumes else "unchanged"
        if first.freed is not None:
            return f"original files removed, {size(first.freed)} freed"
        if first.verb == UNDO:
            return f"back to {first.target}"
        losses = "".join(f", drops {loss}" for loss in first.losses)
        return f"{first.verb} to {first.target}{losses}"

    @property
    def written(self) -> Written:
        """Return the first checkpoint that was written or planned."""
        if self.status is Status.UNCHANGED:
            return Written()
        return Written(self.results[0], self.tracker, self.link)

    @property
    def digests(self) -> Digests:
        """Return the hashes of the metadata files before the change, and after it once done."""
        found = {str(plan.path): plan.change.before for plan in self.plans}
        if self.status in (Status.UNCHANGED, Status.PLANNED):
            return found
        after = zip(self.results, self.plans, strict=True)
        return found | {str(result): plan.change.after for result, plan in after}

    def undo(self) -> list[str]:
        """Return the commands that undo the migration."""
        if self.destination is not None:
            made = self.results if self.added else (self.destination,)
            return [removal(each, "-r") for each in made]
        return [plan.undo for plan in self.plans if plan.undo and not plan.changes_nothing]

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (docs/json.md, `upgrade --json`)."""
        return {
            "done": self.done,
            "destination": None if self.destination is None else str(self.destination),
            "load": None if self.load is None else str(self.load),
            "link": None if self.link is None else self.link.value,
            "undo": self.undo(),
            "recovered": {str(path): what for path, what in self.recovered.items()},
            "leftovers": [left.fix for left in self.leftovers],
            "checkpoints": [
                plan_json(plan, result)
                for plan, result in zip(self.plans, self.results, strict=True)
            ],
        }

    def document(self) -> Document:
        """Return the document."""
        return _document(self)


def leading_root(located: locate.Located) -> Place | None:
    """Return the existing root whose tracker file names the last of the checkpoints, or None."""
    root = located.path if located.is_root else located.path.parent
    if located.tracker is None or not directories.is_file(root / locate.TRACKER_FILE):
        return None
    return root if locate.tracker_text(root) == located.tracker else None


def leading(
    plans: tuple[Plan, ...],
    destination: Place | None,
    tracker: str | None,
    root: Place | None = None,
) -> Migration:
    """Return a migration: the plans, with the names of their checkpoints at the destination.

    Args:
        tracker: the tracker text that names the last of them. None for a directory whose name no
            tracker file can refer to; the directory then gets the name of its iteration.
    """
    names = tuple(plan.path.name for plan in plans)
    if tracker is None:
        tracker = locate.RELEASE if plans[0].iteration is None else str(plans[0].iteration)
        names = (locate.directory_of(tracker),)
    beside = [] if destination is None else publisher(destination.parent).leftovers()
    others = tuple(left for left in beside if left.is_over and left.destination != destination)
    return Migration(plans, destination, tracker, names, leftovers=others, root=root)


def default_output(path: Place, to: str) -> Place:
    """Return the default destination: the root `PATH.<to>`."""
    return path.with_name(f"{path.name}.{to}")


def carry_out(
    migration: Migration,
    *,
    link: Link = Link.AUTO,
    moving: Moving = MOVING,
    progress: Progress | None = None,
) -> Migration:
    """Carry out a migration and return it as done.

    Raises:
        DestinationError: the destination cannot be written; nothing was changed.
    """
    if migration.existing:
        return migration
    used = None
    if migration.destination is None:
        _rewrite(migration.plans, moving, progress)
    else:
        plans = dict(zip(migration.names, migration.plans, strict=True))
        named = plans.get(locate.directory_of(migration.tracker))
        used = publisher(migration.destination).create(
            plans,
            trackers.files(migration.tracker, directories.directory(named.path) if named else None),
            link=link,
            moving=moving,
            progress=progress,
        )
    return replace(migration, done=True, link=used)


def _rewrite(plans: Sequence[Plan], moving: Moving, progress: Progress | None) -> None:
    changed: list[Plan] = []
    for plan in plans:
        try:
            swap.rewrite(plan, moving=moving, progress=progress)
        except CkptMigrateError as error:
            if changed:
                error.reason += f"; before it {len(changed)} other checkpoints were rewritten"
                error.fix = "undo them with `" + "`, `".join(p.undo for p in changed) + "`"
            raise
        changed += [] if plan.changes_nothing else [plan]


def finished(
    found: Migration, *, link: Link, moving: Moving = MOVING, dry_run: bool, watch: Watch
) -> Migration:
    """Return a migration, carried out with a progress bar unless it is a dry run."""
    if dry_run:
        return found
    total = sum(new.size for plan in found.plans for new in plan.change.payload.values())
    if found.destination is not None:
        total += sum(plan.payload[1] for plan in found.plans)
    with watch("writing data files", total) as progress:
        return carry_out(found, link=link, moving=moving, progress=progress)


# -- the document

LINKED: Final[Mapping[Link | None, str]] = {
    Link.HARDLINK: " (data files hard-linked)",
    Link.REFLINK: " (data files reflinked)",
    Link.SYMLINK: " (data files symlinked)",
    Link.COPY: " (data files copied)",
}
WARNINGS: Final[Mapping[Link | None, str]] = {
    Link.HARDLINK: "data files are hard links. If a job saves this iteration again, both copies "
    "change. Use --link copy to prevent that.",
    Link.SYMLINK: "data files are links to the source, which must stay there.",
}


def before(plans: Sequence[Plan]) -> tuple[tuple[Facts, str | None], ...]:
    """Return the facts of each checkpoint and the hash of its migration history, for a report."""
    from ckptmigrate.verbs.inspect import inspect  # only a report needs it

    return tuple(
        (
            inspect(plan.path).facts,
            digest_of(directories.directory(plan.path), sidecar.FILE),
        )
        for plan in plans
    )


def _document(found: Migration) -> Document:
    # Without facts, the migration history is not among the changes.
    kept = [digest(plan.change.sidecar) for plan in found.plans]
    histories = [history for _, history in found.before] or kept
    linked = [WARNINGS[found.link]] if found.link in WARNINGS else []
    compactions = [plan.compaction for plan in found.plans if found.destination is None]
    linked += [each.kept for each in compactions if each is not None]
    return Document(
        outcome=CommandOutcome(found.status.value),
        answer=_answer(found),
        found=tuple(facts for facts, _ in found.before),
        changes=tuple(map(_change, found.plans, found.results, histories)),
        steps=tuple(_steps(found)),
        warnings=(
            *(f"{place}: {what}" for place, what in found.recovered.items()),
            *map(str, found.leftovers),
            *linked,
        ),
    )


def _answer(found: Migration) -> str:
    """Return what was done, or would be done without --dry-run, in one sentence."""
    first = found.plans[0]
    paths = ", ".join(str(plan.path) for plan in found.plans)
    if first.freed is not None:
        total = size(sum(plan.freed or 0 for plan in found.plans))
        return (
            f"Removed the original files of {paths}, which frees {total}"
            if found.done
            else f"Dry run: would remove the original files of {paths}, which frees {total}"
        )
    if first.verb == UNDO:
        return f"Restored {paths}" if found.done else f"Dry run: would restore {paths}"
    target = target_name(first.target)
    if found.existing:
        return f"{found.destination} is the result of an earlier run for {target}, and is verified"
    if found.status is Status.UNCHANGED:
        source = found.root or first.path
        why = f"{target} can resume from {source}"
        if first.target in UNMOVED:
            why = f"{source} has nothing to remove"
        elif first.target in optimizers.TYPES:
            why = f"{source} already has the {target}"
        elif not first.satisfied:
            why = f"{source} already has the {target_name(first.layout)}"
        return f"No migration needed: {why}"
    if found.destination is not None:
        does, how = "Wrote" if found.done else "Dry run: would write", LINKED.get(found.link, "")
        return f"{does} {found.destination} for {target}{how}"
    return f"{'Rewrote' if found.done else 'Dry run: would rewrite'} {paths} for {target}"


def _steps(found: Migration) -> Iterator[NextStep]:
    if found.existing:
        yield from use(found)
    if found.status is not Status.DONE:
        return
    purpose = "redo" if found.plans[0].verb == UNDO else "undo"
    for each in found.undo():
        yield NextStep(purpose, each)
    yield from use(found)


def use(found: Migration) -> Iterator[NextStep]:
    """Yield the flag with which a job loads the result, if a job can."""
    flag = None if found.load is None else load(found.load)
    if flag is not None:
        yield NextStep("use", flag)


def _change(plan: Plan, result: Place, history: str | None) -> CheckpointChange:
    """Return the change of a checkpoint.

    Args:
        history: the hash of the migration history before the change.
    """
    change = plan.change
    files = [
        FileChange(
            name,
            None if new is None else len(new),
            change.before.get(name),
            None if new is None else change.after[name],
        )
        for name, new in plan.files.items()
    ]
    new = change.sidecar
    if history != digest(new) and not plan.changes_nothing:
        size = None if new is None else len(new)
        files.append(FileChange(sidecar.FILE, size, history, digest(new)))
    return CheckpointChange(
        path=str(plan.path),
        result=str(result),
        source=plan.source,
        target=plan.target,
        layout=plan.layout,
        differences=tuple(str(each) for each in plan.differences),
        files=tuple(files),
        losses=tuple(AllowedLoss(name, LOSSES[name].meaning) for name in plan.losses),
        notes=plan.notes,
        payload_files=plan.payload[0],
        payload_bytes=plan.payload[1],
    )
