"""The checkpoint that a migration starts from, and the smallest change that reaches its target."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ckptmigrate.checkpoint import sidecar
from ckptmigrate.checkpoint.sidecar import Original
from ckptmigrate.checkpoint.topology import Given
from ckptmigrate.planning import optimizers
from ckptmigrate.planning.compaction import compact, unused_bytes
from ckptmigrate.planning.conversion import Converted
from ckptmigrate.planning.losses import OPTIMIZER_STATE, REPLICA_DIFFERENCE
from ckptmigrate.planning.targets import DROP, Target, reach
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.sizes import size
from ckptmigrate.versions.detection import Reading, read


def beginning(current: Reading, target: Target) -> tuple[Original, Reading]:
    """Return the original to start from, and its reading.

    A converted optimizer is an original if it suits the target, and the one before does not. If the
    checkpoint is not migrated, what earlier steps changed stays.
    """
    directory = current.manifest.directory
    original = sidecar.original(directory)
    begin = read(original.directory) if original.undone and not target.stays else current
    converted = (
        original.payload
        and optimizers.suits(current.manifest, target)
        and not optimizers.suits(begin.manifest, target)
    )
    if target.stays or converted:
        return Original(directory, original.steps, len(original.steps)), current
    return original, begin


def reached(
    begin: Reading,
    target: Target,
    given: Given | None,
    progress: Progress | None = None,
    taken: Collection[str] = (),
) -> Converted:
    """Return the smallest conversion that reaches the target, with its new data files.

    Args:
        progress, taken: see `resharding.convert`.

    Raises:
        CkptMigrateError: as `optimizers.converted`, `targets.reach` and `compaction.compact`.
    """
    made = optimizers.converted(begin.manifest, target, progress, taken)
    if made is not None:
        result = reach(replace(begin, manifest=made.manifest), target, given)
        losses = dict.fromkeys(result.losses)
        losses |= {REPLICA_DIFFERENCE: None} if made.replicas else {}
        losses |= {OPTIMIZER_STATE: None} if made.after is None else {}
        result = replace(
            result,
            optimizer=made,
            losses=tuple(losses),
            notes=result.notes + optimizers.notes(made),
        )
        taken = (*taken, *made.files)
    else:
        result = reach(begin, target, given)
        if target.optimizer == DROP:
            result = replace(result, notes=(*result.notes, "there is no optimizer to drop"))
    if target.compact:
        return _compacted(result, taken, target.part_size)
    return result if made is None else _counted(result)


def _compacted(found: Converted, taken: Collection[str], part_size: int) -> Converted:
    """Return a result without unused bytes in its data files."""
    compaction = compact(found.manifest, taken, part_size)
    if compaction is None:
        return replace(found, unused=0, notes=(*found.notes, "the data files have no unused bytes"))
    return replace(
        found,
        manifest=compaction.manifest,
        compaction=compaction,
        unused=0,
        notes=(*found.notes, compaction.note),
    )


def _counted(found: Converted) -> Converted:
    """Return a result with the number of unused bytes in its data files."""
    unused = unused_bytes(found.manifest)
    total = sum(unused.values())
    note = (
        f"no key uses {size(total)} of {len(unused)} existing data files any more; to leave these "
        "bytes out, add --compact",
    )
    return replace(found, unused=total, notes=found.notes + (note if total else ()))
