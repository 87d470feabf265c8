"""Decide what a migration does, completely, before anything is written.

`plan` is pure: it reads a checkpoint and returns a value. `--dry-run` prints that value, and
`transaction.apply` is the only code that carries it out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ckptmigrate import diffing, manifest, recognise, sidecar, versions
from ckptmigrate.diffing import Difference
from ckptmigrate.errors import CkptMigrateError, CorruptError, DamagedError, RefusedError
from ckptmigrate.manifest import Manifest
from ckptmigrate.rerun import (
    IDLE,
    IN_PLACE,
    MODE_VALIDATE,
    STATES,
    Kind,
    RerunRecord,
    unique_key,
)
from ckptmigrate.sidecar import FileState, Original, Step, digest
from ckptmigrate.storage import Directory, LocalDirectory
from ckptmigrate.topology import Given, derive
from ckptmigrate.versions import Layout, facts

FAULT_CONTEXT: Final = "fault-context"
# Every loss a user can allow, and what it means.
LOSSES: Final = {
    FAULT_CONTEXT: "the fault being investigated is forgotten; the job resumes as if idle",
}


@dataclass(frozen=True)
class Reading:
    """A checkpoint and what its rerun facts say.

    Attributes:
        manifest: the checkpoint.
        layouts: every layout that fits the facts, in order of release; at least one.
        evidence: why, a sentence per layout.
        record: the rerun state.
    """

    manifest: Manifest
    layouts: tuple[Layout, ...]
    evidence: tuple[str, ...]
    record: RerunRecord


@dataclass(frozen=True)
class Plan:
    """What a migration will do to one checkpoint.

    Attributes:
        path: the checkpoint directory.
        iteration: the one it was saved at, or None.
        verb: `upgrade` or `downgrade`.
        source: names of the layouts that the checkpoint may have now.
        target: the layout (or `universal`) asked for.
        layout: the layout on disk afterwards.
        undo_target: the target that leads back from there.
        differences: what changes in meaning, in order.
        files: small file -> its new bytes, or None where it goes.
        sidecar: the bytes of the new sidecar; None where the result is the original itself.
        originals: file name -> bytes to keep for the way back, under `originals_folder`.
        originals_folder: relative to the checkpoint.
        earlier_steps: how many steps the sidecar tells of now.
        kept_steps: how many of them stay, and their originals with them.
        losses: names of the losses that happen, all of them allowed.
        notes: what the user should know: choices made, evidence used.
        payload: (number of payload files, their bytes), none of which is touched.
    """

    path: Path
    iteration: int | None
    verb: str
    source: tuple[str, ...]
    target: str
    layout: str
    undo_target: str
    differences: tuple[Difference, ...]
    files: dict[str, bytes | None]
    sidecar: bytes | None
    originals: dict[str, bytes]
    originals_folder: str
    earlier_steps: int
    kept_steps: int
    losses: tuple[str, ...]
    notes: tuple[str, ...]
    payload: tuple[int, int]

    @property
    def undo(self) -> str:
        """The command that takes it back in place."""
        place = versions.order(versions.named(self.undo_target))
        back = "upgrade" if place >= versions.order(versions.named(self.layout)) else "downgrade"
        return f"ckptmigrate {back} {self.path} --to {self.undo_target} --in-place"

    @property
    def changes_nothing(self) -> bool:
        """Whether the checkpoint is as asked for already."""
        return not self.files


def read(directory: Directory) -> Reading:
    """Read a checkpoint directory and tell its layout.

    Raises:
        CkptMigrateError: no torch_dist checkpoint, damaged, or of no known layout.
    """
    recognise.require_torch_dist(directory)
    try:
        return _read(manifest.load(directory))
    except DamagedError as error:
        # What looks at parts of a checkpoint need not know where it lies.
        error.path = error.path or directory.path
        raise


def _read(found: Manifest) -> Reading:
    gathered = facts.gather(found)
    fitting = [(layout, layout.detect(gathered)) for layout in versions.LAYOUTS]
    layouts = tuple(layout for layout, evidence in fitting if evidence)
    if not layouts:
        raise DamagedError(
            "has rerun facts that no release writes together "
            f"(entry with {', '.join(gathered.entry_fields) or 'nothing'}, grid {gathered.grid}, "
            f"common state {'in common.pt' if gathered.common_in_file else 'in an entry'})"
        )
    return Reading(found, layouts, tuple(e for _, e in fitting if e), layouts[0].read(found))


def plan(
    path: Path,
    target: str,
    *,
    verb: str | None,
    allowed: Collection[str] = (),
    given: Given | None = None,
    now: str,
    version: str,
) -> Plan:
    """Plan the migration of one checkpoint directory.

    Args:
        path: the checkpoint directory.
        target: a layout, or `universal`.
        verb: `upgrade` or `downgrade`, to refuse the other direction; None takes either.
        allowed: names of the losses (see LOSSES) that the user accepts.
        given: parallel sizes, in ranks, that the checkpoint does not tell.
        now: the time to record, ISO 8601.
        version: of ckptmigrate, to record.

    Raises:
        CorruptError: rerun shards are missing.
        RefusedError: wrong direction, unknown layout, a loss that is not allowed, or sizes
            that are unknown or contradict each other.
        CkptMigrateError: no readable torch_dist checkpoint.
    """
    layout = versions.named(target)
    directory = LocalDirectory(path)
    current = read(directory)
    verb = verb or _verb_for(current, layout)
    _check_direction(current, layout, target, verb)
    original = sidecar.original(directory)
    begin = read(original.directory) if original.undone else current
    _check_corrupt(begin)
    # What an earlier step was allowed to lose is lost already: do not ask for it again.
    agreed = {*allowed, *(loss for step in original.undone for loss in step.losses)}
    idle_only = target == versions.UNIVERSAL
    losses = _losses(begin, layout, idle_only=idle_only)
    _check_allowed(begin, layout, target, losses, agreed, verb)
    result, notes = _convert(begin, layout, losses, given)
    if original.undone:
        notes += ("starts from the original files that the sidecar keeps",)
    elif original.stale:
        notes += (f"the sidecar's originals are not used: {original.stale}",)
    _check_result(result, layout)
    request = _Request(verb, target, layout, losses, notes, now, version)
    return _assemble(current, original, result, begin.manifest, request)


@dataclass(frozen=True)
class _Request:
    """What was asked for, and what deciding it brought up."""

    verb: str
    target: str
    layout: Layout
    losses: tuple[str, ...]
    notes: tuple[str, ...]
    now: str
    version: str


def _verb_for(current: Reading, layout: Layout) -> str:
    newest = max(versions.order(found) for found in current.layouts)
    return "upgrade" if versions.order(layout) >= newest else "downgrade"


def _check_direction(current: Reading, layout: Layout, target: str, verb: str) -> None:
    if target == versions.UNIVERSAL:
        return
    wanted = versions.order(layout)
    places = [versions.order(found) for found in current.layouts]
    fits = min(places) <= wanted if verb == "upgrade" else max(places) >= wanted
    if not fits:
        other = "downgrade" if verb == "upgrade" else "upgrade"
        names = " or ".join(found.ID for found in current.layouts)
        age = "older" if verb == "upgrade" else "newer"
        raise RefusedError(
            f"{target} is {age} than {names}, which this checkpoint is",
            path=current.manifest.path,
            layout=target,
            fix=f"run `ckptmigrate {other} {current.manifest.path} --to {target}`",
        )


def _check_corrupt(begin: Reading) -> None:
    missing = begin.record.missing
    if begin.record.kind is not Kind.CORRUPT:
        return
    shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
    raise CorruptError(
        f"is corrupt: the common state tells of a rerun, and the checkpoint lacks {shown}",
        missing=missing,
        path=begin.manifest.path,
        fix="no release can load it; see `ckptmigrate inspect "
        f"{begin.manifest.path}` for what is intact",
    )


def _losses(begin: Reading, layout: Layout, *, idle_only: bool) -> tuple[str, ...]:
    """The losses that the conversion means, found from the content."""
    record = begin.record
    if record.kind is not Kind.FAULT:
        return ()
    stays = layout in begin.layouts and not idle_only
    moves = layout.KEEPS_FAULTS and all(found.KEEPS_FAULTS for found in begin.layouts)
    if (stays or moves) and record.state != IN_PLACE:
        return ()
    return (FAULT_CONTEXT,)


def _check_allowed(
    begin: Reading,
    layout: Layout,
    target: str,
    losses: tuple[str, ...],
    agreed: Collection[str],
    verb: str,
) -> None:
    refused = tuple(loss for loss in losses if loss not in agreed)
    if not refused:
        return
    record, path = begin.record, begin.manifest.path
    state = STATES[record.state or 0]
    if record.state == IN_PLACE:
        why = f"holds a fault in state {state}, from which no release resumes"
    else:
        names = " or ".join(found.ID for found in begin.layouts)
        why = (
            f"holds a fault context (state {state}, iteration {record.iteration}) that means "
            f"something only to the release that wrote it, and cannot move from {names} to {target}"
        )
    raise RefusedError(
        why,
        losses=refused,
        path=path,
        layout=layout.ID,
        fix=f"to resume as idle without it run `ckptmigrate {verb} {path} --to {target} "
        f"--allow-loss {FAULT_CONTEXT}`",
    )


def _convert(
    begin: Reading, layout: Layout, losses: tuple[str, ...], given: Given | None
) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest in the wanted layout, and notes on what had to be chosen."""
    source, record = begin.manifest, begin.record
    notes: tuple[str, ...] = ()
    if FAULT_CONTEXT in losses:
        mode, iteration = record.mode, record.iteration
        record = RerunRecord(Kind.IDLE, mode, IDLE, iteration)
        notes += ("the fault context is dropped and kept in the sidecar; the job resumes as idle",)
    elif layout in begin.layouts:
        return source, notes
    if record.iteration is None:
        if source.iteration is None:
            raise DamagedError("has no iteration in its common state", path=source.path)
        record = replace(record, iteration=source.iteration)
    mode_note = ""
    if record.mode is None:
        record = replace(record, mode=MODE_VALIDATE)
        mode_note = f"neither a rerun entry nor args has a rerun mode: {MODE_VALIDATE} is taken"
    elif begin.record.entry is None and not begin.record.shards:
        mode_note = f"no rerun entry has a mode: {record.mode} is taken from args.rerun_mode"
    wanted = layout.write(record, derive(source, given))
    if mode_note and (wanted.entry is not None or wanted.shards):
        notes += (mode_note,)
    unchanged = {
        unique_key(position, begin.record.grid): shard.stored
        for position, shard in begin.record.shards.items()
    }
    result = source.with_rerun(wanted, unchanged)
    if layout.COMMON_IN_FILE:
        return result.with_common_in_file(), notes
    return result.with_common_in_entry(), notes


