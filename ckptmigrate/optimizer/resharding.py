"""Conversion of a distributed optimizer, planned to the byte; nothing is written."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ckptmigrate.checkpoint.common import CommonState
from ckptmigrate.checkpoint.manifest import Manifest, unused_names
from ckptmigrate.checkpoint.tensor_rows import replaced
from ckptmigrate.optimizer import (
    comparison,
    flattened,
    fully_reshardable,
    groups,
    new_files,
    sharding_types,
)
from ckptmigrate.optimizer.hashing import MAIN
from ckptmigrate.optimizer.new_files import NewBlob, NewState
from ckptmigrate.optimizer.record import OptimizerRecord, Replica
from ckptmigrate.optimizer.source import CONTENT_TYPE, OPTIMIZER, TYPE, Source
from ckptmigrate.optimizer.target import PART_SIZE, OptimizerTarget
from ckptmigrate.pickles.tree import Object, with_state
from ckptmigrate.storage.progress import Progress

_UNPREFIXED: Final = "chained_optim_avoid_prefix"
_PARALLEL_SAVE: Final = "ckpt_fully_parallel_save"
_SHOWN: Final = 5  # names in a message


@dataclass(frozen=True)
class Conversion:
    """A planned conversion, or removal, of an optimizer.

    Attributes:
        manifest: the result; its new data files do not exist yet, and a common state that is
            stored as a sharded object is not written either.
        files: the new data files by name, each as the zips that it consists of.
        before, after: the sharding types; `after` is None if the optimizer is removed.
        replicas: parameters whose copies differ; only the first copy of each is kept.
        decisions: choices made, as sentences.
        read_size: bytes that `pieces` reads for all files.
    """

    manifest: Manifest
    files: Mapping[str, tuple[NewBlob, ...]]
    before: str
    after: str | None
    replicas: tuple[Replica, ...]
    decisions: tuple[str, ...]
    read_size: int

    @property
    def sizes(self) -> dict[str, int]:
        """Return the size of each new data file in bytes."""
        return {name: sum(blob.length for blob in blobs) for name, blobs in self.files.items()}


def convert(
    manifest: Manifest,
    target: OptimizerTarget,
    progress: Progress | None = None,
    taken: Collection[str] = (),
    part_size: int = PART_SIZE,
) -> Conversion:
    """Plan the conversion of the optimizer of a checkpoint to another sharding type.

    Reads the main parameters and the weights, to compare them.

    Args:
        progress: called with each number of bytes that were read.
        taken: names, besides those of the checkpoint, that no new data file gets.
        part_size: the largest size of a new data file in bytes.

    Raises:
        RefusedError: this kind of optimizer cannot be converted, or not to this target.
        DamagedError: the optimizer is incomplete, or contradicts the weights.
    """
    source = Source(manifest, progress)
    current = sharding_types.recognise(source)
    record = current.read(source)
    if not current.COMPARES:
        _check_weights(source, record, current.TYPE)
    return plan(source, current.TYPE, record, target, taken, part_size)


def plan(
    source: Source,
    before: str,
    record: OptimizerRecord,
    target: OptimizerTarget,
    taken: Collection[str] = (),
    part_size: int = PART_SIZE,
) -> Conversion:
    """Plan the conversion of an optimizer that has been compared with the weights.

    Args:
        before: its sharding type.
        record: what it contains.
        taken, part_size: as for `convert`.

    Raises:
        RefusedError: it cannot be converted to this target.
    """
    manifest = source.manifest
    states = dict(_new_states(source, record, target))
    names = {*manifest.directory.files(), manifest.new_payload_file, *taken}
    rows, files = new_files.plan(states, unused_names(names), part_size)
    common, notes = _common(source, record, target)
    edited = replaced(manifest.metadata, source.keys, rows, flattened=target.type == flattened.TYPE)
    result = replace(manifest, metadata=edited, common=common)
    return Conversion(
        result,
        files,
        before,
        target.type,
        record.replicas,
        (*record.notes, *notes),
        sum(blob.size for each in files.values() for blob in each),
    )


def _check_weights(source: Source, record: OptimizerRecord, type_: str) -> None:
    """Raise if the main parameters are not the weights.

    Raises:
        DamagedError: they differ.
    """
    found = comparison.compare_record(source, record)
    if not found.is_damaged:
        return
    names = list(found.differing)
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    cause = (
        "releases 0.15 to 0.19 write it damaged if the gradient buffer has several buckets"
        if type_ == fully_reshardable.TYPE
        else "the weights were changed after the save, or the optimizer is not theirs"
    )
    raise source.error(
        f"the main parameters of {len(names)} of {len(record.parameters)} parameters are not the "
        f"weights ({shown}): {cause}. A job that loads it overwrites the weights"
    )


def _new_states(
    source: Source, record: OptimizerRecord, target: OptimizerTarget
) -> Iterator[tuple[str, NewState]]:
    """Yield the tensors of the result by key."""
    prefixed = _is_prefixed(source, target)
    for parameter in record.parameters.values():
        weight = source.weight(parameter.name)
        for cell in parameter.cells:
            for state, spans in cell.states.items():
                if any(span.view.dtype != MAIN for span in spans):
                    raise source.refusal(
                        f"{state} of {parameter.name} has the dtype {spans[0].view.dtype}; only "
                        f"states in {MAIN} can be converted"
                    )
        if target.type == flattened.TYPE:
            plain = target.is_before("0.11")
            states = flattened.write(parameter, weight, plain=plain)
        elif target.type == fully_reshardable.TYPE:
            states = fully_reshardable.write(parameter)
        else:
            raise source.refusal(f"it cannot be converted to {target.type}")
        prefix = ""
        if prefixed:
            prefix = f"chained_{int('.experts.' in parameter.name)}."
        for state, tensor in states.items():
            yield f"{prefix}{OPTIMIZER}.state.{state}.{parameter.name}", tensor


def _is_prefixed(source: Source, target: OptimizerTarget) -> bool:
    """Return whether the keys of several optimizers get a prefix.

    Raises:
        RefusedError: they do, and it is not known which optimizer has which parameters.
    """
    if not source.is_chained or target.type != flattened.TYPE:
        return False
    content = source.manifest.common.content or {}
    if not (target.is_before("0.14") or (target.release is None and not content.get(_UNPREFIXED))):
        return False
    if len(source.states) > 2:
        raise source.refusal(f"it is a chain of {len(source.states)} optimizers")
    return True


def _common(
    source: Source, record: OptimizerRecord, target: OptimizerTarget
) -> tuple[CommonState, tuple[str, ...]]:
    """Return the common state of the result, and the choices made."""
    common = source.manifest.common
    states = []
    notes: dict[str, None] = {}
    for chained in record.chained:
        adapted, said = groups.adapted(source, chained, target)
        notes.update(dict.fromkeys(said))
        state: dict[str, Any] = {OPTIMIZER: {"param_groups": adapted}}
        if chained.grad_scaler is not None:
            state["grad_scaler"] = chained.grad_scaler
        states.append({**state, TYPE: target.type})
    value = dict(enumerate(states)) if source.is_chained else states[0]
    common = source.with_settings(common, value)
    content = _content(common, target)
    if content is None:
        common = common.without("content_metadata")
    elif content != common.content:
        common = common.with_value("content_metadata", content)
    args = common.values.get("args")
    if (
        target.type == flattened.TYPE
        and isinstance(args, Object)
        and args.attributes.get(_PARALLEL_SAVE) is not True
    ):
        attributes = {**args.attributes, _PARALLEL_SAVE: True}
        common = common.with_value("args", with_state(args, attributes))
        notes[f"args.{_PARALLEL_SAVE} is True, as releases up to 0.12 require"] = None
    return common, tuple(notes)


def _content(common: CommonState, target: OptimizerTarget) -> dict[str, Any] | None:
    """Return content_metadata as the target release writes it; None for releases up to 0.12."""
    before = dict(common.content or {})
    if target.is_before("0.13"):
        return None
    if target.is_before("0.14"):
        return {CONTENT_TYPE: target.type}
    if target.release is None and not before and target.type == flattened.TYPE:
        return None
    before.pop("distrib_optim_fully_reshardable_mem_efficient", None)
    content = {
        "singleton_local_shards": False,
        _UNPREFIXED: True,
        **before,
        CONTENT_TYPE: target.type,
    }
    if target.type == fully_reshardable.TYPE:
        content["distrib_optim_fully_reshardable_mem_efficient"] = False
        content[_UNPREFIXED] = True
    return content
