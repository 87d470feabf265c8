"""Pickles and torch zips: read without executing, written back as they were."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_side
import torch_zips
from conftest import NAMES, SAMPLES
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptmigrate.errors import PickleError
from ckptmigrate.pickles import reader, serializer, torch_file
from ckptmigrate.pickles.tree import Global, Object, PersistentId

CHECKPOINTS = sorted(p.parent for p in SAMPLES.glob("*/iter_*/.metadata"))
IDS = [f"{p.parent.name}/{p.name}" for p in CHECKPOINTS]


def again(data: bytes) -> bytes:
    return serializer.dump(reader.load(data), serializer.protocol_of(data))


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=IDS)
def test_metadata_no_op_is_byte_identical(checkpoint: Path) -> None:
    data = (checkpoint / ".metadata").read_bytes()
    assert again(data) == data


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=IDS)
def test_torch_files_no_op_is_byte_identical(checkpoint: Path) -> None:
    """common.pt and every blob, found with torch's own metadata classes."""
    contents = torch_side.read(checkpoint)
    assert contents.blobs
    files = list(contents.blobs.values())
    if (checkpoint / "common.pt").exists():
        files.append((checkpoint / "common.pt").read_bytes())
    for data in files:
        assert torch_file.dump(torch_file.load(data)) == data


def test_the_samples_are_all_there() -> None:
    assert len(NAMES) == 34
    assert len(CHECKPOINTS) == 35  # the corrupt root holds two iterations


# -- any tree, compared with the C pickler

_ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**2000), 2**2000)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=300)
)
_TREES = st.recursive(
    _ATOMS,
    lambda inner: (
        st.lists(inner, max_size=8)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=20), inner, max_size=8)
        | st.lists(inner, min_size=1, max_size=3).map(lambda x: [x, x, {"again": x}])
    ),
    max_leaves=40,
)


@settings(max_examples=400, deadline=None)
@given(_TREES, st.sampled_from([4, 5]))
def test_writes_what_the_c_pickler_writes(tree: Any, protocol: int) -> None:
    data = pickle.dumps(tree, protocol)
    assert serializer.dump(tree, protocol) == data
    assert again(data) == data


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=20), st.integers() | st.text(max_size=300)))
def test_writes_what_the_c_pickler_writes_in_protocol_2(tree: Any) -> None:
    assert again(pickle.dumps(tree, 2)) == pickle.dumps(tree, 2)


@pytest.mark.parametrize("count", [0, 1, 2, 999, 1000, 1001, 2000, 2001])
@pytest.mark.parametrize("kind", [list, dict, OrderedDict, set])
def test_batches(kind: type, count: int) -> None:
    numbers = range(count)
    value: Any = kind((n, str(n)) for n in numbers) if "ict" in kind.__name__ else kind(numbers)
    for protocol in (2, 4):
        data = pickle.dumps(value, protocol)
        assert again(data) == data


@pytest.mark.parametrize("size", [65535, 65536, 65537, 200_000])
def test_large_strings_stand_outside_of_frames(size: int) -> None:
    value = ["before", "x" * size, b"y" * size, "after", *map(str, range(30_000))]
    data = pickle.dumps(value, 4)
    assert again(data) == data


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value


def test_objects_keep_their_parts() -> None:
    shared = Plain([1])
    data = pickle.dumps({"a": shared, "b": shared, "c": slice(1, 2), "d": range(3)}, 4)
    tree = reader.load(data)
    assert isinstance(tree["a"], Object)
    assert tree["a"] is tree["b"]
    assert type(tree["a"]).path == f"{Plain.__module__}.Plain"
    assert tree["a"].attributes == {"value": [1]}
    assert tree["d"].opcode == "REDUCE"
    assert tree["d"].args == (0, 3, 1)
    assert again(data) == data


def test_sets_keep_their_items() -> None:
    value = [{1, "a", 2.5}, frozenset({"x", "y", "z"}), set(), frozenset()]
    assert pickle.loads(again(pickle.dumps(value, 4))) == value


