"""Damage a file in every way that an editor, a disk or an attacker would.

Each mutation is drawn from a `random.Random`, so that a seed and a number name it for good.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from random import Random

from ckptmigrate.pickles import torch_zip

_OPCODES = [ord(op.code) for op in pickletools.opcodes]
_BYTES = (0, 1, 2, 0x7F, 0x80, 0xFF)
_SIZES = (0, 1, 2, 0x7F, 0xFF, 0x100, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1)
_TEXTS = (
    "", "os", "posix", "system", "builtins", "exec", "__builtin__", "eval", "../../x", "/etc/group",
    "__0_0.distcp", "__1_0.distcp", ".metadata", "common_state/shard_0_1", "\x1b[2J", "\x00",
    "rerun_state_machine_state/shard_0_1", "rerun_state_machine_state/shard_0.0_1.1", "\u202e", "k",
    "rerun_state_machine_state/shard_999999999_999999999", "rerun_state_machine", "items", "state",
    "torch", "Size", "torch.distributed.checkpoint.metadata", "Metadata", "args", "iteration",
)  # fmt: skip
_ATOMS = (
    b"N", b"\x88", b"\x89", b"K\0", b"K\1", b"M\xff\xff", b"J\xff\xff\xff\xff", b"]", b"}", b")",
    b"\x8f", b"\x8a\x09" + b"\xff" * 8 + b"\0", b"J\0\0\0\x80", b"G" + b"\x7f\xf8" + b"\0" * 6,
    b"\x8a\xff" + b"\x7f" * 255, b"C\0", b"(", b"0", b"1", b"2", b"h\0", b"h\1", b"R", b"b", b"s",
    b"u", b"a", b"e", b"t", b"\x85", b"\x86", b"\x87", b"\x81", b"\x92", b"\x93", b"\x94", b"Q",
    b"cos\nsystem\n", b"c__builtin__\neval\n", b"\x82\1", b"\x95" + b"\0" * 8, b".",
)  # fmt: skip


@dataclass
class Pickle:
    """The bytes of a pickle, and where its opcodes stand."""

    data: bytes

    @cached_property
    def starts(self) -> list[int]:
        return [at or 0 for _, _, at in pickletools.genops(self.data)]

    @cached_property
    def sized(self) -> list[tuple[int, int]]:
        """Opcodes with a length before their argument: (its place, its width)."""
        width = {"1": 1, "4": 4, "8": 8}
        return [
            ((at or 0) + 1, 8 if op.name == "FRAME" else width[op.arg.name[-1]])
            for op, _, at in pickletools.genops(self.data)
            if op.name == "FRAME" or (op.arg and op.arg.n < -1)
        ]

    @cached_property
    def texts(self) -> list[tuple[int, int]]:
        """Texts that stand whole in the pickle: (start of the opcode, end)."""
        ends = [*self.starts[1:], len(self.data)]
        names = ("BINUNICODE", "SHORT_BINUNICODE")
        return [
            (at or 0, end)
            for (op, _, at), end in zip(pickletools.genops(self.data), ends, strict=True)
            if op.name in names
        ]

    @cached_property
    def numbers(self) -> list[tuple[int, int]]:
        """Arguments of fixed size (small integers, floats, memo indexes): (place, width)."""
        return [
            ((at or 0) + 1, op.arg.n)
            for op, _, at in pickletools.genops(self.data)
            if op.arg and op.arg.n > 0 and op.name not in ("PROTO", "FRAME")
        ]

    @cached_property
    def unframed(self) -> Pickle:
        """The same without FRAME opcodes, which need no repair when something is inserted."""
        ends = [*self.starts[1:], len(self.data)]
        parts = [
            self.data[start:end]
            for start, end in zip(self.starts, ends, strict=True)
            if self.data[start] != 0x95
        ]
        return Pickle(b"".join(parts))

    def operation(self, random: Random) -> tuple[int, int]:
        """(start, end) of one of the opcodes."""
        number = random.randrange(1, len(self.starts))
        ends = [*self.starts[number + 1 : number + 2], len(self.data)]
        return self.starts[number], ends[0]


# -- any bytes


def _flip(data: bytes, random: Random) -> bytes:
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 8))):
        out[random.randrange(len(out))] ^= 1 << random.randrange(8)
    return bytes(out)


def _set(data: bytes, random: Random) -> bytes:
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        out[random.randrange(len(out))] = random.choice((*_BYTES, *_OPCODES))
    return bytes(out)


def _truncate(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data))]


def _insert(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.randbytes(random.choice((1, 1, 2, 4, 16, 300))) + data[at:]


def _cut(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + data[at + random.choice((1, 1, 2, 4, 16, 300, 5000)) :]


def _repeat(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data))
    piece = data[at : at + random.choice((1, 4, 30, 1000))]
    return data[:at] + piece * random.choice((2, 2, 3, 50)) + data[at + len(piece) :]


def _splice(data: bytes, other: bytes, random: Random) -> bytes:
    at, there = random.randrange(len(data)), random.randrange(len(other))
    if random.random() < 0.5:
        return data[:at] + other[there:]
    size = random.choice((4, 30, 1000))
    return data[:at] + other[there : there + size] + data[at + size :]


_ANY: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip,
    _set,
    _truncate,
    _insert,
    _cut,
    _repeat,
)


# -- pickles


def _swap_opcode(pickle: Pickle, other: Pickle, random: Random) -> bytes:
    start, _ = pickle.operation(random)
    out = bytearray(pickle.data)
    out[start] = random.choice(_OPCODES)
    return bytes(out)


def _drop_operation(pickle: Pickle, other: Pickle, random: Random) -> bytes:
    start, end = pickle.operation(random)
    return pickle.data[:start] + pickle.data[end:]


def _add_operation(pickle: Pickle, other: Pickle, random: Random) -> bytes:
    start, _ = pickle.operation(random)
    return pickle.data[:start] + random.choice(_ATOMS) + pickle.data[start:]


def _replace_operation(pickle: Pickle, other: Pickle, random: Random) -> bytes:
    start, end = pickle.operation(random)
    there, until = other.operation(random)
    new = random.choice(_ATOMS) if random.random() < 0.5 else other.data[there:until]
    return pickle.data[:start] + new + pickle.data[end:]


def _exchange_operations(pickle: Pickle, other: Pickle, random: Random) -> bytes:
    (a, b), (c, d) = sorted((pickle.operation(random), pickle.operation(random)))
    if c < b:
        return pickle.data
    data = pickle.data
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _graft(pickle: Pickle, other: Pickle, random: Random) -> bytes:
    """A run of whole opcodes of another sample."""
    start, end = pickle.operation(random)
    there, _ = other.operation(random)
    until = other.starts[
        min(len(other.starts) - 1, other.starts.index(there) + random.choice((3, 30)))
    ]
    return (
        pickle.data[:start] + other.data[there:until] + pickle.data[random.choice((start, end)) :]
    )


def _edit_length(pickle: Pickle, other: Pickle, random: Random) -> bytes:
    if not pickle.sized:
        return _flip(pickle.data, random)
    at, width = random.choice(pickle.sized)
    old = int.from_bytes(pickle.data[at : at + width], "little")
    new = random.choice((old - 1, old + 1, old * 2, *_SIZES)) % (1 << 8 * width)
    return pickle.data[:at] + new.to_bytes(width, "little") + pickle.data[at + width :]


def _edit_text(pickle: Pickle, other: Pickle, random: Random) -> bytes:
    if not pickle.texts:
        return _set(pickle.data, random)
    start, end = random.choice(pickle.texts)
    if other.texts and random.random() < 0.5:
        there, until = random.choice(other.texts)
        new = other.data[there:until]
        if new[0] == 0x8C and pickle.data[1] < 4:
            new = b"X" + struct.pack("<I", new[1]) + new[2:]
    else:
        body = random.choice(_TEXTS).encode()
        new = b"X" + struct.pack("<I", len(body)) + body
    return pickle.data[:start] + new + pickle.data[end:]


def _edit_number(pickle: Pickle, other: Pickle, random: Random) -> bytes:
    if not pickle.numbers:
        return _set(pickle.data, random)
    at, width = random.choice(pickle.numbers)
    new = random.choice((random.getrandbits(64), random.randrange(256), *_SIZES)) % (1 << 8 * width)
    return pickle.data[:at] + new.to_bytes(width, "little") + pickle.data[at + width :]


_PICKLE: tuple[Callable[[Pickle, Pickle, Random], bytes], ...] = (
    _swap_opcode, _drop_operation, _add_operation, _replace_operation, _exchange_operations,
    _graft, _edit_length, _edit_text, _edit_number, _edit_number, _edit_number,
)  # fmt: skip


def pickle(original: Pickle, other: Pickle, random: Random) -> bytes:
    """One mutant of a pickle.

    Args:
        other: another sample's, for splices.
    """
    if random.random() < 0.4:
        if random.random() < 0.15:
            return _splice(original.data, other.data, random)
        return random.choice(_ANY)(original.data, random)
    if random.random() < 0.8:
        original, other = original.unframed, other.unframed
    mutant = random.choice(_PICKLE)(original, other, random)
    if random.random() < 0.1:  # damage upon damage
        mutant = random.choice(_ANY)(mutant or b"\0", random)
    return mutant


# -- torch zips


@dataclass
class Archive:
    """The bytes of a torch zip, and what stands in it."""

    data: bytes

    @cached_property
    def members(self) -> list[tuple[str, bytes]]:
        with zipfile.ZipFile(io.BytesIO(self.data)) as zipped:
            return [(info.filename, zipped.read(info)) for info in zipped.infolist()]

    @cached_property
    def pickle(self) -> Pickle:
        return Pickle(next(body for name, body in self.members if name.endswith("/data.pkl")))

    @cached_property
    def headers(self) -> list[int]:
        """Where headers and records stand: local, central, descriptors, ends."""
        found = []
        for mark in (b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\7\x08"):
            at = self.data.find(mark)
            while at >= 0:
                found.append(at)
                at = self.data.find(mark, at + 1)
        return found


def zipped(members: list[tuple[str, bytes]]) -> bytes:
    """A whole zip as torch writes it, all in the folder of the first; names may repeat."""
    folder = members[0][0].partition("/")[0]
    inside = ((name.removeprefix(f"{folder}/"), body) for name, body in members)
    return torch_zip.write(torch_zip.TorchZip(folder, tuple(inside)))


def archive(original: Archive, other: Archive, random: Random) -> bytes:
    """One mutant of a torch zip: its pickle, its headers, its members, or any of its bytes."""
    kind = random.random()
    if kind < 0.55:  # the pickle, in a zip that is right
        mutant = pickle(original.pickle, other.pickle, random)
        return zipped([(n, mutant if n.endswith("/data.pkl") else b) for n, b in original.members])
    if kind < 0.75:  # a field of a header
        at = random.choice(original.headers) + random.randrange(4, 56)
        width = random.choice((1, 2, 4, 8))
        new = random.choice((random.getrandbits(32), *_SIZES)) % (1 << 8 * width)
        return original.data[:at] + new.to_bytes(width, "little") + original.data[at + width :]
    if kind < 0.85:  # the members
        members = list(original.members)
        number = random.randrange(len(members))
        name, body = members[number]
        folder = name.partition("/")[0]
        new = random.choice(
            ("../../x", "/x", f"{folder}/../x", f"{folder}/data.pkl", "\0", "x" * 300, "")
        )
        change = random.randrange(4)
        if change == 0:
            members[number] = (new, body)
        elif change == 1:
            members.insert(number, random.choice(other.members))
        elif change == 2:
            del members[number]
        else:
            random.shuffle(members)
        return zipped(members)
    if kind < 0.9:
        return _splice(original.data, other.data, random)
    return random.choice(_ANY)(original.data, random)
