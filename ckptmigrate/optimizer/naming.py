"""The names of parameters in buffers that store none, found by content.

Before a save, the weights are the main parameters cast to their dtype, bit by bit. So a range of a
buffer belongs to the weight that it is cast to. Every element of every range is compared.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ckptmigrate.errors import RefusedError
from ckptmigrate.optimizer import registration
from ckptmigrate.optimizer.buffers import Buffer, GroupKeys, chained_of, groups_of
from ckptmigrate.optimizer.hashing import DTYPES, MAIN, cast
from ckptmigrate.optimizer.record import (
    PARAM,
    OptimizerRecord,
    Parameter,
    ParameterCell,
    Replica,
)
from ckptmigrate.optimizer.registration import CellName
from ckptmigrate.optimizer.source import Source, argument
from ckptmigrate.optimizer.tensors import Spans, blocks, part_of

_ALIGNMENT: Final = 64  # elements; each parameter starts at a multiple of it in its bucket
_PREFIX: Final = 64  # elements that are compared first
_SHOWN: Final = 5  # names in a message
# Tensors that are not parameters (core_v0.19.0 megatron/core/transformer/moe/router.py).
_NOT_PARAMETERS: Final = (
    ".expert_bias", ".local_tokens_per_expert", ".global_tokens_per_expert", ".ga_steps",
)  # fmt: skip


@dataclass(frozen=True)
class Match:
    """A range of a buffer whose elements are those of a cell.

    Attributes:
        first, count: the range, in elements.
        cells: the cells with these elements; several if their weights are equal.
    """

    first: int
    count: int
    cells: tuple[CellName, ...]

    @property
    def end(self) -> int:
        """Return the element after the range."""
        return self.first + self.count


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
    uses = [Use(each, match) for each in buffers for match in _parsed(source, weights, each)]
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
        raise source.error(f"no range has the main parameters of {_shown(without)}")
    return OptimizerRecord(parameters, chained_of(source, groups), replicas, notes)


class Weights:
    """The weights of a checkpoint by content: first by their first elements, then by hash."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.names: list[str] = []
        self.most_cells = 1  # of a parameter
        # Dtype and first elements -> counts of cells. Dtype, count and hash -> cells.
        self._counts: dict[tuple[str, bytes], set[int]] = defaultdict(set)
        self._cells: dict[tuple[str, int, bytes], list[CellName]] = defaultdict(list)
        self._matches: dict[tuple[str, str, int], tuple[Match, ...]] = {}
        for name in source.weight_keys():
            self._add(name)

    def _add(self, name: str) -> None:
        if name.endswith(_NOT_PARAMETERS) or self._source.dtype(name) not in DTYPES:
            return
        weight = self._source.weight(name)
        self.names.append(name)
        self.most_cells = max(self.most_cells, len(weight.cells))
        for offsets, blob in weight.cells.items():
            spans = (self._source.span(name, blob, weight.sizes),)
            some = min(_PREFIX, weight.cell_count)
            prefix = self._read(part_of(spans, 0, some))
            self._counts[weight.dtype, prefix].add(weight.cell_count)
            content = self._source.digest(spans)
            self._cells[weight.dtype, weight.cell_count, content].append((name, offsets))

    def _read(self, spans: Spans) -> bytes:
        return b"".join(blocks(self._source.manifest.directory, spans))

    @cached_property
    def _lengths(self) -> dict[str, list[int]]:
        """Return the numbers of first elements that are compared, by dtype."""
        found: dict[str, set[int]] = defaultdict(set)
        for (dtype, _), counts in self._counts.items():
            found[dtype] |= {min(_PREFIX, count) for count in counts}
        return {dtype: sorted(lengths) for dtype, lengths in found.items()}

    def matches(self, buffer: Buffer, first: int) -> Sequence[Match]:
        """Return the ranges from an element on whose main parameters are those of a cell."""
        key = (buffer.name, buffer.dtype, first)
        if key not in self._matches:
            self._matches[key] = tuple(self._find(buffer, first))
        return self._matches[key]

    def _find(self, buffer: Buffer, first: int) -> Iterator[Match]:
        params, dtype = buffer.states[PARAM], buffer.dtype
        start = self._read(part_of(params, first, min(_PREFIX, buffer.count - first)))
        elements = cast(start, dtype)
        width = len(elements) * 4 // len(start)
        for length in self._lengths.get(dtype, ()):
            for count in sorted(self._counts.get((dtype, elements[: length * width]), ())):
                if first + count > buffer.count or min(_PREFIX, count) != length:
                    continue
                spans = part_of(params, first, count)
                content = self._source.digest(spans, dtype)
                cells = self._cells.get((dtype, count, content))
                if cells:
                    yield Match(first, count, tuple(cells))


# The cells of a parameter, and the first element of the next parameter.
_Step = tuple[tuple[Match, ...], int]


