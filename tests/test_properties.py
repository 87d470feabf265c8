"""Edits of any metadata and any common state, against the same edit done with torch's classes."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import io
import pickle
from typing import Any

import torch
import torch_side
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)

from ckptmigrate.checkpoint import common, metadata
from ckptmigrate.checkpoint.rows import Blob

_MANY = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])

_KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
_FILES = st.from_regex(r"__[0-9]{1,3}_[0-9]{1,3}\.distcp", fullmatch=True)
_SIZES = st.lists(st.integers(0, 2**40), max_size=3).map(torch.Size)
_DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.float8_e4m3fn])
_ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | _DTYPES
    | st.sampled_from(list(torch_side.RerunState) + list(torch_side.RerunMode))
)
_VALUES = st.recursive(
    _ATOMS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(_KEYS, inner, max_size=4)
        | st.dictionaries(st.integers(), inner, max_size=3)
        | st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), inner, max_size=4).map(
            lambda fields: argparse.Namespace(**fields)
        )
        | inner.map(lambda value: [value, value])
    ),
    max_leaves=15,
)


@st.composite
def any_metadata(draw: st.DrawFn) -> Metadata:
    """Metadata as torch writes it: entries, rows and, mostly, plans that agree."""
    keys = draw(st.lists(_KEYS, min_size=1, max_size=8, unique=True))
    ranks = draw(st.integers(1, 3))
    entries: dict[str, Any] = {}
    rows: dict[MetadataIndex, _StorageInfo] = {}
    items: list[list[WriteItem]] = [[] for _ in range(ranks)]
    for key in keys:
        where = _StorageInfo(draw(_FILES), draw(st.integers(0, 2**50)), draw(st.integers(0, 2**40)))
        rank = draw(st.integers(0, ranks - 1))
        if draw(st.booleans()):
            entries[key] = BytesStorageMetadata()
            index = MetadataIndex(key)
            items[rank].append(WriteItem(index, WriteItemType.BYTE_IO))
        else:
            size, offset = draw(_SIZES), draw(_SIZES)
            chunk = ChunkStorageMetadata(offset, size)
            properties = TensorProperties(draw(_DTYPES))
            entries[key] = TensorStorageMetadata(properties, size, [chunk])
            index = MetadataIndex(key, offset, draw(st.none() | st.integers(0, 5)))
            data = TensorWriteData(chunk, properties, size)
            items[rank].append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
        rows[index] = where
    flattened = {key: (key,) for key in keys}
    made = Metadata(
        entries,
        draw(st.sampled_from([None, {}, flattened])),
        rows,
        draw(st.sampled_from([None, StorageMeta("here", "save", None)])),
    )
    if draw(st.booleans()):
        planner_data = draw(st.sampled_from([None, flattened]))
        made.all_local_plans = [SavePlan(each, planner_data=planner_data) for each in items]
    if draw(st.booleans()):
        named = st.sampled_from(keys) | _KEYS
        made.mcore_data = draw(st.dictionaries(named, st.integers(), max_size=3))
    return made


def same(written: bytes, wanted: Metadata) -> None:
    """What was written unpickles to what torch's own classes say, in the same order."""
    found = torch_side.unpickle(written)
    assert vars(found) == vars(wanted)
    for table in ("state_dict_metadata", "storage_data"):
        assert list(getattr(found, table)) == list(getattr(wanted, table))


def real_without(value: Metadata, keys: set[str]) -> Metadata:
    """The edit by hand."""
    made = copy.copy(value)

    def left(table: Any) -> Any:
        return table and {k: v for k, v in table.items() if k not in keys}

    made.state_dict_metadata = left(value.state_dict_metadata)
    made.planner_data = left(value.planner_data)
    if hasattr(value, "mcore_data"):
        made.mcore_data = left(value.mcore_data)
    made.storage_data = {i: w for i, w in value.storage_data.items() if i.fqn not in keys}
    if hasattr(value, "all_local_plans"):
        made.all_local_plans = [
            dataclasses.replace(
                plan,
                items=[item for item in plan.items if item.index.fqn not in keys],
                planner_data=left(plan.planner_data),
            )
            for plan in value.all_local_plans
        ]
    return made