def _check_result(result: Manifest, layout: Layout) -> None:
    """The writer did what the detector of its own layout looks for."""
    if not layout.detect(facts.gather(result)):
        raise CkptMigrateError(
            f"the plan does not lead to {layout.ID}; nothing was written",
            path=result.path,
            layout=layout.ID,
            fix="please report this with the output of `ckptmigrate inspect --json`",
        )


def _assemble(
    current: Reading, original: Original, result: Manifest, begin: Manifest, request: _Request
) -> Plan:
    """The plan: file by file against what is on disk now, and the step for the sidecar."""
    directory = current.manifest.directory
    beyond_original = result.contents(begin)
    wanted = {**original.files, **beyond_original}
    now = {
        name: directory.read(name) if name in directory.files() else None
        for name in (*manifest.METADATA_FILES, *wanted)
    }
    files = {name: content for name, content in wanted.items() if content != now[name]}
    originals = {name: content for name in files if (content := now[name]) is not None}
    differences = tuple(diffing.diff(current.manifest, result, payload=False))
    back_to_original = bool(original.undone) and not beyond_original
    kept = original.first if back_to_original else len(original.steps)
    steps = original.steps[:kept]
    if files and not back_to_original:
        steps += (
            Step(
                verb=request.verb,
                source=tuple(layout.ID for layout in current.layouts),
                target=request.target,
                version=request.version,
                time=request.now,
                losses=request.losses,
                changes=tuple(str(d) for d in differences),
                files={
                    name: FileState(digest(now[name]), digest(files.get(name, now[name])))
                    for name in now
                },
            ),
        )
    payload = current.manifest.payload_files
    return Plan(
        path=current.manifest.path,
        iteration=current.manifest.iteration,
        verb=request.verb,
        source=tuple(layout.ID for layout in current.layouts),
        target=request.target,
        layout=request.layout.ID,
        undo_target=original.undone[-1].target if original.undone else current.layouts[-1].ID,
        differences=differences,
        files=files,
        sidecar=sidecar.dump(steps) if steps else None,
        originals={} if back_to_original else originals,
        originals_folder=sidecar.folder(len(steps) - 1),
        earlier_steps=len(original.steps),
        kept_steps=kept,
        losses=request.losses,
        notes=request.notes,
        payload=(len(payload), sum(size for _, size in payload.values())),
    )
