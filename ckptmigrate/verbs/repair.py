"""The verb `repair`: repair checkpoints whose metadata is damaged, and tracker files.

Five kinds of damage are repaired: a corrupt rerun state, which is a recorded fault whose rerun
shards are missing (a known bug of 0.14 to 0.17 with --ckpt-assume-constant-structure); a fault
context or an optimizer that the user wants to drop; outdated hashes of metadata files in
integrity.json; and a tracker file that names a missing or incomplete iteration. Other damage is
refused with an error that names it.

A repair is planned and carried out like a migration and recorded in the migration history.
planning/repairs.py plans the repair of one checkpoint. This module resolves a PATH and repairs the
tracker files of a root.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from ckptmigrate import clock, places
from ckptmigrate.checkpoint import (
    metadata_file,
    migration_state,
    root_reading,
    sidecar,
    trackers,
)
from ckptmigrate.checkpoint.locate import Located
from ckptmigrate.checkpoint.sidecar import REPAIR, FileState, Step, digest
from ckptmigrate.checkpoint.trackers import LATEST_TRAIN_STATE, TRACKER_FILE, TRACKERS
from ckptmigrate.checks import root_checks
from ckptmigrate.checks.findings import Finding
from ckptmigrate.checks.root_codes import PAIR, TEXT_MISSING
from ckptmigrate.checks.verification import Verified, verify_one
from ckptmigrate.errors import RefusedError, UnsupportedFormatError
from ckptmigrate.places import Place
from ckptmigrate.planning import repairs
from ckptmigrate.planning.repairs import RepairOptions
from ckptmigrate.report.document import (
    CheckpointChange,
    CommandOutcome,
    Document,
    FileChange,
    NextStep,
)
from ckptmigrate.storage import directories
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.commands import command, copy, removal
from ckptmigrate.verbs import changes, recover
from ckptmigrate.verbs.changes import LINKED, Migration, before, default_output, leading
from ckptmigrate.verbs.result import Digests, Status, Watch, Written, unwatched
from ckptmigrate.version import __version__
from ckptmigrate.writing import swap
from ckptmigrate.writing.links import Link
from ckptmigrate.writing.publisher import publisher

Verify = Callable[[Place], Verified]


@dataclass(frozen=True)
class RepairRequest(RepairOptions):
    """A request to repair the checkpoints of a PATH.

    Attributes:
        output: the root to create; by default `PATH.repaired`.
        in_place: whether to change PATH itself instead of creating a root.
        iteration, every: this iteration, or every iteration, of a root instead of the one in the
            tracker file.
        link: how to bring data files into the new root.
        dry_run: whether to plan only.
    """

    output: Place | None = None
    in_place: bool = False
    iteration: int | None = None
    every: bool = False
    link: Link = Link.AUTO
    dry_run: bool = False
    verb: str = REPAIR
    target: None = None

    def options(self) -> dict[str, Any]:
        """Return the options that decide what is written."""
        return {
            "rebuild": self.rebuild,
            "drop": self.drop,
            "given": None if self.given is None else asdict(self.given),
            "known": list(self.known),
            "hashed": self.hashed,
            "drop_optimizer": self.drop_optimizer,
            "every": self.every,
            "iteration": self.iteration,
        }

    def run(self, path: Place, *, reported: bool = False, watch: Watch = unwatched) -> Repair:
        """Repair the checkpoints and the tracker files of a PATH."""
        recovered = recover.in_place(path) if self.in_place and not self.dry_run else {}
        found = prepare(path, self, reported=reported)
        found = replace(found, migration=replace(found.migration, recovered=recovered))
        if self.dry_run:
            return found
        total = sum(plan.payload[1] for plan in found.migration.plans)
        with watch("copying data files", total) as progress:
            return carry_out(found, link=self.link, progress=progress)


@dataclass(frozen=True)
class Tracker:
    """The repair of the tracker files of a root, in place.

    Attributes:
        root: the root.
        text: the new text of latest_checkpointed_iteration.txt.
        files: name -> new bytes, of the tracker files that change.
        before: name -> current bytes, of the same files; None if the file does not exist.
        why: what is wrong with the tracker files, one sentence.
        kept: the directory for the original files.
        left: what cannot be repaired and what to do, or None.
    """

    root: Place
    text: str
    files: Mapping[str, bytes]
    before: Mapping[str, bytes | None]
    why: str
    kept: Place
    left: str | None = None

    @property
    def undo(self) -> list[str]:
        """Return the commands that undo the repair."""
        return [
            removal(self.root / name)
            if self.before[name] is None
            else copy(self.kept / name, self.root / name)
            for name in self.files
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (docs/json.md, `repair --json`)."""
        before = self.before.get(TRACKER_FILE, self.text.encode())
        return {
            "path": str(self.root / TRACKER_FILE),
            "before": None if before is None else before.decode("utf-8", "replace"),
            "after": self.text,
            "why": self.why,
            "files": list(self.files),
            "left": self.left,
        }

    def change(self) -> CheckpointChange:
        """Return the change, for a document."""
        files = tuple(
            FileChange(name, len(new), digest(self.before[name]), digest(new))
            for name, new in self.files.items()
        )
        line = f"~ {TRACKER_FILE} -> {self.text}: {self.why}"
        root = str(self.root)
        return CheckpointChange(root, root, (), self.text, "", (line,), files, (), (), 0, 0)