@_MANY
@given(any_metadata(), st.integers(4, 5))
def test_no_op_on_any_metadata(value: Metadata, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    loaded = metadata.load(data)
    assert loaded.dump() == data
    assert list(loaded.entries) == list(value.state_dict_metadata)
    assert loaded.blobs == {
        index.fqn: Blob(where.relative_path, where.offset, where.length)
        for index, where in value.storage_data.items()
        if index.offset is None
    }


@_MANY
@given(any_metadata(), st.data())
def test_without(value: Metadata, data: st.DataObject) -> None:
    keys = data.draw(st.sets(st.sampled_from(sorted(value.state_dict_metadata)) | _KEYS))
    found = metadata.load(pickle.dumps(value, 4)).without(keys)
    same(found.dump(), real_without(value, keys))


@_MANY
@given(any_metadata(), _KEYS, _FILES, st.integers(0, 2**60), st.data())
def test_with_blobs(value: Metadata, key: str, file: str, offset: int, data: st.DataObject) -> None:
    value = real_without(value, {key})
    plans = getattr(value, "all_local_plans", None)
    rank = data.draw(st.integers(0, len(plans or [0]) - 1))
    loaded = metadata.load(pickle.dumps(value, 4))
    written = loaded.with_blobs({key: (rank, Blob(file, offset, 7))}).dump()

    wanted = copy.copy(value)
    wanted.state_dict_metadata = {**value.state_dict_metadata, key: BytesStorageMetadata()}
    index = MetadataIndex(key)
    wanted.storage_data = {**value.storage_data, index: _StorageInfo(file, offset, 7)}
    if value.planner_data:
        wanted.planner_data = {**value.planner_data, key: (key,)}
    if plans is not None:
        plan = plans[rank]
        added = dataclasses.replace(
            plan,
            items=[*plan.items, WriteItem(index, WriteItemType.BYTE_IO)],
            planner_data=plan.planner_data and {**plan.planner_data, key: (key,)},
        )
        wanted.all_local_plans = [*plans[:rank], added, *plans[rank + 1 :]]
    same(written, wanted)


@_MANY
@given(any_metadata(), _FILES, st.integers(0, 2**60))
def test_relocated(value: Metadata, file: str, offset: int) -> None:
    objects = [i for i in value.storage_data if i.offset is None]
    moved = {index.fqn: Blob(file, offset, 9) for index in objects[:2]}
    written = metadata.load(pickle.dumps(value, 4)).relocated(moved).dump()
    wanted = copy.copy(value)
    wanted.storage_data = {
        index: _StorageInfo(file, offset, 9) if index.fqn in moved else where
        for index, where in value.storage_data.items()
    }
    same(written, wanted)


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def loaded_by_torch(data: bytes) -> Any:
    with torch_side.megatron_names():
        return torch.load(io.BytesIO(data), weights_only=False)


@_MANY
@given(
    st.dictionaries(_KEYS, _VALUES, max_size=6),
    st.lists(st.floats(width=32, allow_nan=False), max_size=5),
    st.booleans(),
)
def test_any_common_state(state: dict[str, Any], numbers: list[float], in_file: bool) -> None:
    state = {**state, "tensor": torch.tensor(numbers), "parameters": [torch.zeros(2)] * 2}
    with torch_side.megatron_names():
        data = saved(state if in_file else [state])
    found = common.load(data, in_file=in_file)
    assert list(found.values) == list(state)
    # Not always the very bytes: Python has one object for each text of one character, so two of
    # them that were written apart are written as one. Once more changes nothing.
    again = found.dump()
    assert common.load(again, in_file=in_file).dump() == again
    written = loaded_by_torch(again)
    assert torch_side.plain(written if in_file else written[0]) == torch_side.plain(state)


def test_a_tensor_without_elements_is_written_as_torch_writes_it() -> None:
    """An empty member of the zip has no data descriptor."""
    data = saved([{"empty": torch.tensor([]), "other": torch.ones(3)}])
    assert common.load(data, in_file=False).dump() == data


@_MANY
@given(st.dictionaries(_KEYS, _VALUES, min_size=1, max_size=6), _KEYS, st.data())
def test_edits_of_any_common_state(state: dict[str, Any], key: str, data: st.DataObject) -> None:
    with torch_side.megatron_names():
        found = common.load(saved(state), in_file=True)
    gone = data.draw(st.sampled_from(sorted(state)) | _KEYS)
    value = data.draw(st.integers() | st.text() | st.lists(st.none(), max_size=3))

    edited = loaded_by_torch(found.with_value(key, value).dump())
    assert torch_side.plain(edited) == torch_side.plain({**state, key: value})
    assert list(edited) == list({**state, key: value})

    left = {k: v for k, v in state.items() if k != gone}
    edited = loaded_by_torch(found.without(gone).dump())
    assert torch_side.plain(edited) == torch_side.plain(left)
    assert list(edited) == list(left)

    moved = loaded_by_torch(found.placed(in_file=False).dump())
    assert torch_side.plain(moved) == torch_side.plain([state])
