"""No file costs much more than a harmless one of its size: no hash is flooded, nothing repeats.

Times are of the processor, and each is held against that of a sample in the same run.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import pickle
import shutil
import struct
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from conftest import SAMPLES, checkpoint_of
from fuzz import mutations
from hostile import pickles

import ckptmigrate
from ckptmigrate.errors import PickleError
from ckptmigrate.pickles import bounds, reader, serializer
from ckptmigrate.pickles.tree import Object, with_state

MOST = 10  # times what a harmless file takes
LEAST = 5_000  # bytes that any file is taken to have, as short times are noise
P = 2**61 - 1  # the modulus of Python's hash of numbers
ONES = 2**64 - 1


def seconds(data: bytes, most: float = 0.0) -> float:
    """The processor time of a read; tried again while above `most`, as the machine is busy."""
    best = math.inf
    for _ in range(5):
        start = time.process_time()
        with contextlib.suppress(PickleError):
            reader.load(data)
        best = min(best, time.process_time() - start)
        if best <= most:
            break
    return best


@cache
def per_byte() -> float:
    data = max((path.read_bytes() for path in SAMPLES.glob("*/iter_*/.metadata")), key=len)
    return seconds(data) / len(data)


def times(data: bytes) -> float:
    """How many times what a harmless file of its size takes.

    Both are measured again while it is above MOST, as a machine is not equally fast all the time.
    """
    best = math.inf
    for _ in range(4):
        harmless = per_byte() * max(len(data), LEAST)
        best = min(best, seconds(data, MOST * harmless) / harmless)
        if best <= MOST:
            break
        per_byte.cache_clear()
    return best


# -- keys of one hash


def rotated(value: int, bits: int) -> int:
    return (value << bits | value >> 64 - bits) & ONES


def pairs_of_one_hash() -> Iterator[tuple[int, int]]:
    """Tuples of two numbers that Python gives one hash (xxHash, Objects/tupleobject.c)."""
    one, two, five = 11400714785074694791, 14029467366897019727, 2870177450012600261
    back, goal = pow(two, -1, 2**64), 0
    for first in itertools.count():
        state = rotated(five + first * two & ONES, 31) * one & ONES
        goal = goal or state + 12345 * two & ONES
        second = (goal - state) * back & ONES
        if second < P:
            yield first, second


def deep(number: int) -> tuple[Any, ...]:
    """A tuple that is short in a file and takes thousands of steps to compare with its like."""
    inner: tuple[Any, ...] = (0,)
    for _ in range(12):
        inner = (inner, inner)
    return inner, number * P


def first(count: int) -> list[tuple[int, int]]:
    return list(itertools.islice(pairs_of_one_hash(), count))


def body(value: Any) -> bytes:
    """A value in opcodes, without PROTO, FRAME and STOP."""
    data = pickle.dumps(value, 4)
    return data[11 if data[2:3] == b"\x95" else 2 : -1]


def of_keys(
    keys: Iterable[Any], begin: bytes = b"}(", value: bytes = b"N", end: bytes = b"u"
) -> bytes:
    """A dict, or a set; written by hand, as Python takes long to make it."""
    return begin + b"".join(body(key) + value for key in keys) + end


SET, FROZENSET = (b"\x8f(", b"", b"\x90"), (b"(", b"", b"\x91")
INTEGERS = [n * P for n in range(1, 12_000)]
FLOODS = {
    "integers": of_keys(INTEGERS),
    "negative integers": of_keys(-n for n in INTEGERS),
    "integers in a set": of_keys(INTEGERS, *SET),
    "integers in a frozenset": of_keys(INTEGERS, *FROZENSET),
    "integers one by one": b"}" + b"".join(body(n) + b"Ns" for n in INTEGERS),
    "integers in many dicts": b"]("
    + b"".join(of_keys(INTEGERS[n : n + 400]) for n in range(0, 12_000, 400))
    + b"e",
    "integers from the memo": b"]("
    + b"".join(body(n) + b"\x94" for n in INTEGERS)
    + b"e0}("
    + b"".join(b"j" + struct.pack("<I", n) + b"N" for n in range(12_000 - 1))
    + b"u",
    "tuples": of_keys(first(6_000)),
    "tuples in a set": of_keys(first(6_000), *SET),
    "deep tuples": of_keys(map(deep, range(1, 90))),
    "frozensets": of_keys(frozenset([pair]) for pair in first(6_000)),
    "floats": of_keys(m * 2.0**e for m in range(1, 99, 2) for e in range(-1000, 960, 61)),
    "integers of equal low bits": of_keys(n << 40 for n in range(1, 12_000)),
}


@pytest.mark.parametrize("name", FLOODS)
def test_keys_of_one_hash(name: str) -> None:
    assert times(b"\x80\x04" + FLOODS[name] + b".") <= MOST


def test_the_measure_sees_a_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"\x80\x04" + of_keys(n * P for n in range(1, 20_000)) + b"."
    monkeypatch.setattr(bounds, "HEAVIEST_KEYS", 10**9)
    assert seconds(data, math.inf) > MOST * per_byte() * len(data)


def test_few_tuples_and_large_integers_may_be_keys() -> None:
    value = {n * P: n for n in range(100)} | {(n, n + 1): n for n in range(100)}
    assert reader.load(pickle.dumps(value, 4)) == value


def with_pieces(data: bytes, offsets: list[tuple[int, int]]) -> bytes:
    """A .metadata in which one tensor has a chunk of one element at each of some offsets."""
    tree = reader.load(data)
    entries, stored = (tree.attributes[n] for n in ("state_dict_metadata", "storage_data"))
    index, where = next((i, w) for i, w in stored.items() if "offset" in i.attributes)
    entry = entries[index.attributes["fqn"]]
    [chunk, *_] = entry.attributes["chunks"]
    size = index.attributes["offset"]

    def sized(numbers: tuple[int, ...]) -> Object:
        made = copy.copy(size)
        made.args = (numbers,)
        return made

    chunks, rows = [], {}
    for number, offset in enumerate(offsets):
        at = sized(offset)
        chunks.append(
            with_state(chunk, {**chunk.attributes, "offsets": at, "sizes": sized((1, 1))})
        )
        place = with_state(where, {**where.attributes, "offset": number, "length": 1})
        rows[with_state(index, {**index.attributes, "offset": at})] = place
    entries[index.attributes["fqn"]] = with_state(
        entry, {**entry.attributes, "chunks": chunks, "size": sized((P, P))}
    )
    tree.attributes["storage_data"] = {**stored, **rows}
    return serializer.dump(tree, 4)


def test_offsets_of_one_hash(tmp_path: Path) -> None:
    """Rows of storage_data and chunks of a tensor, whose offsets Python hashes alike."""
    spent = []
    sample = checkpoint_of(SAMPLES / "0.16.1-idle-w1")
    for name, rows in (("alike", first(3_000)), ("apart", [(n, n) for n in range(3_000)])):
        root = shutil.copytree(sample, tmp_path / name)
        (root / ".metadata").write_bytes(with_pieces((root / ".metadata").read_bytes(), rows))
        start = time.process_time()
        found = ckptmigrate.verify(root)
        spent.append(time.process_time() - start)
        assert "table-mismatch" in [finding.code for finding in found.findings]
    assert spent[0] < 2 * spent[1]


# -- what the fuzzers make


def made(count: int) -> Iterator[bytes]:
    random = Random(13)
    found = [p for path in sorted(SAMPLES.glob("*/iter_*")) for p in (path / ".metadata",)]
    originals = [mutations.Pickle(path.read_bytes()) for path in found[:: max(1, 400 // count)]]
    originals += [
        mutations.Archive(path.read_bytes()).pickle
        for path in sorted(SAMPLES.glob("*/iter_*/common.pt"))[:: max(1, 400 // count)]
    ]
    for number in range(count):
        yield mutations.pickle(originals[number % len(originals)], random.choice(originals), random)


@pytest.mark.parametrize("count", [60, pytest.param(6_000, marks=pytest.mark.full)])
def test_mutations(count: int) -> None:
    slow = [found for data in made(count) if (found := times(data)) > MOST]
    assert not slow


def test_hostile_pickles() -> None:
    slow = {
        name: found
        for name, body in pickles.GADGETS.items()
        if (found := times(pickles.whole(body))) > MOST
    }
    assert not slow
