"""Repair: make a checkpoint that a verification finds wanting one that resumes, where it can be.

What is repaired: a common state that announces a rerun whose shards are not there (the known
corruption of 0.14 to 0.17 with --ckpt-assume-constant-structure), a fault context that nobody
wants, stale digests of small files, and a tracker file that leads to no good iteration. What is
lost is not invented: everything else is refused with what is lost.

A repair is planned and carried out like a migration, and is a step of the sidecar. mending.py plans
that of one checkpoint; here it is what a PATH means, and the tracker file of a root.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ckptmigrate import clock, locate, migration
from ckptmigrate.access import places, storage
from ckptmigrate.access.places import Place
from ckptmigrate.access.storage import Progress
from ckptmigrate.checkpoint import sidecar
from ckptmigrate.checkpoint.sidecar import REPAIR, FileState, Step, digest
from ckptmigrate.errors import RefusedError, UnsupportedFormatError
from ckptmigrate.migration import Migration
from ckptmigrate.planning import mending
from ckptmigrate.planning.mending import Wanted
from ckptmigrate.text.commands import command, copy, removal
from ckptmigrate.verification import verify_one
from ckptmigrate.verifying import roots
from ckptmigrate.version import __version__
from ckptmigrate.writing.linking import Link
from ckptmigrate.writing.writer import writer


@dataclass(frozen=True)
class Tracker:
    """A tracker file to be pointed elsewhere, in place.

    Attributes:
        root: whose tracker file it is.
        before: its bytes, or None where there is none.
        text: its new text.
        why: what is wrong with the old one, a sentence.
        kept: where the old one will be kept.
    """

    root: Place
    before: bytes | None
    text: str
    why: str
    kept: Place

    @property
    def undo(self) -> str:
        """The command that takes it back."""
        file = self.root / locate.TRACKER_FILE
        return removal(file) if self.before is None else copy(self.kept, file)

    def as_json(self) -> dict[str, Any]:
        """The documented JSON form (docs/json.md, `repair --json`)."""
        before = None if self.before is None else self.before.decode("utf-8", "replace")
        return {
            "path": str(self.root / locate.TRACKER_FILE),
            "before": before,
            "after": self.text,
            "why": self.why,
        }


@dataclass(frozen=True)
class Repair:
    """What a repair will do.

    Attributes:
        migration: the plans of the checkpoints.
        tracker: the tracker file to be pointed elsewhere; None where it stays, or out of place.
        astray: why the tracker of the result names another iteration than that of PATH; None
            where it does not.
    """

    migration: Migration
    tracker: Tracker | None
    astray: str | None = None

    @property
    def changes_nothing(self) -> bool:
        """Whether there is nothing to repair."""
        return self.astray is None and all(p.changes_nothing for p in self.migration.plans)

    def undo(self) -> list[str]:
        """The commands that take it back."""
        return self.migration.undo() + ([self.tracker.undo] if self.tracker else [])

    def as_json(self, *, done: bool, link: Link | None) -> dict[str, Any]:
        """The documented JSON form (docs/json.md, `repair --json`)."""
        return {
            **self.migration.as_json(done=done, link=link),
            "undo": self.undo(),
            "tracker": None if self.tracker is None else self.tracker.as_json(),
        }


def prepare(
    path: Place,
    wanted: Wanted,
    *,
    output: Place | None = None,
    in_place: bool = False,
    iteration: int | None = None,
    every: bool = False,
) -> Repair:
    """Plan the repair of what a PATH means; writes nothing.

    Args:
        path: a checkpoint directory, or a root.
        output: the root to create; by default `PATH.repaired`.
        in_place: change PATH itself instead.
        iteration, every: of a root, this iteration, or all, instead of the tracker's.

    Raises:
        RefusedError: something is lost that no repair can bring back.
        CkptMigrateError: as `roots.choose`, `Writer.check_free`.
    """
    chosen = roots.choose(path, iteration=iteration, every=every)
    for each in chosen.checkpoints:
        writer(each).check_whole()
    tracker = why = None
    if not chosen.is_root:
        text = locate.locate(chosen.path).tracker
    elif iteration is not None:
        text = str(iteration)
    else:
        text = locate.tracker_text(chosen.path) if chosen.named is not None else None
        why = _astray(chosen, wanted)
        if why is not None:
            good = _newest_good(chosen, wanted, why)
            text = locate.tracker_of(good.name) or locate.RELEASE
            tracker = _tracker(chosen.path, text, why)
            if not every:
                chosen = replace(chosen, checkpoints=(good,))
    now = clock.now()
    plans = tuple(mending.plan(each, wanted, now=now) for each in chosen.checkpoints)
    destination = None
    if not in_place and (tracker is not None or not all(each.changes_nothing for each in plans)):
        destination = output or migration.default_output(chosen.path, "repaired")
        destination = places.absolute(destination)
        writer(destination).check_free(chosen.path)
        plans = tuple(each.out_of_place() for each in plans)
        tracker = None  # the new root has one of its own
    root = chosen.path if chosen.is_root and iteration is None else None
    return Repair(migration.leading(plans, destination, text, root), tracker, why)


def carry_out(
    repair: Repair, *, link: Link = Link.AUTO, progress: Progress | None = None
) -> Link | None:
    """Do what was planned; checkpoints first, the tracker that leads to one of them last.

    Raises:
        DestinationError: the destination cannot be written.
    """
    used = migration.carry_out(repair.migration, link=link, progress=progress)
    found = repair.tracker
    if found is not None:
        files = {locate.TRACKER_FILE: FileState(digest(found.before), digest(found.text.encode()))}
        what = (f"~ tracker -> {found.text}: {found.why}",)
        step = Step(REPAIR, (), found.text, __version__, clock.now(), changes=what, files=files)
        writer(found.root).repoint(found.text, step)
    return used


def _astray(chosen: roots.Chosen, wanted: Wanted) -> str | None:
    """Why the tracker has to lead elsewhere; None where it leads to what is or can be good."""
    if chosen.named is None:
        return chosen.findings[0].what
    if wanted.drop or wanted.rebuild:
        return None  # asked of that very iteration
    lost = verify_one(chosen.named, known=wanted.known, hashed=wanted.hashed).lost
    return f"{chosen.named.name} is not whole: {lost[0].what}" if lost else None


def _newest_good(chosen: roots.Chosen, wanted: Wanted, why: str) -> Place:
    bad = []
    for each in reversed(locate.all_of(chosen.path)):
        if each == chosen.named:
            continue
        try:
            errors = verify_one(each, known=wanted.known, hashed=wanted.hashed).errors
        except UnsupportedFormatError as error:
            bad.append(f"{each.name}: {error.reason}")
            continue
        if not errors:
            return each
        bad.append(f"{each.name}: {errors[0].what}")
    more = f" (nor does another one: {'; '.join(bad[:5])})" if bad else ""
    raise RefusedError(
        f"cannot be repaired: {why}, and there is no good iteration to lead to{more}",
        path=chosen.path,
        fix=f"restore one from a copy; for all of it see "
        f"`{command('verify', chosen.path, '--all')}`",
    )


def _tracker(root: Place, text: str, why: str) -> Tracker:
    file = root / locate.TRACKER_FILE
    before = storage.directory(root).read(file.name) if file.is_file() else None
    kept = root / sidecar.folder(len(sidecar.load(storage.directory(root)))) / file.name
    return Tracker(root, before, text, why, kept)
