"""The conversion or removal of the optimizer as part of a migration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from packaging.version import Version

from ckptmigrate.checkpoint.differences import Difference, diff
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.metadata import SHAPES
from ckptmigrate.checkpoint.sidecar import Step
from ckptmigrate.errors import RefusedError
from ckptmigrate.optimizer.record import KEY
from ckptmigrate.optimizer.source import FLATTENED, FULLY_RESHARDABLE, Source
from ckptmigrate.optimizer.target import OptimizerTarget
from ckptmigrate.places import Place
from ckptmigrate.planning import extra_states
from ckptmigrate.planning.change import NewPayload
from ckptmigrate.planning.losses import OPTIMIZER_STATE
from ckptmigrate.planning.targets import CONVERT, DROP, UNMOVED, Target
from ckptmigrate.releases import optimizer_state
from ckptmigrate.releases.readers import Reader
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.commands import command
from ckptmigrate.text.sizes import data_files, size

if TYPE_CHECKING:
    from ckptmigrate.optimizer.resharding import Conversion

TYPES: Final = (FLATTENED, FULLY_RESHARDABLE)  # that an optimizer can be converted to
_COPIES: Final = 3  # parameters named in a sentence
_PARTS: Final = ("entry", "plan", "payload", "attribute")  # of differences that name keys


def is_readable(found: Manifest, reader: Reader) -> bool:
    """Return whether a release loads the optimizer, at most after a change of metadata."""
    return all(problem.metadata_only for problem in optimizer_state.problems(found, reader))


def suits(found: Manifest, target: Target) -> bool:
    """Return whether the optimizer has the type that a target requests and its release loads it."""
    wanted, reader = target.optimizer_type, target.reader
    if wanted is not None and wanted != optimizer_state.sharding_type(found):
        return False
    return wanted is not None if reader is None else is_readable(found, reader)


def is_convertible(found: Manifest) -> bool:
    """Return whether the optimizer is of a kind that can be converted."""
    from ckptmigrate.optimizer import sharding_types  # most migrations convert nothing

    return sharding_types.is_convertible(found)


def convertible_size(found: Manifest) -> int:
    """Return the bytes of an optimizer that can be converted, as far as the metadata shows.

    Raises:
        RefusedError, DamagedError: it is of a kind that cannot be converted, or is damaged.
    """
    from ckptmigrate.optimizer import description, sharding_types

    sharding_types.recognise(Source(found))
    summary = description.describe(found)
    return 0 if summary is None else summary.size


def needed(found: Manifest, target: Target) -> OptimizerTarget | None:
    """Return what the optimizer has to be converted to, or None if it is kept as it is.

    Raises:
        RefusedError: the type does not follow from the target.
    """
    if target.optimizer != CONVERT:
        return None
    reader, wanted = target.reader, target.optimizer_type
    current = optimizer_state.sharding_type(found)
    can_read = reader is None or is_readable(found, reader)
    if wanted is None:
        if reader is None:
            raise RefusedError(
                f"the optimizer cannot be converted for {target.name}, which is not a release",
                path=found.path,
                fix="use a release with --to, or name the sharding type with --optimizer-type",
            )
        if (can_read and not target.native) or current is None:
            return None
        wanted = OptimizerTarget.type_of(Version(reader.release))
    if wanted == current and can_read:
        return None
    return OptimizerTarget(wanted, None if reader is None else Version(reader.release))


def converted(
    found: Manifest,
    target: Target,
    progress: Progress | None = None,
    taken: Collection[str] = (),
) -> Conversion | None:
    """Return the conversion or removal of the optimizer for a target, or None if it is kept.

    Args:
        progress, taken: see `resharding.convert`.

    Raises:
        RefusedError: the optimizer cannot be converted.
        DamagedError: the optimizer is damaged, or is not that of the weights.
    """
    if target.optimizer == DROP:
        return dropped(found)
    wanted = needed(found, target)
    if wanted is None:
        return None
    from ckptmigrate.optimizer.resharding import convert

    return convert(found, wanted, progress, taken, target.part_size)


def dropped(found: Manifest) -> Conversion | None:
    """Return the removal of the optimizer; None if the checkpoint has none."""
    from ckptmigrate.optimizer.dropping import drop

    return drop(found)


def payload(made: Conversion) -> Mapping[str, NewPayload]:
    """Return the new data files of a conversion."""
    from ckptmigrate.optimizer.performing import pieces

    return {
        name: NewPayload(count, partial(pieces, made, name)) for name, count in made.sizes.items()
    }


def notes(made: Conversion) -> tuple[str, ...]:
    """Return what a conversion reads and writes, and its decisions, as sentences.

    Source of what a job without the optimizer needs: load_checkpoint of
    megatron/training/checkpointing.py, core_v0.9.0 to core_v0.19.0, which skips the scheduler with
    the optimizer.
    """
    if made.after is None:
        flag = optimizer_state.flag(made.manifest)
        return (
            f"the optimizer ({made.before}) is dropped: resume with {flag}, which also starts a "
            "new learning rate schedule",
        )
    sizes = made.sizes
    return (
        f"the optimizer is converted from {made.before} to {made.after}, which reads "
        f"{size(made.read_size)} and writes {data_files(len(sizes), sum(sizes.values()))}",
        *made.decisions,
    )


def as_json(made: Conversion) -> dict[str, Any]:
    """Return the documented JSON form of a conversion (docs/json.md, `upgrade --json`)."""
    return {
        "from": made.before,
        "to": made.after,
        "read_bytes": made.read_size,
        "written_bytes": sum(made.sizes.values()),
        "files": [{"name": name, "bytes": count} for name, count in made.sizes.items()],
        "decisions": list(made.decisions),
    }


def differences(a: Manifest, b: Manifest, *, compacted: bool) -> tuple[Difference, ...]:
    """Return the differences from `a` to `b`, with one for all keys of a changed optimizer.

    Args:
        compacted: whether the data files differ by a compaction, which also is one difference.
    """
    found = tuple(diff(a, b, payload=False))
    if compacted:
        kept = tuple(each for each in found if (each.sign, each.part) != ("~", "payload"))
        found = (*kept, Difference("~", "payload", "data files", "the same bytes in other files"))
    before, after = map(_form, (a, b))
    if before == after:
        return found
    kept = tuple(each for each in found if not _is_of_optimizer(each))
    sign, detail = "~", f"{before} -> {after}"
    if None in (before, after):
        sign, detail = ("-" if after is None else "+"), before or after or ""
    return (*kept, Difference(sign, "entry", "optimizer", detail))


def _form(found: Manifest) -> str | None:
    """Return the sharding type of the optimizer, or what it is instead; None if there is none."""
    if not optimizer_state.saved(found):
        return None
    return optimizer_state.sharding_type(found) or "not distributed"


def _is_of_optimizer(found: Difference) -> bool:
    name = found.name.rpartition(": ")[2].removeprefix("planner_data.").removeprefix("mcore_data.")
    # Only tensors have a row of shapes, and a migration changes no others.
    is_table = found.part == "plan" and name.startswith(f"{SHAPES} of rank ")
    return is_table or (found.part in _PARTS and KEY.fullmatch(name) is not None)


def repeated(step: Step, path: Place) -> str:
    """Return the command that repeats a migration in place."""
    drops = step.optimizer == DROP
    words = [] if step.target in (*TYPES, *UNMOVED) else ["--to", step.target]
    if step.optimizer:
        words += ["--optimizer" if drops else "--optimizer-type", step.optimizer]
    words += extra_states.words(step.extra_state, step.transformer_engine)
    words += ["--compact"] if step.compacts else []
    for loss in step.losses:
        words += [] if drops and loss == OPTIMIZER_STATE else ["--allow-loss", loss]
    return command(step.verb, path, *words, "--in-place")


def differing_copies(made: Conversion) -> str:
    """Return which copies of parameters differ."""
    shown = [f"{each.name} ({' and '.join(each.places)})" for each in made.replicas[:_COPIES]]
    more = len(made.replicas) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
