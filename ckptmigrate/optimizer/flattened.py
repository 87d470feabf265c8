"""Type `fully_sharded_model_space`: a key per parameter and state, each cell flattened.

A chunk is a range of one cell. Releases up to 0.10 store states of one-dimensional parameters
without the axis for cells. Source: core_v0.9.0, core_v0.14.0
megatron/core/optimizer/distrib_optimizer.py sharded_param_state_fs_model_space,
megatron/core/dist_checkpointing/strategies/resharding.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from ckptmigrate.checkpoint.metadata import ORIGINAL_SHAPE, SHAPES
from ckptmigrate.optimizer import model_space
from ckptmigrate.optimizer.new_files import NewRange, NewState
from ckptmigrate.optimizer.record import PARAM, OptimizerRecord, Parameter
from ckptmigrate.optimizer.source import FLATTENED, Source, Weight
from ckptmigrate.optimizer.tensors import Numbers, Span, Spans

TYPE = FLATTENED
COMPARES = False
_FP32_PARAM = "fp32_param"
_STATES = {_FP32_PARAM: PARAM, "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}


def read(source: Source) -> OptimizerRecord:
    """Read the optimizer; raises as `model_space.read`."""
    return model_space.read(source, _STATES, _cells)


def _cells(source: Source, key: str, weight: Weight) -> Mapping[Numbers, Spans]:
    shape = source.shape(key)
    plain = shape.size == weight.shape and len(weight.shape) == 1
    if not plain and shape.size != (*weight.grid, weight.cell_count):
        raise source.error(
            f"{key} has the shape {shape.size}, and the chunks of {weight.name} make it "
            f"{(*weight.grid, weight.cell_count)}"
        )
    rows = source.manifest.metadata.attributes.get(SHAPES)
    row = rows.get(key) if isinstance(rows, dict) else None
    if (
        not plain
        and isinstance(row, dict)
        and row.get(ORIGINAL_SHAPE, weight.shape) != (weight.shape)
    ):
        raise source.error(f"{SHAPES} has another shape of {weight.name} than the checkpoint")
    pieces: dict[Numbers, list[tuple[int, Span]]] = {at: [] for at in weight.cells}
    for offsets, sizes in sorted(shape.chunks):
        if plain:
            index, first = divmod(offsets[0], weight.cell_count)
            cell: Numbers = (index * weight.cell_count,)
        else:
            *place, first = offsets
            cell = tuple(i * size for i, size in zip(place, weight.sizes, strict=True))
        if cell not in pieces or any(n != 1 for n in sizes[:-1]):
            raise source.error(f"a chunk of {key} is not a range of one cell of {weight.name}")
        blob = source.blobs[key][offsets]
        pieces[cell].append((first, source.span(key, blob, sizes)))
    found = {}
    for cell, ranges in pieces.items():
        end = 0
        for first, span in ranges:
            if first != end:
                raise source.error(f"{key} has a hole or an overlap at element {end} of {cell}")
            end += span.count
        if end != weight.cell_count:
            raise source.error(f"{key} has {end} of {weight.cell_count} elements of {cell}")
        found[cell] = tuple(span for _, span in ranges)
    return found


def write(parameter: Parameter, weight: Weight, *, plain: bool) -> dict[str, NewState]:
    """Return the tensors of a parameter, by the name of the state in the key.

    Args:
        plain: whether the readers are 0.9 and 0.10.
    """
    names = {neutral: name for name, neutral in _STATES.items()}
    one_dimensional = plain and len(parameter.shape) == 1
    found = {}
    for state in parameter.cells[0].states:
        ranges = []
        for cell in parameter.cells:
            index = tuple(at // n for at, n in zip(cell.offsets, cell.sizes, strict=True))
            ones = (1,) * len(index)
            if one_dimensional:
                offsets, sizes = cell.offsets, cell.sizes
            else:
                offsets, sizes = (*index, 0), (*ones, cell.count)
            ranges.append(NewRange(offsets, sizes, cell.states[state]))
        size = parameter.shape if one_dimensional else (*weight.grid, weight.cell_count)
        original = None if one_dimensional else parameter.shape
        found[names[state]] = NewState(size, original, tuple(ranges))
    return found