@dataclass(frozen=True)
class Repair:
    """A planned repair.

    Attributes:
        path: the PATH, absolute.
        migration: the plans of the checkpoints.
        tracker: the repair of the tracker files; None if they stay unchanged, or out of place.
        astray: what is wrong with the tracker files of PATH, one sentence; None if nothing.
    """

    path: Place
    migration: Migration
    tracker: Tracker | None
    astray: str | None = None

    @property
    def changes_nothing(self) -> bool:
        """Return whether there is nothing to repair."""
        return self.astray is None and all(p.changes_nothing for p in self.migration.plans)

    @property
    def status(self) -> Status:
        """Return the status."""
        if self.changes_nothing:
            return Status.UNCHANGED
        return Status.DONE if self.migration.done else Status.PLANNED

    @property
    def text(self) -> str:
        """Return what is repaired, in a few words."""
        if self.changes_nothing:
            return "nothing to repair"
        plans = [plan for plan in self.migration.plans if not plan.changes_nothing]
        several = len(self.migration.plans) > 1
        made = [
            f"{f'{plan.path.name}: ' if several else ''}{', '.join(plan.notes)}" for plan in plans
        ]
        if self.astray is not None:
            made.append(f"{TRACKER_FILE} -> {self.migration.tracker} ({self.astray})")
        return "; ".join(made)

    @property
    def written(self) -> Written:
        """Return the root or checkpoint that was repaired."""
        repaired = self.migration.destination or self.path
        return Written() if self.changes_nothing else Written(repaired)

    @property
    def digests(self) -> Digests:
        """Return nothing: `repair` has no ledger."""
        return {}

    def undo(self) -> list[str]:
        """Return the commands that undo the repair."""
        return self.migration.undo() + (self.tracker.undo if self.tracker else [])

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (docs/json.md, `repair --json`)."""
        return {
            **self.migration.as_json(),
            "undo": self.undo(),
            "tracker": None if self.tracker is None else self.tracker.as_json(),
        }

    def document(self) -> Document:
        """Return the document."""
        found = self.migration.document()
        tracker = () if self.tracker is None else (self.tracker.change(),)
        # The answer states the notes of the plans.
        changed = [replace(each, notes=()) for each in found.changes if each.files]
        undo = tuple(NextStep("undo", each) for each in self.undo())
        left = () if self.tracker is None or self.tracker.left is None else (self.tracker.left,)
        return replace(
            found,
            outcome=CommandOutcome(self.status.value),
            answer=self._answer,
            changes=(*changed, *tracker),
            steps=(*undo, *changes.use(self.migration)) if self.status is Status.DONE else (),
            warnings=(*found.warnings, *left),
        )

    @property
    def _answer(self) -> str:
        if self.changes_nothing:
            return f"Nothing to repair in {self.path}"
        destination = self.migration.destination
        into = "" if destination is None else f" into {destination}"
        does = "Repaired" if self.migration.done else "Dry run: would repair"
        how = LINKED.get(self.migration.link, "")
        return f"{does} {self.path}{into}{how}: {self.text}"


@metadata_file.kept()
def prepare(path: Place, request: RepairRequest, *, reported: bool = False) -> Repair:
    """Plan the repair of the checkpoints of a PATH without writing anything.

    Raises:
        RefusedError: the damage cannot be repaired.
        CkptMigrateError: as `root_checks.choose`, `Writer.check_free`.
    """
    iteration, every = request.iteration, request.every
    chosen = root_checks.choose(path, iteration=iteration, every=every)
    about = root_checks.findings(chosen) if chosen.is_root else ()
    named = root_reading.read(chosen.path).named if chosen.is_root else None
    for each in chosen.checkpoints:
        migration_state.check_complete(each)
    # Each checkpoint is verified once: the one that the tracker file names, to be repaired, too.
    verify = functools.cache(partial(verify_one, known=request.known, hashed=request.hashed))
    tracker = why = beyond = None
    if chosen.is_root and iteration is None and chosen.kind.trackers:
        why = _astray(chosen, named, about, request, verify)
        if why is not None:
            good = _newest_good(chosen, named, verify, why)
            chosen = replace(chosen, tracker=chosen.kind.tracker_of(good.name))
            tracker = _tracker(good, str(chosen.tracker), why)
            if not every:
                chosen = replace(chosen, checkpoints=chosen.kind.checkpoints(good))
        elif pair := next((each for each in about if each.code in (PAIR, TEXT_MISSING)), None):
            assert named is not None
            chosen = replace(chosen, tracker=chosen.kind.tracker_of(named.name))
            if pair.fix is None:
                why = pair.what
                tracker = _tracker(named, str(chosen.tracker), why)
            else:
                beyond = pair
        elif named is not None:
            chosen = replace(chosen, tracker=chosen.kind.tracker_of(named.name))
    now = clock.now()
    plans = tuple(repairs.plan(each, request, verify(each), now=now) for each in chosen.checkpoints)
    if beyond is not None and all(each.changes_nothing for each in plans):
        raise RefusedError(f"cannot be repaired: {beyond.what}", path=chosen.path, fix=beyond.fix)
    destination = None
    if not request.in_place and (
        tracker is not None or not all(each.changes_nothing for each in plans)
    ):
        destination = request.output or default_output(chosen.source, "repaired")
        destination = places.absolute(destination)
        publisher(destination).check_free(chosen.source)
        plans = tuple(each.out_of_place() for each in plans)
        tracker = None  # the new root gets its own tracker file
    root = chosen.path if chosen.is_root and iteration is None else None
    found = leading(plans, destination, chosen, root)
    if reported:
        found = replace(found, before=before(plans))
    return Repair(chosen.path, found, tracker, why)


def carry_out(
    repair: Repair, *, link: Link = Link.AUTO, progress: Progress | None = None
) -> Repair:
    """Carry out a repair, first of the checkpoints, then of the tracker files; return it as done.

    Raises:
        DestinationError: the destination cannot be written.
    """
    done = changes.carry_out(repair.migration, link=link, progress=progress)
    found = repair.tracker
    if found is not None:
        files = {
            name: FileState(digest(found.before[name]), digest(content))
            for name, content in found.files.items()
        }
        what = (f"~ tracker -> {found.text}: {found.why}",)
        step = Step(REPAIR, (), found.text, __version__, clock.now(), changes=what, files=files)
        swap.repoint(found.root, found.files, step)
    return replace(repair, migration=done)


def _astray(
    chosen: Located,
    named: Place | None,
    about: tuple[Finding, ...],
    wanted: RepairOptions,
    verify: Verify,
) -> str | None:
    """Return why the tracker file must change; None if its save is intact or repairable."""
    if named is None:
        return about[0].what
    if wanted.drop or wanted.rebuild or wanted.drop_optimizer:
        return None  # the options apply to the iteration in the tracker file
    lost = [each for place in chosen.kind.checkpoints(named) for each in verify(place).lost]
    return f"{_name(lost[0], chosen)} is not whole: {lost[0].what}" if lost else None


def _name(finding: Finding, chosen: Located) -> str:
    """Return the checkpoint of a finding relative to the root; it may be a nested checkpoint."""
    return str(finding.path).removeprefix(f"{chosen.path}/")


def _newest_good(chosen: Located, named: Place | None, verify: Verify, why: str) -> Place:
    """Return the newest save without errors, other than the named one."""
    bad = []
    for each in reversed(root_reading.read(chosen.path).saves):
        if each == named:
            continue
        try:
            errors = [e for place in chosen.kind.checkpoints(each) for e in verify(place).errors]
        except UnsupportedFormatError as error:
            bad.append(f"{each.name}: {error.reason}")
            continue
        if not errors:
            return each
        bad.append(f"{_name(errors[0], chosen)}: {errors[0].what}")
    more = f" (nor does another one: {'; '.join(bad[:5])})" if bad else ""
    raise RefusedError(
        f"cannot be repaired: {why}, and there is no good iteration to lead to{more}",
        path=chosen.path,
        fix=f"restore one from a copy; for all of it see "
        f"`{command('verify', chosen.path, '--all')}`",
    )


def _tracker(named: Place, text: str, why: str) -> Tracker:
    """Plan the change of a root's tracker files to an iteration.

    latest_checkpointed_iteration.txt is created if missing; the files of Megatron-Bridge only
    change if the root has them.
    """
    root = named.parent
    there = directories.directory(root)
    has_bridge = LATEST_TRAIN_STATE in there.files()
    before = {name: directories.read_if_there(there, name) for name in TRACKERS}
    files = {
        name: content
        for name, content in trackers.files(text, named).items()
        if content != before[name] and (has_bridge or name == TRACKER_FILE)
    }
    why_not = root_checks.no_train_state(root, text, named) if has_bridge else None
    left = None if why_not is None else f"{LATEST_TRAIN_STATE} is not changed: {why_not}"
    kept = root / sidecar.folder(len(sidecar.load(there)))
    return Tracker(root, text, files, {name: before[name] for name in files}, why, kept, left)
