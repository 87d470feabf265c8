"""The cells in a buffer, found by content, with the cells that have the same weights.

Before a save, the weights are the main parameters cast to their dtype, bit by bit. So a range of a
buffer belongs to the weight that it is cast to. Every element of every range is compared.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ckptmigrate.errors import RefusedError
from ckptmigrate.optimizer.buffers import Buffer
from ckptmigrate.optimizer.hashing import DTYPES, MAIN, cast
from ckptmigrate.optimizer.record import PARAM
from ckptmigrate.optimizer.registration import CellName
from ckptmigrate.optimizer.source import Source
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


def parsed(source: Source, weights: Weights, buffer: Buffer) -> list[Match]:
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
        where = f"from element {furthest} of {buffer.name}"
        other = _stored_otherwise(source, weights)
        if other is not None:
            raise source.refusal(f"no weight has the main parameters {where}: {other}")
        raise source.error(
            f"no weight has the main parameters {where}: the weights were changed after the save, "
            "or the optimizer is not theirs"
        )
    for pair in itertools.zip_longest(found[0], found[-1]):
        different = [match for match in pair if match is not None and len({*pair}) > 1]
        if different:
            names = sorted({name for match in different for name, _ in match.cells})
            place = min(match.first for match in different)
            raise ambiguous(source, names, f"element {place} of {buffer.name}")
    return found[0]


def _stored_otherwise(source: Source, weights: Weights) -> str | None:
    """Return why a release stores weights in another order than main parameters, or None.

    Source: core_v0.16.1 megatron/core/transformer/moe/experts.py GroupedMLP.sharded_state_dict,
    megatron/core/ssm/mamba_mixer.py MambaMixer.sharded_state_dict.
    """
    if any(".mixer." in name for name in weights.names):
        return "Mamba layers store their projections in parts"
    if source.manifest.common.argument("moe_grouped_gemm"):
        return "grouped experts (--moe-grouped-gemm) may be stored transposed"
    return None


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


def ambiguous(source: Source, names: Sequence[str], place: str) -> RefusedError:
    """Return the refusal of a range that several weights match."""
    return source.refusal(f"{place} may belong to each of several equal weights: {shown(names)}")


def shown(names: Sequence[str]) -> str:
    """Return the first of several names, for a message."""
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
