"""From one layout to another, and on to what a reader needs: readings in, manifests out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ckptmigrate import rng
from ckptmigrate.constraints import constrain
from ckptmigrate.errors import CkptMigrateError, DamagedError
from ckptmigrate.manifest import Manifest
from ckptmigrate.readers import Reader
from ckptmigrate.reading import Reading
from ckptmigrate.rerun import IDLE, IN_PLACE, MODE_VALIDATE, Kind, RerunRecord, unique_key
from ckptmigrate.topology import Given, derive
from ckptmigrate.versions import Layout, facts

FAULT_CONTEXT: Final = "fault-context"
FOREIGN_SYMBOLS: Final = "foreign-symbols"
OPTIMIZER_STATE: Final = "optimizer-state"
RNG_STATE: Final = "rng-state"
INTEGRITY: Final = "integrity"


@dataclass(frozen=True)
class Loss:
    """What a user can allow a migration to lose.

    Attributes:
        loss: its name, for --allow-loss.
        meaning: what it means for the job.
        why: what stands in the way of keeping it.
        since: the releases that it comes up with.
        source: the tag, file or sample it is known from.
    """

    loss: str
    meaning: str
    why: str
    since: str
    source: str


_LOSSES: Final = (
    Loss(
        FAULT_CONTEXT,
        "the fault being investigated is forgotten; the job resumes as if idle",
        "up to 0.13 a fault context names the failing call by line number, which moves with every "
        "release: carried into another one it never matches, and every later resume exits",
        "0.10 to 0.13, to or from any other release; RERUNNING_IN_PLACE in every release",
        "core_v0.13.1, core_v0.14.0 megatron/core/rerun_state_machine.py Caller",
    ),
    Loss(
        FOREIGN_SYMBOLS,
        "objects of other frameworks in the common state become their names as text",
        "a release that cannot import or does not allow-list a symbol cannot read the common state",
        "every release",
        "megatron/core/safe_globals.py of each release",
    ),
    Loss(
        OPTIMIZER_STATE,
        "the job resumes with --no-load-optim, as it cannot read the optimizer",
        "the release does not know how the optimizer is sharded, and no metadata edit can re-lay "
        "the bytes",
        "across 0.10 and 0.11, 0.13 and 0.14, 0.14 and 0.15, 0.15 and 0.16",
        "megatron/core/optimizer/distrib_optimizer.py of each release; sample 0.17.1-idle-dopt",
    ),
    Loss(
        RNG_STATE,
        "data and context parallel ranks resume with the RNG states of the first of them",
        "0.16 alone has one for every rank, with expert parallelism; others ask for one per "
        "(PP, TP)",
        ">=0.16,<0.17",
        "core_v0.16.1 megatron/training/checkpointing.py get_rng_state",
    ),
    Loss(
        INTEGRITY,
        "files without the digest that integrity.json has are used as they are",
        "they were damaged or changed since the save, and the result gets digests of what is there",
        ">=0.17.1",
        "core_v0.19.0 dist_checkpointing/validation.py",
    ),
)
LOSSES: Final = {row.loss: row for row in _LOSSES}


@dataclass(frozen=True)
class Converted:
    """What a conversion leads to.

    Attributes:
        manifest: the result; the source's very own parts where nothing had to change.
        layout: the layout on disk.
        losses: names of the losses that it means, found from the content.
        foreign: the symbols behind the loss FOREIGN_SYMBOLS.
        notes: choices made.
    """

    manifest: Manifest
    layout: Layout
    losses: tuple[str, ...]
    foreign: tuple[str, ...]
    notes: tuple[str, ...]


def convert(
    begin: Reading,
    layout: Layout | None,
    *,
    reader: Reader | None = None,
    idle_only: bool = False,
    given: Given | None = None,
) -> Converted:
    """Convert a checkpoint.

    Args:
        begin: the checkpoint.
        layout: the layout to lead to; None for the one it has.
        reader: a release whose constraints the result has to meet, too.
        idle_only: whether a fault context must not stay even in its own layout.
        given: parallel sizes, in ranks, that the checkpoint does not tell.

    Raises:
        RefusedError: sizes that are needed are unknown or contradict each other.
        DamagedError: the checkpoint has no iteration where one is needed.
    """
    wanted = layout or begin.layouts[0]
    losses = _fault_loss(begin, wanted, idle_only=idle_only)
    in_file = begin.manifest.common.in_file if layout is None else layout.COMMON_IN_FILE
    result = begin.manifest
    notes: tuple[str, ...] = ()
    if losses or wanted not in begin.layouts:
        result, notes = _rewritten(begin, wanted, given, drop_fault=bool(losses))
    foreign: tuple[str, ...] = ()
    if reader is not None:
        constrained = constrain(result, reader, in_file=in_file)
        result, foreign = constrained.manifest, constrained.foreign
        losses += (FOREIGN_SYMBOLS,) if foreign else ()
        states = rng.rekeyed(result, reader, given)
        result = states.manifest
        losses += (RNG_STATE,) if states.lossy else ()
        notes += (states.note,) if states.note else ()
    result = result.with_common_in_file() if in_file else result.with_common_in_entry()
    # The writer did what the detector of its own layout looks for.
    if not wanted.detect(facts.gather(result)):
        raise CkptMigrateError(
            f"the plan does not lead to {wanted.ID}; nothing was written",
            path=result.path,
            layout=wanted.ID,
            fix="please report this with the output of `ckptmigrate inspect --json`",
        )
    return Converted(result, wanted, losses, foreign, notes)


def _fault_loss(begin: Reading, layout: Layout, *, idle_only: bool) -> tuple[str, ...]:
    record = begin.record
    if record.kind is not Kind.FAULT:
        return ()
    stays = layout in begin.layouts and not idle_only
    moves = layout.KEEPS_FAULTS and all(found.KEEPS_FAULTS for found in begin.layouts)
    if (stays or moves) and record.state != IN_PLACE:
        return ()
    return (FAULT_CONTEXT,)


def _rewritten(
    begin: Reading, layout: Layout, given: Given | None, *, drop_fault: bool
) -> tuple[Manifest, tuple[str, ...]]:
    """The rerun state in the wanted layout, and notes on what had to be chosen."""
    source, record = begin.manifest, begin.record
    notes: tuple[str, ...] = ()
    if drop_fault:
        record = RerunRecord(Kind.IDLE, record.mode, IDLE, record.iteration)
        notes += ("the fault context is dropped and kept in the sidecar; the job resumes as idle",)
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
    return source.with_rerun(wanted, unchanged), notes