def _parsed(source: Source, weights: Weights, buffer: Buffer) -> list[Match]:
    """Return the cells of a buffer in order.

    Raises:
        DamagedError: a range matches no weight.
        RefusedError: the buffer can be read in several ways.
    """
    if buffer.dtype not in DTYPES:
        raise source.refusal(
            f"{buffer.name} has parameters of the dtype {buffer.dtype} (as with FP8 parameters)"
        )
    stored = {span.view.dtype for span in buffer.states[PARAM]} - {MAIN}
    if stored:
        raise source.refusal(
            f"{buffer.name} has main parameters of the dtype {', '.join(stored)}, not {MAIN} "
            "(as with --use-precision-aware-optimizer)"
        )
    steps: dict[int, list[_Step]] = {}  # by the first element of a parameter
    todo = [0]
    while todo:
        first = todo.pop()
        if first not in steps and first < buffer.count:
            steps[first] = list(_steps(weights, buffer, first)) or list(
                _step_over_padding(weights, buffer, first)
            )
            todo += [following for _, following in steps[first]]
    found = readings(steps)
    if not found:
        furthest = max(first for first in steps if not steps[first])
        raise source.error(
            f"no weight has the main parameters from element {furthest} of {buffer.name}: the "
            "weights were changed after the save, or the optimizer is not theirs"
        )
    for pair in itertools.zip_longest(found[0], found[-1]):
        different = [match for match in pair if match is not None and len({*pair}) > 1]
        if different:
            names = sorted({name for match in different for name, _ in match.cells})
            place = min(match.first for match in different)
            raise _ambiguous(source, names, f"element {place} of {buffer.name}")
    return found[0]


def readings(steps: Mapping[int, Sequence[_Step]]) -> list[list[Match]]:
    """Return the ways to read a buffer as cells, of several only two.

    The halves of a gated MLP are one way, whether they are taken for one parameter or for two.

    Args:
        steps: by the first element of a parameter.
    """
    # A reading of the rest of a buffer is a number: that of its first match and of what follows.
    numbers: dict[tuple[Match, int], int] = {}
    found: dict[int, list[int]] = {}
    for first in sorted(steps, reverse=True):
        possible = set()
        for cells, after in steps[first]:
            for number in found.get(after, [0]):
                for match in reversed(cells):
                    number = numbers.setdefault((match, number), len(numbers) + 1)
                possible.add(number)
        found[first] = sorted(possible)[:2]
    parts = {number: part for part, number in numbers.items()}

    def matches(number: int) -> Iterator[Match]:
        while number:
            match, number = parts[number]
            yield match

    return [list(matches(number)) for number in found[0]]


def _steps(weights: Weights, buffer: Buffer, first: int) -> Iterator[_Step]:
    """Yield every way to read a parameter at an element: one cell, or several of one name."""
    todo: list[tuple[Match, ...]] = [(each,) for each in weights.matches(buffer, first)]
    while todo:
        cells = todo.pop()
        end = cells[-1].end
        if not _is_uncut(buffer, first, end):
            continue
        yield from ((cells, after) for after in _following(buffer, first, end))
        if end < buffer.count and len(cells) < weights.most_cells:
            names = {name for name, _ in cells[0].cells}
            for each in weights.matches(buffer, end):
                if names & {name for name, _ in each.cells}:
                    todo.append((*cells, each))


def _step_over_padding(weights: Weights, buffer: Buffer, first: int) -> Iterator[_Step]:
    """Yield the step to the first parameter after padding."""
    end = min(buffer.count, first + buffer.padding + 1)
    for start in range(first + _ALIGNMENT, end, _ALIGNMENT):
        if weights.matches(buffer, start):
            yield (), start
            return


def _is_uncut(buffer: Buffer, first: int, end: int) -> bool:
    """Return whether nothing but data parallel ranks cuts a range."""
    if buffer.borders is None:
        return True
    return not any(first < cut < end for cut in buffer.borders - buffer.rank_borders)


def _following(buffer: Buffer, first: int, end: int) -> Iterator[int]:
    """Yield every possible first element of the next parameter.

    Args:
        first, end: the range of this parameter.
    """
    aligned = end + -(end - first) % _ALIGNMENT
    if buffer.borders is None:
        yield aligned
        if end < buffer.count and aligned != end:
            yield end  # in a new bucket
    elif (
        end in buffer.borders
        and _is_uncut(buffer, end, aligned)
        and (aligned in buffer.borders or aligned >= buffer.count)
    ):
        yield aligned


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
                raise _ambiguous(source, [cells[0][0]], ranges[-1].place)
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
    order = registration.planned(source)
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
                raise _ambiguous(source, names, use.place)
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


def _ambiguous(source: Source, names: Sequence[str], place: str) -> RefusedError:
    return source.refusal(f"{place} may belong to each of several equal weights: {_shown(names)}")


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
