"""Differences between two distributed optimizers, by parameter and state.

Optimizers of different sharding types are comparable in this way, and so are those of jobs with
other parallel sizes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ckptmigrate.checkpoint import differences
from ckptmigrate.checkpoint.differences import Difference
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.optimizer import sharding_types
from ckptmigrate.optimizer.dropping import without_optimizer
from ckptmigrate.optimizer.record import Chained, OptimizerRecord, Parameter, ParameterCell
from ckptmigrate.optimizer.source import Source
from ckptmigrate.optimizer.tensors import BLOCK, Numbers, Spans, blocks, part_of
from ckptmigrate.pickles.display import short_repr
from ckptmigrate.pickles.equality import equal
from ckptmigrate.pickles.tree import PersistentId, rebuilt
from ckptmigrate.storage.directories import Directory

_PART: Final = "optimizer"
# What identifies a param_group in the matching of releases from 0.14 on.
_GROUP: Final = ("wd_mult", "lr_mult", "is_expert_parallel", "is_decoupled_lr")


@dataclass(frozen=True)
class _Side:
    """One of the two checkpoints."""

    directory: Directory
    type: str
    record: OptimizerRecord


def types(a: Manifest, b: Manifest) -> tuple[str, ...]:
    """Return the sharding types of both optimizers; empty unless `diff` compares them."""
    found = [next(iter(each)) for each in (Source(a).types, Source(b).types) if len(each) == 1]
    known = {each.TYPE for each in sharding_types.TYPES}
    return tuple(map(str, found)) if len(found) == 2 and known.issuperset(found) else ()


def whole_diff(a: Manifest, b: Manifest, *, values: bool) -> list[Difference]:
    """Return the differences between two checkpoints, of their optimizers by parameter and state.

    Optimizers of one sharding type are compared by key instead, without `values`.

    Args:
        values: whether to compare every element of the optimizers.

    Raises:
        CkptMigrateError: as `differences.diff` and `diff`.
    """
    found = types(a, b)
    if not found or not (values or found[0] != found[1]):
        return differences.diff(a, b)
    others = differences.diff(*map(without_optimizer, (a, b)))
    return [*others, *diff(a, b, values=values)]


def diff(a: Manifest, b: Manifest, *, values: bool = False) -> Iterator[Difference]:
    """Yield the differences from one optimizer to another.

    Args:
        values: whether to compare every element.

    Raises:
        RefusedError: this kind of optimizer cannot be read.
        DamagedError: an optimizer is incomplete.
    """
    one, two = _side(a), _side(b)
    if one.type != two.type:
        yield Difference("~", _PART, "sharding type", f"{one.type} -> {two.type}")
    yield from _settings(one.record, two.record)
    before, after = one.record.parameters, two.record.parameters
    for name in {**before, **after}:
        if name not in after:
            yield Difference("-", _PART, name)
        elif name not in before:
            yield Difference("+", _PART, name)
        else:
            yield from _of_parameter(one, before[name], two, after[name], values=values)


def _side(found: Manifest) -> _Side:
    source = Source(found)
    type_ = sharding_types.recognise(source)
    record = type_.read(source)

    def content(node: Any) -> Any:
        return source.storage(node) if isinstance(node, PersistentId) else node

    settings = tuple(
        Chained(rebuilt(each.groups, content), rebuilt(each.grad_scaler, content))
        for each in record.chained
    )
    return _Side(found.directory, type_.TYPE, replace(record, chained=settings))


def _settings(a: OptimizerRecord, b: OptimizerRecord) -> Iterator[Difference]:
    """Yield the differences of param_groups and loss scalers."""
    if len(a.chained) != len(b.chained):
        yield Difference("~", _PART, "optimizers", f"{len(a.chained)} -> {len(b.chained)}")
        return
    for number, (one, two) in enumerate(zip(a.chained, b.chained, strict=True)):
        place = f"optimizer {number} " if len(a.chained) > 1 else ""
        if not equal(one.grad_scaler, two.grad_scaler):
            yield Difference("~", _PART, f"{place}grad_scaler")
        before, after = _by_kind(one.groups), _by_kind(two.groups)
        for kind in {**before, **after}:
            name = f"{place}param_group {', '.join(kind)}"
            if kind not in after:
                yield Difference("-", _PART, name)
            elif kind not in before:
                yield Difference("+", _PART, name)
            else:
                yield from _of_group(name, before[kind], after[kind])


def _by_kind(groups: tuple[dict[str, Any], ...]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the groups by what identifies them; a number tells equal ones apart."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for group in groups:
        kind = tuple(
            f"{key} {short_repr(group.get(key, group.get(f'pre_{key}')))}" for key in _GROUP
        )
        again = sum(each[: len(kind)] == kind for each in found)
        found[(*kind, f"number {again + 1}") if again else kind] = group
    return found


def _of_group(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    for key in {**a, **b}:
        if key == "params":
            continue
        if key not in b:
            yield Difference("-", _PART, f"{name}: {key}", short_repr(a[key]))
        elif key not in a:
            yield Difference("+", _PART, f"{name}: {key}", short_repr(b[key]))
        elif not equal(a[key], b[key]):
            yield Difference(
                "~", _PART, f"{name}: {key}", f"{short_repr(a[key])} -> {short_repr(b[key])}"
            )


def _of_parameter(
    a: _Side, before: Parameter, b: _Side, after: Parameter, *, values: bool
) -> Iterator[Difference]:
    if before.shape != after.shape:
        detail = f"{list(before.shape)} -> {list(after.shape)}"
        yield Difference("~", _PART, f"{before.name} shape", detail)
        return
    first, second = (each.cells[0].states for each in (before, after))
    for state in {**first, **second}:
        name = f"{before.name} {state}"
        if state not in second:
            yield Difference("-", _PART, name)
        elif state not in first:
            yield Difference("+", _PART, name)
        elif _dtypes(before, state) != _dtypes(after, state):
            detail = f"{_dtypes(before, state)} -> {_dtypes(after, state)}"
            yield Difference("~", _PART, f"{name} dtype", detail)
        elif values:
            count = sum(
                _differing(a.directory, one, b.directory, two)
                for one, two in _ranges(before, after, state)
            )
            if count:
                detail = f"{count} of {math.prod(before.shape)} elements differ"
                yield Difference("~", _PART, name, detail)


def _dtypes(found: Parameter, state: str) -> str:
    dtypes = {span.view.dtype for cell in found.cells for span in cell.states[state]}
    return " and ".join(sorted(dtypes))


def _ranges(a: Parameter, b: Parameter, state: str) -> Iterator[tuple[Spans, Spans]]:
    """Yield the same elements of both, in ranges that are contiguous in both."""
    others = {cell.offsets: cell for cell in b.cells}
    size = b.cells[0].sizes
    for cell in a.cells:
        same = others.get(cell.offsets)
        if same is not None and same.sizes == cell.sizes:
            yield cell.states[state], same.states[state]
            continue
        touched = (
            range(at // n * n, at + width, n)
            for at, width, n in zip(cell.offsets, cell.sizes, size, strict=True)
        )
        for offsets in itertools.product(*touched):
            yield from _common_rows(cell, others[offsets], state)


def _common_rows(a: ParameterCell, b: ParameterCell, state: str) -> Iterator[tuple[Spans, Spans]]:
    """Yield the rows of the intersection of two cells."""
    starts = tuple(map(max, a.offsets, b.offsets))
    ends = tuple(
        min(i + n, j + m) for i, n, j, m in zip(a.offsets, a.sizes, b.offsets, b.sizes, strict=True)
    )
    width = ends[-1] - starts[-1]
    for outer in itertools.product(*map(range, starts[:-1], ends[:-1])):
        at = (*outer, starts[-1])
        yield (
            part_of(a.states[state], _index(at, a), width),
            part_of(b.states[state], _index(at, b), width),
        )


def _index(at: Numbers, cell: ParameterCell) -> int:
    """Return the row-major index of an element in a cell."""
    index = 0
    for position, offset, size in zip(at, cell.offsets, cell.sizes, strict=True):
        index = index * size + position - offset
    return index


def _differing(a: Directory, one: Spans, b: Directory, two: Spans) -> int:
    """Return the number of elements that differ in their bits."""
    width = one[0].view.item_size
    total = sum(span.count for span in one)
    some = BLOCK // width
    differing = 0
    for first in range(0, total, some):
        count = min(some, total - first)
        x, y = (
            b"".join(blocks(where, part_of(spans, first, count)))
            for where, spans in ((a, one), (b, two))
        )
        if x != y:
            differing += sum(x[i : i + width] != y[i : i + width] for i in range(0, len(x), width))
    return differing
