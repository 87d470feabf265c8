"""Conversion of a checkpoint to another layout and to the constraints of a reader."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import (
    IDLE,
    MODE_VALIDATE,
    Kind,
    RerunRecord,
    unique_key,
)
from ckptmigrate.checkpoint.topology import Given, derive
from ckptmigrate.errors import CkptMigrateError, DamagedError
from ckptmigrate.planning.losses import FAULT_CONTEXT, FOREIGN_SYMBOLS, RNG_STATE
from ckptmigrate.releases import rng
from ckptmigrate.releases.constraints import Constrained, constrain, respelled, respelled_states
from ckptmigrate.releases.environment import USUAL, Environment
from ckptmigrate.releases.facts import compat
from ckptmigrate.releases.readers import Reader
from ckptmigrate.versions import Layout, rerun_facts
from ckptmigrate.versions.detection import Reading

if TYPE_CHECKING:
    from ckptmigrate.optimizer.resharding import Conversion
    from ckptmigrate.planning.compaction import Compaction
    from ckptmigrate.planning.extra_states import ExtraStateChange


@dataclass(frozen=True)
class Converted:
    """The result of a conversion.

    Attributes:
        manifest: the result; unchanged parts are the same objects as in the source.
        layout: the layout of the result.
        losses: names of the data losses of this conversion of this content.
        foreign: the globals that cause the data loss FOREIGN_SYMBOLS.
        notes: choices made.
        optimizer: the conversion or removal of the optimizer, or None if it is kept as it is.
        extra_state: the change of the `_extra_state`, or None if it is kept as it is.
        compaction: the new data files without unused bytes, or None if there are none.
        unused: the number of bytes of existing data files that no key uses; None if not counted.
    """

    manifest: Manifest
    layout: Layout
    losses: tuple[str, ...]
    foreign: tuple[str, ...]
    notes: tuple[str, ...]
    optimizer: Conversion | None = None
    extra_state: ExtraStateChange | None = None
    compaction: Compaction | None = None
    unused: int | None = None


def convert(
    begin: Reading,
    layout: Layout | None,
    *,
    reader: Reader | None = None,
    environment: Environment = USUAL,
    idle_only: bool = False,
    given: Given | None = None,
) -> Converted:
    """Convert a checkpoint.

    Args:
        begin: the checkpoint.
        layout: the target layout; None for the current one.
        reader: a release whose constraints the result has to meet.
        environment: the Python and NumPy versions of the target job.
        idle_only: whether to drop a fault context even if the layout stays the same.
        given: parallel sizes, in ranks, that the checkpoint does not contain.

    Raises:
        RefusedError: required parallel sizes are unknown or contradict each other.
        DamagedError: the layout needs an iteration and the checkpoint has none.
    """
    wanted = layout or begin.layouts[0]
    losses = _fault_loss(begin, wanted, idle_only=idle_only)
    in_file = begin.manifest.common.in_file if layout is None else layout.COMMON_IN_FILE
    result = begin.manifest
    notes: tuple[str, ...] = ()
    if losses or wanted not in begin.layouts:
        result, notes = _rewritten(begin, wanted, given, drop_fault=bool(losses))
    spelled = respelled(result, compat(), environment, reader, in_file=in_file)
    renamed, result = spelled is not result, spelled
    foreign: tuple[str, ...] = ()
    if reader is not None:
        constrained = constrain(result, reader, in_file=in_file)
        result, foreign = constrained.manifest, constrained.foreign
        losses += (FOREIGN_SYMBOLS,) if foreign else ()
    if reader is not None or idle_only:
        states = rng.rekeyed(result, reader, given)
        result = states.manifest
        losses += (RNG_STATE,) if states.lossy else ()
        notes += (states.note,) if states.note else ()
    spelled = respelled_states(result, compat(), environment)
    notes += (environment.note,) if renamed or spelled is not result else ()
    result = spelled
    result = result.with_common_in_file() if in_file else result.with_common_in_entry()
    inside = {
        name: _nested(each, layout, reader, environment) for name, each in result.nested.items()
    }
    result = replace(result, nested={name: each.manifest for name, each in inside.items()})
    strange = tuple(dict.fromkeys(path for each in inside.values() for path in each.foreign))
    if strange:
        losses += () if foreign else (FOREIGN_SYMBOLS,)
        foreign = tuple(dict.fromkeys((*foreign, *strange)))
    # A safeguard: the layout's own detection has to match what its writer wrote.
    if not wanted.detect(rerun_facts.gather(result)):
        raise CkptMigrateError(
            f"the planned result is not {wanted.ID}",
            path=result.path,
            layout=wanted.ID,
            fix="report this with the output of `ckptmigrate inspect --json`",
        )
    return Converted(result, wanted, losses, foreign, notes)


def _nested(
    found: Manifest, layout: Layout | None, reader: Reader | None, environment: Environment
) -> Constrained:
    """Convert a nested checkpoint: the place of its common state, and the reader's constraints.

    A nested checkpoint has no rerun state, no RNG states and no args.
    """
    if layout is not None:
        in_file = layout.COMMON_IN_FILE
    else:
        in_file = found.common.in_file or (reader is not None and reader.needs_common_file)
    result = Constrained(respelled(found, compat(), environment, reader, in_file=in_file), ())
    if reader is not None:
        result = constrain(result.manifest, reader, in_file=in_file)
    made = result.manifest
    made = made.with_common_in_file() if in_file else made.with_common_in_entry()
    return replace(result, manifest=made)


def _fault_loss(begin: Reading, layout: Layout, *, idle_only: bool) -> tuple[str, ...]:
    record = begin.record
    if record.kind is not Kind.FAULT:
        return ()
    stays = layout in begin.layouts and not idle_only
    moves = layout.KEEPS_FAULTS and all(found.KEEPS_FAULTS for found in begin.layouts)
    if (stays or moves) and not record.is_unresumable:
        return ()
    return (FAULT_CONTEXT,)


def _rewritten(
    begin: Reading, layout: Layout, given: Given | None, *, drop_fault: bool
) -> tuple[Manifest, tuple[str, ...]]:
    """Return the checkpoint with the rerun state in the target layout, and notes on choices."""
    source, record = begin.manifest, begin.record
    notes: tuple[str, ...] = ()
    if drop_fault:
        record = RerunRecord(Kind.IDLE, record.mode, IDLE, record.iteration)
        notes += (
            "the fault context is dropped, and the job resumes as idle (the original files are "
            "kept)",
        )
    if record.iteration is None:
        if source.iteration is None:
            raise DamagedError("has no iteration in the common state", path=source.path)
        record = replace(record, iteration=source.iteration)
    mode_note = ""
    if record.mode is None:
        record = replace(record, mode=MODE_VALIDATE)
        mode_note = (
            "the checkpoint stores no rerun mode, and args.rerun_mode is not set: using "
            f"{MODE_VALIDATE}"
        )
    elif begin.record.entry is None and not begin.record.shards:
        mode_note = f"the checkpoint stores no rerun mode: using args.rerun_mode ({record.mode})"
    wanted = layout.write(record, derive(source, given))
    if mode_note and (wanted.entry is not None or wanted.shards):
        notes += (mode_note,)
    unchanged = {
        unique_key(position, begin.record.grid): shard.stored
        for position, shard in begin.record.shards.items()
    }
    return source.with_rerun(wanted, unchanged), notes
