"""Reading of the two types that store each state under the name of its parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ckptmigrate.optimizer.record import KEY, STATE_KEY, OptimizerRecord, Parameter, ParameterCell
from ckptmigrate.optimizer.source import Source, Weight
from ckptmigrate.optimizer.tensors import Numbers, Spans

# Key and parameter -> offsets of each cell -> its elements.
ReadCells = Callable[[Source, str, Weight], Mapping[Numbers, Spans]]


def read(source: Source, states: Mapping[str, str], cells: ReadCells) -> OptimizerRecord:
    """Return the optimizer of a checkpoint.

    Args:
        states: name of a state in the keys -> its neutral name.
        cells: reads the cells of one state of one parameter.

    Raises:
        DamagedError: a state is incomplete or unknown.
    """
    found: dict[str, dict[str, Mapping[Numbers, Spans]]] = {}
    for key in source.keys:
        match = KEY.fullmatch(key)
        state_key = match and STATE_KEY.fullmatch(match["rest"])
        if not state_key:
            raise source.error(f"{key} is not a key that its releases write")
        state, name = state_key["state"], state_key["parameter"]
        if state not in states:
            raise source.error(f"{key} is the state {state}, which is unknown")
        of_parameter = found.setdefault(name, {})
        if states[state] in of_parameter:
            raise source.error(f"two optimizers have the state {state} of {name}")
        of_parameter[states[state]] = cells(source, key, source.weight(name))
    all_states = {state for by_state in found.values() for state in by_state}
    for name, by_state in found.items():
        if by_state.keys() != all_states:
            missing = ", ".join(sorted(all_states - by_state.keys()))
            raise source.error(f"{name} has no {missing}, and other parameters have")
    parameters = {}
    for name, by_state in found.items():
        weight = source.weight(name)
        parameters[name] = Parameter(
            name,
            weight.shape,
            tuple(
                ParameterCell(
                    at, weight.sizes, {state: by_state[state][at] for state in sorted(by_state)}
                )
                for at in weight.cells
            ),
        )
    return OptimizerRecord(parameters, source.chained_of_states())
