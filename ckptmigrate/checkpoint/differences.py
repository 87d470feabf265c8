"""Semantic differences between two checkpoints, as lines that read like a diff."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from ckptmigrate.checkpoint import common
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rows import ENTRIES, FLATTENED, PLANS, STORED, Blob, Piece, item_key
from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles import torch_file
from ckptmigrate.pickles.display import short_repr
from ckptmigrate.pickles.equality import equal
from ckptmigrate.pickles.tree import Object
from ckptmigrate.text.printable import printable

_PIECE: Final = 8 * 1024 * 1024  # bytes of data files compared at a time


@dataclass(frozen=True)
class Difference:
    """One difference.

    Attributes:
        sign: `+` only in the second, `-` only in the first, `~` in both and not equal.
        part: `common`, `entry`, `plan`, `attribute`, `marker`, `payload`, `nested` or `optimizer`.
        name: the key, attribute or path of keys that differs; prefixed by `folder/` for a nested
            checkpoint.
        detail: the values, shortened, or empty.
    """

    sign: str
    part: str
    name: str
    detail: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the documented JSON form (docs/json.md, `diff --json`)."""
        return asdict(self)

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return printable(f"{self.sign} {self.part} {self.name}{detail}")


def diff(a: Manifest, b: Manifest, *, payload: bool = True) -> list[Difference]:
    """Return the semantic differences from `a` to `b`.

    The location of bytes in the data files does not matter; the bytes do. Sharded objects with
    different bytes are equal if they contain the same object.

    Args:
        payload: whether to compare the bytes of keys that are not at the same offset of the same
            file. If False, report keys with different locations and read no data.

    Raises:
        DamagedError: a data file cannot be read.
    """
    changed = b.metadata.changed_from(a.metadata)
    if changed is None:  # two separate files: any row may differ
        a, b = (each.with_metadata(each.metadata.whole()) for each in (a, b))
    return [
        *_place_of_common(a, b),
        *_values("common", a.common.values, b.common.values),
        *_keys("marker", a.marker, b.marker),
        *_attributes(a, b),
        *_keys("entry", *_entries(a, b, changed)),
        *_plans(a, b, changed),
        *_payload(a, b, changed, read=payload),
        *_nested(a, b, payload=payload),
    ]


def _nested(a: Manifest, b: Manifest, *, payload: bool) -> Iterator[Difference]:
    """Yield the differences between nested checkpoints, with the folder in the name."""
    for folder in {**a.nested, **b.nested}:
        if folder not in b.nested:
            yield Difference("-", "nested", folder)
        elif folder not in a.nested:
            yield Difference("+", "nested", folder)
        else:
            for each in diff(a.nested[folder], b.nested[folder], payload=payload):
                yield replace(each, name=f"{folder}/{each.name}")


def _place_of_common(a: Manifest, b: Manifest) -> Iterator[Difference]:
    if a.common.in_file != b.common.in_file:
        places = (common.FILE, common.KEY)
        gone, come = places if a.common.in_file else reversed(places)
        yield Difference("~", "common", "place", f"{gone} -> {come}")


def _attributes(a: Manifest, b: Manifest) -> Iterator[Difference]:
    if a.metadata.class_path != b.metadata.class_path:
        detail = f"{a.metadata.class_path} -> {b.metadata.class_path}"
        yield Difference("~", "attribute", "class", detail)
    # Other functions compare these tables.
    tables = (ENTRIES, STORED, PLANS)
    yield from _values(
        "attribute",
        {k: v for k, v in a.metadata.attributes.items() if k not in tables},
        {k: v for k, v in b.metadata.attributes.items() if k not in tables},
    )
    has_a, has_b = a.metadata.plans is not None, b.metadata.plans is not None
    if has_a != has_b:
        yield Difference("-" if has_a else "+", "attribute", PLANS)


def _entries(
    a: Manifest, b: Manifest, changed: Collection[str] | None
) -> Iterator[Mapping[str, Any]]:
    """Yield the keys of each checkpoint that may differ, with their metadata."""
    for entries in (a.metadata.entries, b.metadata.entries):
        if changed is not None:  # sorted, so that every run has the same order
            entries = {key: entries[key] for key in sorted(changed) if key in entries}
        yield entries


def _plans(a: Manifest, b: Manifest, changed: Collection[str] | None) -> Iterator[Difference]:
    plans_a, plans_b = a.metadata.plans, b.metadata.plans
    if plans_a is None or plans_b is None or (plans_a is plans_b and not changed):
        return
    if len(plans_a) != len(plans_b):
        yield Difference("~", "plan", "ranks", f"{len(plans_a)} -> {len(plans_b)}")
        return
    for rank, (plan_a, plan_b) in enumerate(zip(plans_a, plans_b, strict=True)):
        if plan_a is plan_b and not changed:
            continue
        if type(plan_a).path != type(plan_b).path:
            detail = f"{type(plan_a).path} -> {type(plan_b).path}"
            yield Difference("~", "plan", f"class of rank {rank}", detail)
        if changed is None:  # otherwise only the rows of `changed` can differ
            yield from _plan_attributes(rank, plan_a, plan_b)
        before, after = (Counter(_planned(m, rank, changed)) for m in (a, b))
        for sign, keys in (("-", before - after), ("+", after - before)):
            for key, count in keys.items():
                times = f" x{count}" if count > 1 else ""
                yield Difference(sign, "plan", f"item of rank {rank}: {key}{times}")


