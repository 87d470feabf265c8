"""Repair: make a checkpoint that a verification finds wanting one that resumes, where it can be.

What is repaired: a common state that announces a rerun whose shards are not there (the known
corruption of 0.14 to 0.17 with --ckpt-assume-constant-structure), a fault context that nobody
wants, stale digests of small files, and a tracker file that leads to no good iteration. What is
lost is not invented: everything else is refused with what is lost.

A repair is planned and carried out like a migration, and is a step of the sidecar. It starts from
the checkpoint as it is, never from the originals, and later migrations start from the repaired
checkpoint (`sidecar.original`): so no downgrade brings the damage back.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Final

from ckptmigrate import (
    clock,
    locate,
    manifest,
    migration,
    places,
    planning,
    sidecar,
    storage,
    versions,
)
from ckptmigrate.commands import command, copy, removal
from ckptmigrate.converting import Converted
from ckptmigrate.errors import CorruptError, DamagedError, RefusedError, Retry
from ckptmigrate.linking import Link
from ckptmigrate.losses import FAULT_CONTEXT
from ckptmigrate.manifest import Manifest
from ckptmigrate.migration import Migration
from ckptmigrate.places import Place
from ckptmigrate.planning import Plan, Request
from ckptmigrate.reading import Reading, read
from ckptmigrate.rerun import IDLE, IN_PLACE, MODE_VALIDATE, STATES, Kind, RerunRecord, StoredRerun
from ckptmigrate.sidecar import REPAIR, FileState, Original, Step, digest
from ckptmigrate.topology import Given, derive
from ckptmigrate.transaction import Progress
from ckptmigrate.verifying import Verified, roots, verify_one
from ckptmigrate.verifying.findings import CODES, Finding
from ckptmigrate.version import __version__
from ckptmigrate.versions import Layout, facts, none_emitting, pre_rerun, sharded_rerun
from ckptmigrate.writing import writer

_RERUN: Final = "rerun-shards-missing"
_DIGEST: Final = "integrity-mismatch"


@dataclass(frozen=True)
class Wanted:
    """What the user asks for.

    Attributes:
        rebuild: write an idle state with all of its shards, instead of none at all.
        drop: drop a fault context that is whole.
        given: parallel sizes, in ranks, that the checkpoint does not tell.
        known: symbols that the user vouches for.
        hashed: hash payload files against integrity.json, too.
    """

    rebuild: bool = False
    drop: bool = False
    given: Given | None = None
    known: Collection[str] = ()
    hashed: bool = False


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
        """The documented JSON form (README, `repair --json`)."""
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
    """

    migration: Migration
    tracker: Tracker | None

    @property
    def changes_nothing(self) -> bool:
        """Whether there is nothing to repair."""
        return self.tracker is None and all(p.changes_nothing for p in self.migration.plans)

    def undo(self) -> list[str]:
        """The commands that take it back."""
        return self.migration.undo() + ([self.tracker.undo] if self.tracker else [])

    def as_json(self, *, done: bool, link: Link | None) -> dict[str, Any]:
        """The documented JSON form (README, `repair --json`)."""
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
    tracker = None
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
    plans = tuple(plan(each, wanted, now=now) for each in chosen.checkpoints)
    destination = None
    if not in_place and (tracker is not None or not all(each.changes_nothing for each in plans)):
        destination = output or migration.default_output(chosen.path, "repaired")
        destination = places.absolute(destination)
        writer(destination).check_free(chosen.path)
        tracker = None  # the new root has one of its own
    return Repair(migration.leading(plans, destination, text), tracker)


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


# -- the tracker


def _astray(chosen: roots.Chosen, wanted: Wanted) -> str | None:
    """Why the tracker has to lead elsewhere; None where it leads to what is or can be good."""
    if chosen.named is None:
        return chosen.findings[0].what
    if wanted.drop or wanted.rebuild:
        return None  # asked of that very iteration
    lost = _lost(verify_one(chosen.named, known=wanted.known, hashed=wanted.hashed))
    return f"{chosen.named.name} is not whole: {lost[0].what}" if lost else None


def _newest_good(chosen: roots.Chosen, wanted: Wanted, why: str) -> Place:
    bad = []
    for each in reversed(roots.all_of(chosen.path)):
        if each == chosen.named:
            continue
        errors = verify_one(each, known=wanted.known, hashed=wanted.hashed).errors
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


# -- one checkpoint


