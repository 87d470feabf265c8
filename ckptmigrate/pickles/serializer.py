"""Writer of inert trees as pickles.

The opcodes are those of CPython's C pickler (Modules/_pickle.c, the same in 3.10 to 3.13): the same
memo order, frames, batches of 1000 and shortest integer forms. Therefore a tree that was read and
not changed is written byte for byte; tests/test_inert.py checks this with the samples of every
release. The one exception is the order inside a set, which no reader can observe; no metadata of
any release has a set.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any, Final

from ckptmigrate.errors import PickleError
from ckptmigrate.pickles.tree import (
    DICT_ITEMS,
    LIST_ITEMS,
    NEWOBJ,
    NEWOBJ_EX,
    SET_ITEMS,
    Global,
    Object,
    PersistentId,
)

_BATCH: Final = 1000
_FRAME_TARGET: Final = 64 * 1024
_FRAME_MINIMUM: Final = 4


def dump(tree: Any, protocol: int) -> bytes:
    """Return the pickle of an inert tree.

    Args:
        tree: a value as `reader.load` returns it, or built from the same kinds of nodes.
        protocol: 2 for the `data.pkl` of a torch zip (the `weights_only` unpickler reads nothing
            newer), 4 for `.metadata`; see `protocol_of`.

    Raises:
        PickleError: the tree is nested too deeply, or has a value that no node represents.
    """
    writer = _Writer(protocol)
    try:
        return writer.pickle(tree)
    except RecursionError:
        raise PickleError("is nested too deeply to be serialized") from None


def fragment(tree: Any, protocol: int) -> bytes:
    """Return the opcodes that push an inert tree inside a pickle, without memoizing anything.

    Raises:
        PickleError: as in `dump`, and if the tree contains itself.
    """
    writer = _Fragment(protocol)
    try:
        writer.save(tree)
    except RecursionError:
        raise PickleError("contains itself, or is nested too deeply") from None
    return bytes(writer.frame)


def protocol_of(data: bytes) -> int:
    """Return the protocol that a pickle declares, for writing it back in the same one."""
    return data[1]


class _Writer:
    def __init__(self, protocol: int) -> None:
        self.protocol = protocol
        self.done = bytearray()
        self.frame = bytearray()  # contents of the current frame so far
        self.framing = protocol >= 4
        self.memo: dict[int, int] = {}
        self.kept: list[Any] = []  # keeps ids valid while they are memo keys
        self.handlers: dict[type, Callable[[Any], None]] = {
            type(None): lambda _: self.emit(b"N"),
            bool: lambda value: self.emit(b"\x88" if value else b"\x89"),
            int: self.integer,
            float: lambda value: self.emit(b"G" + struct.pack(">d", value)),
            str: self.text,
            bytes: self.octets,
            bytearray: self.octets,
            tuple: self.save_tuple,
            list: self.save_list,
            dict: self.save_dict,
            set: self.save_set,
            frozenset: self.save_frozenset,
            PersistentId: self.persistent,
        }

    def pickle(self, tree: Any) -> bytes:
        self.done += b"\x80" + bytes([self.protocol])
        self.save(tree)
        self.emit(b".")
        self.commit_frame()
        return bytes(self.done)

    # -- bytes, frames and memo

    def emit(self, data: bytes) -> None:
        self.frame += data

    def commit_frame(self) -> None:
        if self.framing and len(self.frame) >= _FRAME_MINIMUM:
            self.done += b"\x95" + struct.pack("<Q", len(self.frame))
        self.done += self.frame
        self.frame.clear()

    def emit_sized(self, head: bytes, body: bytes) -> None:
        """Emit an argument with its opcode; a large argument is outside the frames."""
        if self.framing and len(body) >= _FRAME_TARGET:
            self.commit_frame()
            self.done += head + body
        else:
            self.frame += head + body

    def memoize(self, value: Any) -> None:
        index = len(self.memo)
        self.memo[id(value)] = index
        self.kept.append(value)
        if self.protocol >= 4:
            self.emit(b"\x94")
        elif index < 256:
            self.emit(b"q" + bytes([index]))
        else:
            self.emit(b"r" + struct.pack("<I", index))

    def recall(self, value: Any) -> bool:
        index = self.memo.get(id(value))
        if index is None:
            return False
        self.emit(b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index))
        return True

    # -- values

    def save(self, value: Any) -> None:
        if len(self.frame) >= _FRAME_TARGET:
            self.commit_frame()
        kind = type(value)
        handler = self.handlers.get(kind)
        if handler is not None:
            handler(value)
        elif kind is Global:
            self.symbol(value)
        elif isinstance(value, Object):
            self.object(value)
        else:
            raise PickleError(f"contains a {kind.__name__}, which cannot be serialized")

    def integer(self, value: int) -> None:
        if 0 <= value < 0x100:
            self.emit(b"K" + bytes([value]))
        elif 0 <= value < 0x10000:
            self.emit(b"M" + struct.pack("<H", value))
        elif -0x80000000 <= value < 0x80000000:
            self.emit(b"J" + struct.pack("<i", value))
        else:
            length = value.bit_length() // 8 + 1
            body = value.to_bytes(length, "little", signed=True)
            if value < 0 and length > 1 and body[-1] == 0xFF and body[-2] & 0x80:
                body = body[:-1]
            if len(body) < 256:
                self.emit(b"\x8a" + bytes([len(body)]) + body)
            else:
                self.emit(b"\x8b" + struct.pack("<i", len(body)) + body)

    def text(self, value: str) -> None:
        if self.recall(value):
            return
        body = value.encode("utf-8", "surrogatepass")
        size = len(body)
        if size < 256 and self.protocol >= 4:
            self.emit(b"\x8c" + bytes([size]) + body)
        elif size < 1 << 32:
            self.emit_sized(b"X" + struct.pack("<I", size), body)
        else:
            self.emit_sized(b"\x8d" + struct.pack("<Q", size), body)
        self.memoize(value)

    def octets(self, value: bytes | bytearray) -> None:
        if self.recall(value):
            return
        size = len(value)
        if isinstance(value, bytearray):
            self.emit_sized(b"\x96" + struct.pack("<Q", size), bytes(value))
        elif size < 256:
            self.emit(b"C" + bytes([size]) + value)
        elif size < 1 << 32:
            self.emit_sized(b"B" + struct.pack("<I", size), value)
        else:
            self.emit_sized(b"\x8e" + struct.pack("<Q", size), value)
        self.memoize(value)

    def save_tuple(self, value: tuple[Any, ...]) -> None:
        size = len(value)
        if not size:
            self.emit(b")")
            return
        if self.recall(value):
            return
        if size > 3:
            self.emit(b"(")
        for item in value:
            self.save(item)
        if id(value) in self.memo:  # the tuple contains itself and was written in the meantime
            self.emit(b"0" * size if size <= 3 else b"1")
            self.recall(value)
            return
        self.emit((b"\x85", b"\x86", b"\x87")[size - 1] if size <= 3 else b"t")
        self.memoize(value)

    def save_list(self, value: list[Any]) -> None:
        if self.recall(value):
            return
        self.emit(b"]")
        self.memoize(value)
        self.batches(value, self.save, b"a", b"e", lone_tail=False)

    def save_dict(self, value: dict[Any, Any]) -> None:
        if self.recall(value):
            return
        self.emit(b"}")
        self.memoize(value)
        if len(value) == 1:
            self.pair(*value.items())
            self.emit(b"s")
        elif value:
            self.marked_batches(list(value.items()), self.pair, b"u")

    def save_set(self, value: set[Any]) -> None:
        if self.recall(value):
            return
        self.emit(b"\x8f")
        self.memoize(value)
        if value:
            self.set_items(value)

    def save_frozenset(self, value: frozenset[Any]) -> None:
        if self.recall(value):
            return
        self.emit(b"(")
        for item in value:
            self.save(item)
        if id(value) in self.memo:
            self.emit(b"1")
            self.recall(value)
            return
        self.emit(b"\x91")
        self.memoize(value)

    def persistent(self, value: PersistentId) -> None:
        self.save(value.pid)
        self.emit(b"Q")

    def symbol(self, value: Global) -> None:
        if self.recall(value):
            return
        if self.protocol >= 4:
            self.save(value.module)
            self.save(value.symbol)
            self.emit(b"\x93")
        else:
            self.emit(b"c" + f"{value.module}\n{value.symbol}\n".encode())
        self.memoize(value)

    def object(self, value: Object) -> None:
        if self.recall(value):
            return
        self.save(type(value))
        self.save(value.args)
        if value.opcode == NEWOBJ_EX:
            self.save(value.kwargs)
            self.emit(b"\x92")
        else:
            self.emit(b"\x81" if value.opcode == NEWOBJ else b"R")
        if id(value) in self.memo:  # its own arguments contain it
            self.emit(b"0")
            self.recall(value)
        else:
            self.memoize(value)
        for kind, items in value.updates or ():
            if kind == LIST_ITEMS:
                self.batches(items, self.save, b"a", b"e", lone_tail=True)
            elif kind == DICT_ITEMS:
                self.batches(items, self.pair, b"s", b"u", lone_tail=True)
            elif kind == SET_ITEMS:
                self.set_items(items)
            else:
                self.save(items)
                self.emit(b"b")

    # -- items

    def pair(self, item: tuple[Any, Any]) -> None:
        self.save(item[0])
        self.save(item[1])

    def set_items(self, items: Iterable[Any]) -> None:
        self.marked_batches(list(items), self.save, b"\x90")

    def marked_batches(self, items: list[Any], save: Callable[[Any], None], many: bytes) -> None:
        """Emit the batches of a dict or set; a batch, even if empty, follows a full batch."""
        start, full = 0, True
        while full:
            batch = items[start : start + _BATCH]
            self.emit(b"(")
            for item in batch:
                save(item)
            self.emit(many)
            start += _BATCH
            full = len(batch) == _BATCH

    def batches(
        self,
        items: list[Any],
        save: Callable[[Any], None],
        one: bytes,
        many: bytes,
        *,
        lone_tail: bool,
    ) -> None:
        """Emit the batches of a list or of a reduced object.

        The C pickler writes a single item without a MARK: for a list only if it is the only item,
        for a reduced object also if it remains after full batches.
        """
        for start in range(0, len(items), _BATCH):
            batch = items[start : start + _BATCH]
            if len(batch) == 1 and (lone_tail or len(items) == 1):
                save(batch[0])
                self.emit(one)
                continue
            self.emit(b"(")
            for item in batch:
                save(item)
            self.emit(many)


class _Fragment(_Writer):
    """Writer that memoizes nothing, so that the memo of the surrounding pickle does not change."""

    def memoize(self, value: Any) -> None:
        pass

    def commit_frame(self) -> None:
        pass

    def emit_sized(self, head: bytes, body: bytes) -> None:
        self.emit(head + body)
