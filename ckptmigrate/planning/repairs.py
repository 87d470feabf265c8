"""Planning of the repair of one checkpoint.

A repair starts from the checkpoint on disk, not from the original files that the sidecar keeps.
Later migrations start from the repaired checkpoint (`sidecar.original`), so that no downgrade
restores the damage.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from ckptmigrate import versions
from ckptmigrate.checkpoint import sidecar
from ckptmigrate.checkpoint.manifest import MARKER_FILE, Manifest, marker_of
from ckptmigrate.checkpoint.metadata import SHAPES
from ckptmigrate.checkpoint.rerun import (
    IDLE,
    MODE_VALIDATE,
    STATES,
    Kind,
    RerunRecord,
    StoredRerun,
    unique_key,
)
from ckptmigrate.checkpoint.sidecar import REPAIR, Original
from ckptmigrate.checkpoint.topology import Given, derive
from ckptmigrate.checks.codes import CODES
from ckptmigrate.checks.verification import Verified
from ckptmigrate.errors import CorruptError, DamagedError, RefusedError, Retry
from ckptmigrate.places import Place
from ckptmigrate.planning import optimizers, planner
from ckptmigrate.planning.conversion import Converted
from ckptmigrate.planning.losses import FAULT_CONTEXT, OPTIMIZER_STATE
from ckptmigrate.planning.planner import Plan, Request
from ckptmigrate.planning.refusals import rebuild_options
from ckptmigrate.releases.constraints import respelled, with_shapes
from ckptmigrate.releases.environment import USUAL
from ckptmigrate.releases.facts import compat
from ckptmigrate.storage import directories
from ckptmigrate.text.commands import command
from ckptmigrate.version import __version__
from ckptmigrate.versions import Layout, none_emitting, pre_rerun, rerun_facts
from ckptmigrate.versions.detection import Reading, read

_DIGEST: Final = "integrity-mismatch"


@dataclass(frozen=True)
class RepairOptions:
    """The options of a repair.

    Attributes:
        rebuild: write an idle rerun state with all its shards, instead of no rerun state.
        drop: drop a complete fault context.
        given: parallel sizes, in ranks, that the checkpoint does not contain.
        known: globals that the user trusts.
        hashed: also compare the hashes of data files with integrity.json.
        drop_optimizer: remove the optimizer, so that no job loads it.
    """

    rebuild: bool = False
    drop: bool = False
    given: Given | None = None
    known: Collection[str] = ()
    hashed: bool = False
    drop_optimizer: bool = False


def plan(path: Place, options: RepairOptions, verified: Verified, *, now: str) -> Plan:
    """Plan the repair of one checkpoint.

    Args:
        verified: the problems of the checkpoint.

    Raises:
        RefusedError: data is lost, or the repair would drop a fault context without `drop`.
        CkptMigrateError: the directory is not a readable torch_dist checkpoint.
    """
    gone = verified.lost
    if gone:
        first, more = gone[0], len(gone) - 1
        raise RefusedError(
            f"cannot be repaired: {first.what} ({CODES[first.code].meaning.rstrip('.')})"
            + (f", and {more} more errors" if more else ""),
            path=first.path,
            fix=f"{first.remedy}; to list all problems, run `{command('verify', path)}`",
        )
    directory = directories.directory(path)
    current = read(directory, unmarked=True)
    result, notes, losses = _rerun(current, options)
    result, unmarked = _marked(result)
    notes += tuple(f"{name} is written from the metadata" for name in unmarked)
    made = None
    if options.drop_optimizer:
        made = optimizers.dropped(result)
        if made is None:
            raise RefusedError(
                "has no optimizer to remove",
                path=path,
                fix="omit --drop-optimizer",
                retry=Retry(leave_out=("--drop-optimizer",)),
            )
        result = made.manifest
        notes += optimizers.notes(made)
        losses += (OPTIMIZER_STATE,)
    whole = with_shapes(result)
    if whole is not result:
        notes += (f"{SHAPES} is computed from the shapes of the parameters",)
    result = whole
    in_file = current.manifest.common.in_file
    spelled = respelled(result, compat(), USUAL, None, in_file=in_file)
    notes += () if spelled is result else (USUAL.note,)
    result = spelled
    # A sharded common state has to be serialized again after a change.
    result = result if in_file else result.with_common_in_entry()
    start = {part.path: start for start, part in result.parts.items()}
    other = [
        f"{start[finding.path]}{name}"
        for finding in verified.errors
        if finding.code == _DIGEST
        for name in finding.items
    ]
    refreshed = {name: directory.read(name) for name in other}
    if refreshed:
        names = ", ".join(refreshed)
        notes += (f"integrity.json records the current hash of {names}, whose content was checked",)
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
    return planner.assemble(
        current,
        Original(directory, steps, len(steps)),
        Converted(result, layout, losses, (), notes, made),
        current.manifest,
        request,
    )


def _marked(found: Manifest) -> tuple[Manifest, list[str]]:
    """Add a missing metadata.json to a checkpoint and its nested ones.

    Returns:
        The checkpoint, and the names of the new files.
    """
    new = [f"{start}{MARKER_FILE}" for start, each in found.parts.items() if not each.marker]
    nested = {folder: _with_marker(each) for folder, each in found.nested.items()}
    return (replace(_with_marker(found), nested=nested) if new else found), new


def _with_marker(found: Manifest) -> Manifest:
    return found if found.marker else replace(found, marker=marker_of(found))


def _layout_of(result: Manifest, current: Reading) -> Layout:
    """Return the layout of the result: the current one, if it still matches."""
    gathered = rerun_facts.gather(result)
    fitting = [layout for layout in versions.LAYOUTS if layout.detect(gathered)]
    return next(layout for layout in (*current.layouts, *fitting) if layout in fitting)


def _rerun(
    current: Reading, options: RepairOptions
) -> tuple[Manifest, tuple[str, ...], tuple[str, ...]]:
    """Return the checkpoint with a repaired rerun state, notes, and names of data losses."""
    record, source = current.record, current.manifest
    if record.kind is Kind.FAULT and not options.drop:
        if options.rebuild:
            raise RefusedError(
                "contains a complete fault context, which --rebuild-sentinel would replace",
                path=source.path,
                fix="to drop it, use --drop-rerun instead",
                retry=Retry(add=("--drop-rerun",), leave_out=("--rebuild-sentinel",)),
            )
        if record.is_unresumable:
            raise RefusedError(
                f"contains a fault in state {STATES[record.state or 0]}, from which no release "
                "can resume",
                path=source.path,
                losses=(FAULT_CONTEXT,),
                fix="drop the fault context to resume as idle",
                retry=Retry(add=("--drop-rerun",)),
            )
        return source, (), ()
    # An idle `rerun_state_machine` that lacks some or all rerun shards.
    bare = record.entry is not None and (not record.shards or bool(record.missing))
    if record.kind in (Kind.CORRUPT, Kind.FAULT) or (options.rebuild and bare):
        losses = (FAULT_CONTEXT,) if record.kind is Kind.FAULT else ()
        if options.rebuild:
            return *_rebuilt(current, options), losses
        needed = rebuild_options(current)
        if needed:
            raise CorruptError(
                "lacks rerun shards that the releases of its layout always request",
                missing=record.missing,
                path=source.path,
                fix="write new rerun shards",
                retry=Retry(add=needed),
            )
        note = "rerun_state_machine is removed from the common state, and the job resumes as idle"
        return source.with_rerun(StoredRerun(), {}), (note,), losses
    if options.drop:
        return source, ("there is no fault context to drop",), ()
    return source, (), ()


def _rebuilt(current: Reading, options: RepairOptions) -> tuple[Manifest, tuple[str, ...]]:
    """Return the checkpoint with a complete idle rerun state, and notes.

    Existing idle shards are kept, and missing ones are new.
    """
    source, record = current.manifest, current.record
    silent = (pre_rerun, none_emitting)  # they store no idle rerun state
    layout = next((found for found in current.layouts if found not in silent), None)
    if layout is None:
        raise RefusedError(
            f"the layout {current.layouts[0].ID} stores no idle rerun state to rebuild",
            path=source.path,
            fix="omit --rebuild-sentinel",
            retry=Retry(leave_out=("--rebuild-sentinel",)),
        )
    iteration = source.iteration if record.iteration is None else record.iteration
    if iteration is None:
        raise DamagedError("has no iteration in the common state", path=source.path)
    idle = RerunRecord(Kind.IDLE, record.mode or MODE_VALIDATE, IDLE, iteration)
    kept = record.shards if record.kind is Kind.IDLE else {}
    if kept:
        idle = record
    stored = layout.write(idle, derive(source, options.given))
    note = f"an idle rerun state is written, with {len(stored.shards) - len(kept)} new shards"
    unchanged = {unique_key(place, record.grid): shard.stored for place, shard in kept.items()}
    return source.with_rerun(stored, unchanged), (note,)
