"""The plans for the checkpoints of a PATH, which `migrate`, `undo` and `repair` carry out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ckptmigrate.checkpoint import root_contents, root_kinds, sidecar
from ckptmigrate.checkpoint.locate import Located
from ckptmigrate.checkpoint.root_contents import RootContents
from ckptmigrate.checkpoint.sidecar import digest, digest_of
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.places import Place
from ckptmigrate.planning import optimizers
from ckptmigrate.planning.new_root import NewRoot, trackers_of
from ckptmigrate.planning.planner import Plan
from ckptmigrate.planning.targets import UNMOVED
from ckptmigrate.report.document import (
    CheckpointChange,
    CommandOutcome,
    Document,
    Facts,
    NextStep,
)
from ckptmigrate.storage import directories
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.commands import removal
from ckptmigrate.text.sizes import size
from ckptmigrate.verbs.change_lines import carried_of, change_of
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
        located: what PATH means: the checkpoints, and their paths in `destination`.
        recovered: checkpoint -> how an interrupted in-place migration of it was recovered first.
        leftovers: interrupted migrations to other destinations in the same directory.
        root: the existing root from which a job loads the last of the checkpoints, or None.
        contents: what else `destination` gets, and what is left behind.
        existing: whether an earlier run with the same arguments created `destination`.
        added: the path of the checkpoint in `destination`, if other tasks of a batch add to that.
        done: whether the plans are carried out.
        link: how the data files were brought to `destination`, or None.
        before: the facts of each checkpoint, and the hash of its migration history, before the
            change; empty unless requested.
    """

    plans: tuple[Plan, ...]
    destination: Place | None
    located: Located
    recovered: Mapping[Place, str] = field(default_factory=dict)
    leftovers: tuple[Leftover, ...] = ()
    root: Place | None = None
    contents: RootContents = field(default_factory=RootContents)
    existing: bool = False
    added: str | None = None
    done: bool = False
    link: Link | None = None
    before: tuple[tuple[Facts, str | None], ...] = ()

    @property
    def tracker(self) -> str | None:
        """Return the text of the tracker file of `destination`; None if it has none."""
        return self.located.tracker

    @property
    def names(self) -> tuple[str, ...]:
        """Return the path of each checkpoint in `destination`."""
        return self.located.names

    @property
    def load(self) -> Place | None:
        """Return the root that a job loads; None if no root's tracker file names the result."""
        return self.destination or self.root

    @property
    def new_root(self) -> NewRoot:
        """Return what `destination` consists of."""
        plans = dict(zip(self.names, self.plans, strict=True))
        return NewRoot(plans, trackers_of(self.located), self.contents.carried)

    @property
    def results(self) -> tuple[Place, ...]:
        """Return the path of each checkpoint after the migration."""
        if self.destination is None:
            return tuple(plan.path for plan in self.plans)
        if self.added is not None:
            return (root_kinds.at(self.destination, self.added),)
        return tuple(root_kinds.at(self.destination, name) for name in self.names)

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
            made = (self.destination,) if self.added is None else self.results
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
            **self.contents.as_json(),
            "checkpoints": [
                plan_json(plan, result)
                for plan, result in zip(self.plans, self.results, strict=True)
            ],
        }

    def document(self) -> Document:
        """Return the document."""
        return _document(self)


def leading(
    plans: tuple[Plan, ...],
    destination: Place | None,
    located: Located,
    root: Place | None = None,
) -> Migration:
    """Return a migration: the plans, with what else its destination gets.

    Args:
        located: what PATH means; the checkpoints are those of the plans.
    """
    beside = [] if destination is None else publisher(destination.parent).leftovers()
    others = tuple(left for left in beside if left.is_over and left.destination != destination)
    contents = RootContents() if destination is None else contents_for(destination, located)
    return Migration(plans, destination, located, leftovers=others, root=root, contents=contents)


def contents_for(root: Place, located: Located) -> RootContents:
    """Return what a new root gets besides the checkpoints of a PATH and tracker files."""
    found = root_contents.contents(located)
    return found if isinstance(root, Path) else found.without_links()


def missing_files(root: Place, located: Located) -> NewRoot | None:
    """Return what a root with all checkpoints of a PATH lacks, or None if nothing."""
    there, files = directories.directory(root), trackers_of(located)
    carried = contents_for(root, located).carried
    missing = tuple(each for each in carried if directories.size_of(there, each.name) != each.size)
    if missing or any(directories.read_if_there(there, n) != new for n, new in files.items()):
        return NewRoot(trackers=files, carried=missing)
    return None


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
        made = publisher(migration.destination)
        used = made.create(migration.new_root, link=link, moving=moving, progress=progress)
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
        total += sum(each.size for each in found.contents.carried)
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
        changes=(*map(change_of, found.plans, found.results, histories), *_carried(found)),
        steps=tuple(_steps(found)),
        warnings=(
            *(f"{place}: {what}" for place, what in found.recovered.items()),
            *map(str, found.leftovers),
            *(f"left behind: {name}: {why}" for name, why in found.contents.left),
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
    flags = None if found.load is None else found.located.job_options(found.load)
    if flags is not None:
        yield NextStep("use", flags)


def _carried(found: Migration) -> tuple[CheckpointChange, ...]:
    if found.destination is None:
        return ()
    return carried_of(found.destination, found.contents, trackers_of(found.located))