def _planned(found: Manifest, rank: int, changed: Collection[str] | None) -> Iterable[str]:
    """Return the keys in the save plan of a rank that may differ."""
    keys = (found.metadata.planned or ())[rank]
    return keys if changed is None else filter(changed.__contains__, keys)


def _plan_attributes(rank: int, a: Object, b: Object) -> Iterator[Difference]:
    """Yield differences in plan attributes, and in items of keys that both plans write."""
    tables = ("items", FLATTENED)  # their keys are reported as items
    for name in {**a.attributes, **b.attributes}:
        one, two = a.attributes.get(name), b.attributes.get(name)
        if name not in tables and not equal(one, two):
            yield Difference(
                "~", "plan", f"{name} of rank {rank}", f"{short_repr(one)} -> {short_repr(two)}"
            )
    before, after = ({item_key(i): i for i in plan.attributes["items"]} for plan in (a, b))
    for key in before:
        if key not in after or equal(before[key], after[key]):
            continue
        if _items_of(a, key) == _items_of(b, key) == 1:
            yield Difference("~", "plan", f"item of rank {rank}: {key}")


def _items_of(plan: Object, key: str) -> int:
    return sum(item_key(item) == key for item in plan.attributes["items"])


def _payload(
    a: Manifest, b: Manifest, changed: Collection[str] | None, *, read: bool
) -> Iterator[Difference]:
    """Yield differences in the byte ranges of common keys, except the common state."""
    entries_a, entries_b = _entries(a, b, changed)
    both = (entries_a.keys() & entries_b.keys()) - {common.KEY}
    chunks_a, chunks_b = (m.metadata.chunks_of(both) for m in (a, b))
    for piece, blob in chunks_a.items():
        name, other = _named(piece), chunks_b.get(piece)
        if other is None:
            yield Difference("-", "payload", name)
        elif not read:
            if blob != other:
                yield Difference("~", "payload", name, f"{blob.file} -> {other.file}")
        elif not _same_bytes(a, blob, b, other) and not _same_object(a, b, piece[0]):
            yield Difference("~", "payload", name)
    for piece in chunks_b:
        if piece not in chunks_a:
            yield Difference("+", "payload", _named(piece))


def _named(piece: Piece) -> str:
    return " at ".join(filter(None, piece))


def _same_bytes(a: Manifest, blob_a: Blob, b: Manifest, blob_b: Blob) -> bool:
    if blob_a.length != blob_b.length:
        return False
    if blob_a.offset == blob_b.offset and a.same_file(blob_a.file, b, blob_b.file):
        return True
    for start in range(0, blob_a.length, _PIECE):
        size = min(_PIECE, blob_a.length - start)
        pieces = (
            m.read_range(blob.file, blob.offset + start, size)
            for m, blob in ((a, blob_a), (b, blob_b))
        )
        if next(pieces) != next(pieces):
            return False
    return True


def _same_object(a: Manifest, b: Manifest, key: str) -> bool:
    """Return whether two sharded objects with different bytes contain the same object."""
    if key not in a.metadata.blobs or key not in b.metadata.blobs:
        return False
    return same_object(a.read_blob_bytes(key), b.read_blob_bytes(key))


def same_object(a: bytes, b: bytes) -> bool:
    """Return whether the bytes of two sharded objects contain the same object."""
    if a == b:
        return True
    try:
        trees = [torch_file.load(data) for data in (a, b)]
    except DamagedError:
        return False
    storages = [tree.storages for tree in trees]
    return storages[0] == storages[1] and equal(trees[0].tree, trees[1].tree)


def _keys(part: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield differences by key; compare each value as a whole."""
    for key in a:
        if key not in b:
            yield Difference("-", part, key)
        elif not equal(a[key], b[key]):
            yield Difference("~", part, key, f"{short_repr(a[key])} -> {short_repr(b[key])}")
    for key in b:
        if key not in a:
            yield Difference("+", part, key)


def _values(part: str, a: Any, b: Any) -> Iterator[Difference]:
    """Yield differences by path; descend while both sides are mappings or objects."""
    seen: set[tuple[int, int]] = set()  # report a shared node once
    todo = [("", a, b)]
    while todo:
        path, a, b = todo.pop()
        inner_a, inner_b = _inside(a), _inside(b)
        if inner_a is None or inner_b is None:
            if not equal(a, b):
                yield Difference("~", part, path, f"{short_repr(a)} -> {short_repr(b)}")
            continue
        if a is b or (id(a), id(b)) in seen:
            continue
        seen.add((id(a), id(b)))
        deeper = []
        for key in {**inner_a, **inner_b}:
            name = f"{path}.{key}" if path else key
            if key not in inner_b:
                yield Difference("-", part, name, short_repr(inner_a[key]))
            elif key not in inner_a:
                yield Difference("+", part, name, short_repr(inner_b[key]))
            else:
                deeper.append((name, inner_a[key], inner_b[key]))
        todo += reversed(deeper)


def _inside(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return value
    if isinstance(value, Object) and not value.args and value.attributes:
        return {key: v for key, v in value.attributes.items() if isinstance(key, str)}
    return None
