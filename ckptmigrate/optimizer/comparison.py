"""Comparison of the main parameters with the weights: proof that an optimizer is intact.

Releases 0.15 to 0.19 write damaged `fully_reshardable` states if a buffer has several buckets and
one that is not the last is padded: every parameter after it is shifted, and a load overwrites the
weights with the shifted values (Megatron-LM pull request 5077; core_v0.15.3 to core_v0.19.0
megatron/core/optimizer/distrib_optimizer.py; sample 0.19.0-optim-dp2-fr-damaged).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.optimizer import sharding_types
from ckptmigrate.optimizer.hashing import DTYPES, MAIN
from ckptmigrate.optimizer.record import KEY, PARAM, OptimizerRecord, Parameter, ParameterCell
from ckptmigrate.optimizer.source import Source
from ckptmigrate.storage.progress import Progress

_MAIN_KEY: Final = re.compile(r"^state\.(fp32_)?param\.|\.param$", re.ASCII)


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison of main parameters with weights.

    Attributes:
        compared: the number of cells that were compared.
        cells: the number of all cells.
        differing: parameter -> the number of its compared cells that differ.
    """

    compared: int
    cells: int
    differing: dict[str, int]

    @property
    def is_damaged(self) -> bool:
        """Return whether a main parameter is not the weight."""
        return bool(self.differing)

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (docs/json.md, `verify --json`)."""
        return {"compared": self.compared, "parts": self.cells, "differing": self.differing}


def compare(
    manifest: Manifest, sample: int | None = None, progress: Progress | None = None
) -> Comparison:
    """Compare the main parameters of a checkpoint with its weights.

    Args:
        sample: see `compare_record`.
        progress: called with each number of bytes that were read.

    Raises:
        DamagedError: the optimizer is incomplete, or has no names and matches no weights.
        RefusedError: this kind of optimizer cannot be read.
    """
    source = Source(manifest, progress)
    found = sharding_types.recognise(source)
    record = found.read(source)
    if found.COMPARES:  # otherwise the read would have raised
        cells = sum(len(each.cells) for each in record.parameters.values())
        return Comparison(cells, cells, {})
    return compare_record(source, record, sample)


def read_size(manifest: Manifest) -> int:
    """Return the number of bytes that a comparison reads at least: main parameters and weights."""
    size = 0
    for chunk in manifest.metadata.chunks:
        match = KEY.fullmatch(chunk.key)
        if chunk.offsets is not None and (match is None or _MAIN_KEY.search(match["rest"])):
            size += chunk.blob.length
    return size


def compare_record(
    source: Source, record: OptimizerRecord, sample: int | None = None
) -> Comparison:
    """Compare the main parameters with the weights.

    Args:
        sample: compare only this number of cells, spread evenly; None for all.

    Raises:
        DamagedError: a weight cannot be read.
        RefusedError: the weights have a dtype that main parameters are not cast to.
    """
    cells = [(each, cell) for each in record.parameters.values() for cell in each.cells]
    chosen = cells if sample is None else list(_spread(cells, sample))
    differing: dict[str, int] = {}
    for parameter, cell in chosen:
        if not is_weight(source, parameter.name, cell):
            differing[parameter.name] = differing.get(parameter.name, 0) + 1
    return Comparison(len(chosen), len(cells), differing)


def _spread(
    cells: list[tuple[Parameter, ParameterCell]], sample: int
) -> Iterator[tuple[Parameter, ParameterCell]]:
    count = min(sample, len(cells))
    return (cells[n * len(cells) // count] for n in range(count))


def is_weight(source: Source, name: str, cell: ParameterCell) -> bool:
    """Return whether the main parameter of a cell, cast to the dtype of the weight, is the weight.

    Raises:
        DamagedError: the weight cannot be read.
        RefusedError: main parameters are not cast to this dtype.
    """
    weight = source.weight(name)
    spans = cell.states.get(PARAM)
    if spans is None:
        raise source.error(f"{name} has no main parameter")
    if any(span.view.dtype != MAIN for span in spans):
        raise source.refusal(
            f"the main parameter of {name} has the dtype {spans[0].view.dtype}, not {MAIN} "
            "(as with --use-precision-aware-optimizer)"
        )
    if weight.dtype not in DTYPES:
        raise source.refusal(f"{name} has the dtype {weight.dtype} (as with FP8 parameters)")
    stored = source.span(name, weight.cells[cell.offsets], weight.sizes)
    return source.digest(spans, weight.dtype) == source.digest((stored,))
