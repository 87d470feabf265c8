"""Type `fully_reshardable`: a key per parameter and state, with the shape and chunks of the weight.

Source: core_v0.15.3, core_v0.19.0 megatron/core/optimizer/distrib_optimizer.py
sharded_param_state_fully_reshardable.
"""

from __future__ import annotations

from collections.abc import Mapping

from ckptmigrate.optimizer import model_space
from ckptmigrate.optimizer.new_files import NewRange, NewState
from ckptmigrate.optimizer.record import STATES, OptimizerRecord, Parameter
from ckptmigrate.optimizer.source import FULLY_RESHARDABLE, Source, Weight
from ckptmigrate.optimizer.tensors import Numbers, Spans

TYPE = FULLY_RESHARDABLE
COMPARES = False
_STATES = {state: state for state in STATES}


def read(source: Source) -> OptimizerRecord:
    """Read the optimizer; raises as `model_space.read`."""
    return model_space.read(source, _STATES, _cells)


def _cells(source: Source, key: str, weight: Weight) -> Mapping[Numbers, Spans]:
    shape = source.shape(key)
    if shape.size != weight.shape:
        raise source.error(f"{key} has the shape {shape.size}, and {weight.name} {weight.shape}")
    if sorted(shape.chunks) != [(at, weight.sizes) for at in weight.cells]:
        raise source.error(f"{key} has other chunks than {weight.name}")
    return {at: (source.span(key, source.blobs[key][at], weight.sizes),) for at in weight.cells}


def write(parameter: Parameter) -> dict[str, NewState]:
    """Return the tensors of a parameter, by the name of the state in the key."""
    return {
        state: NewState(
            parameter.shape,
            None,
            tuple(
                NewRange(cell.offsets, cell.sizes, cell.states[state]) for cell in parameter.cells
            ),
        )
        for state in parameter.cells[0].states
    }