def test_recursive_structures() -> None:
    knot: list[Any] = []
    knot.append((knot, {"me": knot}))
    owner = Plain(None)
    owner.value = (owner, [owner])
    for value in (knot, owner):
        data = pickle.dumps(value, 4)
        assert again(data) == data


def test_tensors_are_references() -> None:
    buffer = io.BytesIO()
    torch.save({"weight": torch.arange(6.0).reshape(2, 3)}, buffer)
    loaded = torch_file.load(buffer.getvalue())
    weight = loaded.tree["weight"]
    assert type(weight).path == "torch._utils._rebuild_tensor_v2"
    assert isinstance(weight.args[0], PersistentId)
    assert torch_file.dump(loaded) == buffer.getvalue()


def test_an_edited_archive_is_aligned_and_torch_reads_it() -> None:
    buffer = io.BytesIO()
    torch.save({"name": "short", "weight": torch.arange(100)}, buffer)
    loaded = torch_file.load(buffer.getvalue())
    edited = loaded.with_tree({**loaded.tree, "name": "longer " * 50})
    data = torch_file.dump(edited)
    # weights_only is the strictest reader: protocol 2, known opcodes, known symbols.
    result = torch.load(io.BytesIO(data), weights_only=True)
    assert result["name"] == "longer " * 50
    assert result["weight"].equal(torch.arange(100))
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        assert zipped.testzip() is None
        for info in zipped.infolist():
            name_and_extra = data[info.header_offset + 26 : info.header_offset + 30]
            lengths = [int.from_bytes(name_and_extra[i : i + 2], "little") for i in (0, 2)]
            assert (info.header_offset + 30 + sum(lengths)) % 64 == 0


def test_a_new_archive_is_read_by_torch() -> None:
    data = torch_file.dump(torch_file.new([{"a": 1, "b": [None, True, "x", 2.5]}]))
    assert torch.load(io.BytesIO(data), weights_only=True) == [
        {"a": 1, "b": [None, True, "x", 2.5]}
    ]
    assert torch_file.dump(torch_file.load(data)) == data


# -- what is refused


class Evil:
    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_nothing_is_executed(capsys: pytest.CaptureFixture[str]) -> None:
    data = pickle.dumps([Evil()], 4)
    [evil] = reader.load(data)
    assert type(evil).path == "builtins.print"
    assert evil.args == ("executed",)
    assert again(data) == data
    assert capsys.readouterr().out == ""
    with pytest.raises(TypeError):  # nor does a stand-in do anything when a pickle sets its state
        evil()


def test_nothing_is_imported() -> None:
    data = b"\x80\x04\x8c\x0fantigravity_imp\x8c\x01x\x93."
    found = reader.load(data)
    assert isinstance(found, Global)
    assert "antigravity_imp" not in sys.modules


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"hello world", "not a pickle"),
        (b"\x80\x04", "truncated"),
        (b"\x80\x04N", "truncated"),
        (b"\x80\x04N.N", "after its end"),
        (b"\x80\x04.", "cannot be unpickled"),
        (b"\x80\x04\x82\x01.", "EXT1"),
        (b"\x80\x02(cos\nsystem\no.", "OBJ"),
        (b"\x80\x02(ios\nsystem\n.", "INST"),
        (b"\x80\x02I1\n.", "INT"),
        (b"\x80\x02S'x'\n.", "STRING"),
        (b"\x80\x04Nr\x00\x00\x00\x7f.", "memo indices"),
        (b"\x80\x04\x8b\x00\x00\x10\x00" + b"\x01" * 0x100000 + b".", "integer"),
        (b"\x80\x04X\xff\xff\xff\x7fabc.", "truncated"),
        (b"\x80\x04\x8d" + b"\xff" * 8 + b"abc.", "truncated"),
        (b"\x80\x04cos\nsystem", "name of a global"),
        (b"\x80\x06N.", "not a pickle of protocol"),
        (b"\x80\x04h\x05.", "cannot be unpickled"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93)b.", "cannot be unpickled"),
        (b"\x80\x04NNs.", "cannot be unpickled"),
    ],
)
def test_refused(data: bytes, word: str) -> None:
    with pytest.raises(PickleError, match=word):
        reader.load(data)


