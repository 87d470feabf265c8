"""The names of parameters in buffers that store none, found by content.

Where weights are equal, so that several parameters match a range, their states or the order of
registration decide.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ckptmigrate.optimizer import registration
from ckptmigrate.optimizer.buffer_cells import Match, Weights, ambiguous, parsed, shown
from ckptmigrate.optimizer.buffers import Buffer, GroupKeys, chained_of, groups_of
from ckptmigrate.optimizer.record import (
    OptimizerRecord,
    Parameter,
    ParameterCell,
    Replica,
)
from ckptmigrate.optimizer.registration import CellName
from ckptmigrate.optimizer.source import Source, argument
from ckptmigrate.optimizer.tensors import Spans, part_of


@dataclass(frozen=True)
class Use:
    """A match with its buffer."""

    buffer: Buffer
    match: Match

    def states(self) -> dict[str, Spans]:
        """Return the elements of each state in the range."""
        return {
            state: part_of(spans, self.match.first, self.match.count)
            for state, spans in self.buffer.states.items()
        }

    @property
    def place(self) -> str:
        """Return the range for a message."""
        return f"elements {self.match.first} to {self.match.end} of {self.buffer.name}"


def read(
    source: Source, buffers_of: Callable[[Source, int, int, GroupKeys], Iterator[Buffer]]
) -> OptimizerRecord:
    """Read an optimizer that is stored in buffers, and find the names of its parameters.

    Args:
        buffers_of: reads the buffers of one model parallel rank: source, number of the chained
            optimizer, rank, keys.

    Raises:
        DamagedError: a range matches no weight, or a cell of a parameter has no range.
        RefusedError: weights are equal, so that a name cannot be found with certainty.
    """
    groups = groups_of(source)
    buffers = [each for rank, keys in groups.items() for each in buffers_of(source, *rank, keys)]
    if len({frozenset(each.states) for each in buffers}) > 1:
        raise source.error("its buffers have different states")
    weights = Weights(source)
    uses = [Use(each, match) for each in buffers for match in parsed(source, weights, each)]
    found = _assigned(source, uses)
    replicas = tuple(_replicas(source, found))
    parameters = {}
    for name in dict.fromkeys(name for name, _ in found):
        weight = source.weight(name)
        missing = [at for at in weight.cells if (name, at) not in found]
        if missing:
            raise source.error(f"no range has the states of {name} at {missing[0]}")
        cells = tuple(
            ParameterCell(at, weight.sizes, found[name, at][0].states()) for at in weight.cells
        )
        parameters[name] = Parameter(name, weight.shape, cells)
    notes = (f"the names of {len(parameters)} parameters were found by comparing every element",)
    without = [name for name in weights.names if name not in parameters]
    if without:
        raise source.error(f"no range has the main parameters of {shown(without)}")
    return OptimizerRecord(parameters, chained_of(source, groups), replicas, notes)


def _assigned(source: Source, uses: Sequence[Use]) -> dict[CellName, list[Use]]:
    """Return the ranges of each cell, copies of it in the order of the ranks.

    Raises:
        RefusedError: cells have equal weights and different states, and the order of registration
            does not decide.
    """
    by_cells: dict[tuple[CellName, ...], list[Use]] = defaultdict(list)
    for use in uses:
        by_cells[use.match.cells].append(use)
    found: dict[CellName, list[Use]] = {}
    tied: set[tuple[CellName, ...]] = set()
    for cells, ranges in by_cells.items():
        if len(cells) == 1:
            found[cells[0]] = ranges
            if len({(use.buffer.chained, use.buffer.group) for use in ranges}) < len(ranges):
                raise ambiguous(source, [cells[0][0]], ranges[-1].place)
        elif len(ranges) >= len(cells) and len({_content(source, use) for use in ranges}) == 1:
            found.update((cell, ranges[:1]) for cell in cells)
        else:
            tied.add(cells)
    if tied:
        for use, cell in _ordered(source, uses, tied):
            found.setdefault(cell, []).append(use)
    return found


def _ordered(
    source: Source, uses: Sequence[Use], tied: set[tuple[CellName, ...]]
) -> Iterator[tuple[Use, CellName]]:
    """Yield the ranges of tied cells with the cell that the order of registration gives each.

    Raises:
        RefusedError: the order does not decide.
    """
    has_plans = bool(source.manifest.metadata.plans)
    order = registration.planned(source) if has_plans else registration.of_keys(source)
    ranks = argument(source, "tensor_model_parallel_size")
    stages: dict[CellName, set[int]] = defaultdict(set)
    for use in uses:
        if len(use.match.cells) == 1:
            stages[use.match.cells[0]].add(use.buffer.group // ranks)
    by_buffer: dict[str, list[Use]] = defaultdict(list)
    for use in uses:
        # The copy of a shared embedding is registered last, where its key is not.
        single = len(use.match.cells) == 1 and len(stages[use.match.cells[0]]) == 1
        if single or use.match.cells in tied:
            # Buckets of a buffer are in order.
            by_buffer[use.buffer.name.partition(".bucket_idx_")[0]].append(use)
    for ranges in by_buffer.values():
        if not any(use.match.cells in tied for use in ranges):
            continue
        cells = registration.assigned(order, [use.match.cells for use in ranges])
        for use, cell in zip(ranges, cells or [None] * len(ranges), strict=True):
            if cell is None and use.match.cells in tied:
                names = sorted({name for name, _ in use.match.cells})
                raise ambiguous(source, names, use.place)
            if cell is not None and use.match.cells in tied:
                yield use, cell


def _content(source: Source, use: Use) -> tuple[bytes, ...]:
    return tuple(source.digest(spans) for spans in use.states().values())


def _replicas(source: Source, found: dict[CellName, list[Use]]) -> Iterator[Replica]:
    """Yield the cells whose copies differ."""
    for (name, _), ranges in found.items():
        if len(ranges) == 1:
            continue
        contents = [dict(zip(u.states(), _content(source, u), strict=True)) for u in ranges]
        states = tuple(s for s in contents[0] if len({each[s] for each in contents}) > 1)
        if states:
            yield Replica(name, states, tuple(use.place for use in ranges))
