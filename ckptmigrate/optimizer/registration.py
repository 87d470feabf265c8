"""The order in which a model registers its parameters, as far as a checkpoint shows it.

A buffer has its parameters in the reverse order. The save plan of a rank has the keys in this
order, apart from layers: Megatron stores the layers of a block under one key, where the first layer
that the rank writes is. Without plans, the keys have the order of the first rank, then those of the
next, which is the order of a model only if data parallel ranks did not share the save.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ckptmigrate.checkpoint.rows import item_key, size_value
from ckptmigrate.errors import DamagedError
from ckptmigrate.optimizer.source import Source
from ckptmigrate.optimizer.tensors import Numbers
from ckptmigrate.pickles.tree import Object

CellName = tuple[str, Numbers]  # parameter, offsets of the cell
_LAYERS: Final = re.compile(r"(?P<block>(?:.*\.)?layers\.)(?:(?P<layer>\d{1,9})\.)?(?P<name>.+)")


@dataclass(frozen=True)
class _Position:
    """The place of a parameter in the model: block of layers (or empty), layer, and name there."""

    block: str
    layer: int
    name: str

    @property
    def top(self) -> str:
        """Return the block, or the parameter if it is in none."""
        return self.block or self.name


def _position(cell: CellName) -> _Position:
    name, offsets = cell
    found = _LAYERS.fullmatch(name)
    if found is None:
        return _Position("", 0, name)
    layer = int(found["layer"]) if found["layer"] else (offsets or (0,))[0]
    return _Position(found["block"], layer, found["name"])


class Registration:
    """What is known about the order: `a` before `b` for pairs of names in a block, or of blocks."""

    def __init__(self) -> None:
        self._after: dict[tuple[str, str], set[str]] = defaultdict(set)

    def add(self, cells: Iterable[CellName]) -> None:
        """Record that cells are registered in this order."""
        before: _Position | None = None
        for position in map(_position, cells):
            if before is not None:
                self._add_pair(before, position)
            before = position

    def _add_pair(self, before: _Position, after: _Position) -> None:
        if before.top != after.top:
            self._after["", before.top].add(after.top)
        elif before.block and before.layer == after.layer and before.name != after.name:
            self._after[before.block, before.name].add(after.name)

    def is_before(self, one: CellName, other: CellName) -> bool | None:
        """Return whether a cell is registered before another; None if that is not known."""
        a, b = _position(one), _position(other)
        if a.top != b.top:
            return self._compared("", a.top, b.top)
        if a.layer != b.layer:
            return a.layer < b.layer
        return self._compared(a.block, a.name, b.name)

    def _compared(self, block: str, one: str, other: str) -> bool | None:
        forward, backward = self._leads(block, one, other), self._leads(block, other, one)
        return None if forward == backward else forward

    def _leads(self, block: str, one: str, other: str) -> bool:
        seen: set[str] = set()
        todo = [one]
        while todo:
            for name in self._after.get((block, todo.pop()), set()) - seen:
                if name == other:
                    return True
                seen.add(name)
                todo.append(name)
        return False


def planned(source: Source) -> Registration:
    """Return the order that the save plans show."""
    found = Registration()
    for plan in source.manifest.metadata.plans or ():
        cells: dict[str, CellName] = {}  # the first layer of each key
        for item in plan.attributes["items"]:
            cell = _cell_of(item)
            if cell is not None:
                known = cells.setdefault(cell[0], cell)
                cells[cell[0]] = min(known, cell)
        found.add(cells.values())
    return found


def of_keys(source: Source) -> Registration:
    """Return the order of the keys, for files without plans (up to 0.10).

    It is that of the model only if parameters that are found by content confirm it.
    """
    found = Registration()
    chunks = ((name, source.shape(name).chunks) for name in source.weight_keys())
    found.add((name, min(each)[0]) for name, each in chunks if each)
    return found


def _cell_of(item: Object) -> CellName | None:
    try:
        offsets = size_value(item.attributes["index"].attributes.get("offset"))
        return None if offsets is None else (item_key(item), offsets)
    except DamagedError:
        return None


def assigned(
    order: Registration, cells: Sequence[Sequence[CellName]]
) -> list[CellName | None] | None:
    """Return the cell of each range of a buffer.

    Args:
        cells: the possible cells of each range, in the order of the buffer.

    Returns:
        None for a range that the order does not decide; None instead of the list if a range with
        one possible cell contradicts the order.
    """
    found: list[CellName | None] = [each[0] if len(each) == 1 else None for each in cells]
    certain = [number for number, cell in enumerate(found) if cell is not None]
    pairs = [(found[b], found[a]) for a, b in itertools.pairwise(certain)]
    known = [order.is_before(first, then) for first, then in pairs if first and then]
    if False in known or True not in known:
        return None
    for first, end in zip([-1, *certain], [*certain, len(cells)], strict=True):
        run = range(first + 1, end)
        later = found[first] if first >= 0 else None
        earlier = found[end] if end < len(cells) else None
        for possible in {tuple(cells[number]) for number in run}:
            slots = [number for number in run if tuple(cells[number]) == possible]
            between = [
                cell
                for cell in possible
                if (later is None or order.is_before(cell, later))
                and (earlier is None or order.is_before(earlier, cell))
            ]
            ranked = _ranked(order, between)
            if ranked is not None and len(ranked) == len(slots):
                for number, cell in zip(slots, reversed(ranked), strict=True):
                    found[number] = cell
    return found


def _ranked(order: Registration, cells: Sequence[CellName]) -> list[CellName] | None:
    """Return cells in the order of registration; None if a pair has no known order."""
    ranks = []
    for cell in cells:
        answers = [order.is_before(other, cell) for other in cells if other != cell]
        if None in answers:
            return None
        ranks.append(sum(map(bool, answers)))
    if sorted(ranks) != list(range(len(cells))):
        return None
    return [cell for _, cell in sorted(zip(ranks, cells, strict=True))]


def layers_start_with_decay(source: Source) -> bool | None:
    """Return whether weight decay applies to the first parameter after the word embedding.

    Returns:
        None if the save plans do not show which parameter it is.
    """
    names = list(source.weight_keys())
    if any(name.endswith("position_embeddings.weight") for name in names):
        return True
    order = planned(source)
    cells = [(name, at) for name in names for at in list(source.weight(name).cells)[:1]]
    layered = [cell for cell in cells if _position(cell).block]
    lowest = min((_position(cell).layer for cell in layered), default=0)
    first = [cell for cell in layered if _position(cell).layer == lowest]
    minimal = [c for c in first if not any(order.is_before(other, c) for other in first)]
    decays = {
        not name.endswith(".bias") and len(source.weight(name).shape) > 2 for name, _ in minimal
    }
    return decays.pop() if len(decays) == 1 else None