@pytest.mark.parametrize("cut", [1, 2, 100, 1000, 20_000])
def test_every_truncation_is_refused(cut: int) -> None:
    data = (CHECKPOINTS[0] / ".metadata").read_bytes()
    with pytest.raises(PickleError):
        reader.load(data[:-cut])


def test_deep_nesting_reads_and_is_refused_in_writing() -> None:
    data = b"\x80\x04" + b"]" * 50_000 + b"a" * 49_999 + b"."
    tree = reader.load(data)
    with pytest.raises(PickleError, match="nested too deeply"):
        serializer.dump(tree, 4)


def bomb(levels: int) -> bytes:
    """A dict whose key is a tuple of two tuples of two tuples ... each of them shared."""
    data = b"\x80\x04}K\x01\x85\x94"
    for level in range(levels):
        data += b"0h" + bytes([level]) + b"h" + bytes([level]) + b"\x86\x94"
    return data + b"Ns."


def test_a_tuple_that_cannot_be_hashed_in_a_lifetime_is_refused() -> None:
    assert isinstance(reader.load(bomb(6)), dict)
    with pytest.raises(PickleError, match="tuple of more than"):
        reader.load(bomb(60))


@pytest.mark.parametrize("between", [b"\x95" + b"\0" * 8, b"N0", b"\x80\x04", b"(1"])
def test_nothing_hides_a_shared_tuple(between: bytes) -> None:
    data = bomb(60).replace(b"\x86\x94", b"\x86" + between + b"\x94")
    with pytest.raises(PickleError):
        reader.load(data)


def test_a_tuple_too_deep_to_be_hashed_is_refused() -> None:
    """Hashed in C, it would take the whole process down."""
    with pytest.raises(PickleError, match="tuple of more than"):
        reader.load(b"\x80\x04})" + b"\x85" * 300_000 + b"Ns.")


def test_a_heavy_tuple_as_many_keys_is_refused() -> None:
    data = b"\x80\x04}(" + b"K\x01" * 15_000 + b"t\x94("
    data += b"".join(b"h\x00K" + bytes([n % 256]) + b"\x86N" for n in range(20_000)) + b"u."
    with pytest.raises(PickleError, match="refers to tuples too often"):
        reader.load(data)


def zip_of(*members: tuple[str, bytes]) -> bytes:
    return torch_zips.zipped([*members, ("archive/version", b"3\n")])


GOOD = pickle.dumps([1], 2)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "not a torch zip"),
        (b"PK\3\4 nonsense", "not a torch zip"),
        (zip_of(("archive/data/0", b"")), "no data.pkl"),
        (
            zip_of(("archive/data.pkl", GOOD), ("../../etc/passwd", b"")),
            "contains '../../etc/passwd'",
        ),
        (zip_of(("archive/data.pkl", GOOD))[:-5], "not a torch zip"),
        (zip_of(("archive/data.pkl", b"junk")), "not a pickle"),
    ],
)
def test_refused_zip(data: bytes, word: str) -> None:
    with pytest.raises(PickleError, match=word):
        torch_file.load(data)


def test_refused_duplicate_member() -> None:
    with pytest.raises(PickleError, match="have the name"):
        torch_file.load(zip_of(("archive/data.pkl", GOOD), ("archive/data.pkl", GOOD)))


def test_refused_flipped_byte() -> None:
    data = bytearray(zip_of(("archive/data.pkl", GOOD)))
    data[data.index(GOOD) + 3] ^= 1
    with pytest.raises(PickleError, match="CRC"):
        torch_file.load(bytes(data))