def plan(path: Place, wanted: Wanted, *, now: str) -> Plan:
    """Plan the repair of one checkpoint directory.

    Raises:
        RefusedError: something is lost, or the fault context was not asked to go.
        CkptMigrateError: no readable torch_dist checkpoint.
    """
    verified = verify_one(path, known=wanted.known, hashed=wanted.hashed)
    lost = _lost(verified)
    if lost:
        first, more = lost[0], len(lost) - 1
        raise RefusedError(
            f"cannot be repaired: {first.what} ({CODES[first.code].meaning.rstrip('.')})"
            + (f", and {more} more errors" if more else ""),
            path=path,
            fix=f"{first.remedy}; for all of it see `{command('verify', path)}`",
        )
    directory = storage.directory(path)
    current = read(directory)
    result, notes, losses = _rerun(current, wanted)
    # What changed in the common state goes where the common state is.
    in_file = current.manifest.common.in_file
    result = result if in_file else result.with_common_in_entry()
    refreshed = {
        name: directory.read(name)
        for finding in verified.errors
        if finding.code == _DIGEST
        for name in finding.items
    }
    if refreshed:
        names = ", ".join(refreshed)
        notes += (f"integrity.json gets the digest of {names} as it is: what it holds is in order",)
    layout = _layout_of(result, current)
    steps = sidecar.load(directory)
    request = Request(
        REPAIR,
        layout.ID,
        notes,
        now,
        __version__,
        losses=losses,
        refreshed=refreshed,
    )
    return planning.assemble(
        current,
        Original(directory, steps, len(steps)),
        Converted(result, layout, losses, (), notes),
        current.manifest,
        request,
    )


def _layout_of(result: Manifest, current: Reading) -> Layout:
    """The layout of the result: the one that it had, if that fits still."""
    gathered = facts.gather(result)
    fitting = [layout for layout in versions.LAYOUTS if layout.detect(gathered)]
    return next(layout for layout in (*current.layouts, *fitting) if layout in fitting)


def _lost(verified: Verified) -> tuple[Finding, ...]:
    """The errors that no repair removes."""
    return tuple(
        error
        for error in verified.errors
        if error.code != _RERUN
        # Of the small files these alone are looked at closely enough to vouch for them.
        and not (error.code == _DIGEST and set(error.items) <= set(manifest.METADATA_FILES))
    )


def _rerun(current: Reading, wanted: Wanted) -> tuple[Manifest, tuple[str, ...], tuple[str, ...]]:
    """The checkpoint with the rerun state repaired, notes, and losses."""
    record, source = current.record, current.manifest
    if record.kind is Kind.FAULT and not wanted.drop:
        if wanted.rebuild:
            raise RefusedError(
                "holds a fault context that is whole, and --rebuild-sentinel would replace it",
                path=source.path,
                fix=f"to go without it run `{command('repair', source.path, '--drop-rerun')}`",
            )
        if record.state == IN_PLACE:
            note = f"a fault in state {STATES[IN_PLACE]}, from which no release resumes: "
            return source, (note + "--drop-rerun makes it idle",), ()
        return source, (), ()
    bare = record.entry is not None and not record.shards  # an idle entry without its sentinels
    if record.kind in (Kind.CORRUPT, Kind.FAULT) or (wanted.rebuild and bare):
        losses = (FAULT_CONTEXT,) if record.kind is Kind.FAULT else ()
        if wanted.rebuild:
            return *_rebuilt(current, wanted), losses
        if all(layout is sharded_rerun for layout in current.layouts):
            raise CorruptError(
                "lacks rerun shards that its releases always ask for",
                missing=record.missing,
                path=source.path,
                fix=f"run `{command('repair', source.path, '--rebuild-sentinel')}`",
            )
        note = "the rerun entry goes, and the job resumes as idle"
        return source.with_rerun(StoredRerun(), {}), (note,), losses
    if wanted.drop:
        return source, ("there is no fault context to drop",), ()
    return source, (), ()


def _rebuilt(current: Reading, wanted: Wanted) -> tuple[Manifest, tuple[str, ...]]:
    """An idle state in full: the entry, and a fresh shard at every place of the grid."""
    source, record = current.manifest, current.record
    silent = (pre_rerun, none_emitting)  # their idle state is nothing at all
    layout = next((found for found in current.layouts if found not in silent), None)
    if layout is None:
        raise RefusedError(
            f"{current.layouts[0].ID} has no idle rerun state to rebuild",
            path=source.path,
            fix="leave --rebuild-sentinel out",
            retry=Retry(leave_out=("--rebuild-sentinel",)),
        )
    iteration = source.iteration if record.iteration is None else record.iteration
    if iteration is None:
        raise DamagedError("has no iteration in its common state", path=source.path)
    idle = RerunRecord(Kind.IDLE, record.mode or MODE_VALIDATE, IDLE, iteration)
    stored = layout.write(idle, derive(source, wanted.given))
    note = f"an idle rerun state with {len(stored.shards)} fresh shards"
    return source.with_rerun(stored, {}), (note,)
