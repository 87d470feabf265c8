"""Limits for a pickle, checked before it is unpickled.

A lexer over the opcodes refuses what no pickler of protocol 2 to 5 writes: EXT codes, INST, OBJ,
the text opcodes of protocol 0, memo indexes ahead of the memo (on CPython up to 3.11 five bytes of
LONG_BINPUT allocate hundreds of megabytes), oversized integers, and bytes after STOP. It also
refuses tuples that cannot be hashed in a reasonable time or at all, and too many keys that may have
the same hash.
"""

from __future__ import annotations

import pickletools
from array import array
from dataclasses import dataclass, field
from typing import Final, Protocol

from ckptmigrate.errors import PickleError

PROTOCOLS: Final = range(2, 6)
LARGEST_INTEGER_BYTES: Final = 4096
# Python hashes a tuple recursively in C and hashes a shared tuple again each time. Thirty tuples,
# each with two references to the one before, cost 2**30 steps as a key, and a deep tuple can
# overflow the C stack. So the weight of a tuple is its number of items, including those of nested
# tuples, counted each time they occur.
HEAVIEST_TUPLE: Final = 20_000
HEAVIEST_REFERENCES: Final = 10_000_000  # limit for the sum over all references to tuples
# A dict of n keys with the same hash takes n**2 comparisons. Hashes of text and bytes are salted,
# but those of tuples, frozensets and integers from 2**61 - 1 can be chosen. Checkpoints have no
# such keys, so these items have a weight above 1, and this is the limit for the sum of such key
# weights.
HEAVIEST_KEYS: Final = 1_000
_UNCHOSEN_BYTES: Final = 7  # bytes of an integer whose hash cannot be chosen

# Limit for globals and sets, which take a few bytes in the file and a thousand in memory. Writers
# name a global once, and no metadata of any release has a set.
MOST_COSTLY: Final = 100_000

# Opcodes that the C pickler emits for protocols 2 to 5 (CPython Modules/_pickle.c, save_*).
_ALLOWED: Final = [
    "PROTO",
    "FRAME",
    "STOP",
    "MARK",
    "POP",
    "POP_MARK",
    "MEMOIZE",
    "BINPUT",
    "LONG_BINPUT",
    "BINGET",
    "LONG_BINGET",
    "NONE",
    "NEWTRUE",
    "NEWFALSE",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "LONG4",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
    "EMPTY_TUPLE",
    "TUPLE",
    "TUPLE1",
    "TUPLE2",
    "TUPLE3",
    "EMPTY_LIST",
    "APPEND",
    "APPENDS",
    "EMPTY_DICT",
    "SETITEM",
    "SETITEMS",
    "EMPTY_SET",
    "ADDITEMS",
    "FROZENSET",
    "GLOBAL",
    "STACK_GLOBAL",
    "REDUCE",
    "NEWOBJ",
    "NEWOBJ_EX",
    "BUILD",
    "BINPERSID",
]
_NAMES: Final = {ord(op.code): op.name for op in pickletools.opcodes}

# For each opcode byte: the size of a fixed argument; minus the size of the little-endian length of
# a variable argument; or None if the opcode is not allowed.
_SIZED: Final = {
    "uint1": 1, "uint2": 2, "uint4": 4, "uint8": 8, "int4": 4, "float8": 8,
    "long1": -1, "long4": -4, "string1": -1, "string4": -4,
    "unicodestring1": -1, "unicodestring4": -4, "unicodestring8": -8,
    "bytes1": -1, "bytes4": -4, "bytes8": -8, "bytearray8": -8,
}  # fmt: skip
NEWLINES: Final = -100  # GLOBAL: two lines of text


def _table() -> list[int | None]:
    table: list[int | None] = [None] * 256
    for op in pickletools.opcodes:
        if op.name not in _ALLOWED:
            continue
        if op.name == "GLOBAL":
            table[ord(op.code)] = NEWLINES
        else:
            table[ord(op.code)] = _SIZED[op.arg.name] if op.arg else 0
    return table


ARGUMENT: Final = _table()
_STOP, _MARK, _POP, _PROTO, _MEMOIZE, _FRAME = b".(0\x80\x94\x95"
PUTS: Final = frozenset(b"qr")
_GETS: Final = frozenset(b"hj")
_TUPLES: Final = frozenset(b"t\x85\x86\x87")
_INTEGERS: Final = frozenset(b"\x8a\x8b")
_COSTLY: Final = frozenset(b"c\x93\x8f\x91")  # globals and sets
_BATCHES: Final = frozenset(b"uesa")
# The index of the first key among the items that the opcode takes, and the distance between keys.
_KEYS: Final = {ord("u"): (1, 2), ord("s"): (1, 2), 0x90: (1, 1), 0x91: (0, 1)}
_FROZENSET: Final = 0x91
_CHANGES: Final = frozenset(b"uesab\x90")  # change and leave the first item that they take
ENDS_A_ROW: Final = frozenset(b"(0b\x94")  # last opcodes of a row, or before the first row
# After these opcodes no new item is on top of the stack; no pickler memoizes there.
_MAKES_NOTHING: Final = frozenset(b"(012qr\x94hjsuaebQ\x90")


def _stack_effects() -> list[tuple[int, int]]:
    """Return for each opcode how many items it takes and how many it leaves.

    For an opcode that takes a mark, the first number is minus one minus the number of items that it
    takes from below the mark.
    """
    effects = [(0, 0)] * 256
    for op in pickletools.opcodes:
        taken = len(op.stack_before)
        if pickletools.markobject in op.stack_before:
            taken = -1 - op.stack_before.index(pickletools.markobject)
        effects[ord(op.code)] = (taken, len(op.stack_after))
    return effects


_EFFECT: Final = _stack_effects()


@dataclass
class State:
    """State of the lexer.

    Attributes:
        position: offset of the next opcode.
        stack: the weight of each item: that of a tuple, 2 for another item whose hash can be
            chosen, otherwise 1; negative for an item from the memo.
        starts: offset of the opcode that pushed each item; `~start` for an item of a row that was
            stepped over.
        marks: the height of the stack at each open mark.
        memo: the weight of each memoized item.
    """

    position: int = 2
    stack: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: array[int] = field(default_factory=lambda: array("H"))


class Repeats(Protocol):
    """Detector of the rows that a pickle repeats, which steps over them."""

    def closed(self, state: State, bottom: int, opcode: int) -> None:
        """Process a batch that SETITEMS, APPENDS, SETITEM or APPEND takes.

        Args:
            bottom: stack index of the first item of the batch; the container is below it.
        """

    def step(self, state: State) -> int:
        """Step over the rows that follow; return their last opcode, or 0 if there are no rows."""


def check(data: bytes) -> None:
    """Refuse a pickle that no checkpoint writer could have written.

    Raises:
        PickleError: with the byte offset and the opcode or value found there.
    """
    lex(data)


def lex(data: bytes, repeats: Repeats | None = None) -> State:
    """Check a pickle as `check` does and return the final state.

    Raises:
        PickleError: as in `check`; with `repeats` also if a skipped row does not belong to a table,
            if an item is changed through the memo (no pickler does that), or if a memo index is
            undefined.
    """
    size = len(data)
    if size < 2 or data[0] != 0x80 or data[1] not in PROTOCOLS:
        raise PickleError("is not a pickle of protocol 2 to 5" if size else "is empty")
    state = State()
    stack, starts, marks, memo = state.stack, state.starts, state.marks, state.memo
    position, opcode, referred, costly, chosen = state.position, _PROTO, 0, 0, 0
    while position < size:
        if opcode != _FRAME:
            before = opcode
            if repeats is not None and opcode in ENDS_A_ROW:
                state.position = position
                opcode = repeats.step(state) or opcode
                before, position = opcode, state.position
        start, opcode = position, data[position]
        width = ARGUMENT[opcode]
        position += 1
        if width is None or opcode == _PROTO:
            name = _NAMES.get(opcode, f"byte 0x{opcode:02x}")
            raise PickleError(f"has {name} at byte {start}, which no release writes")
        if width > 0:
            index = int.from_bytes(data[position : position + width], "little")
            position += width
        elif width == NEWLINES:
            for _ in range(2):
                position = data.find(b"\n", position) + 1
                if not position:
                    raise PickleError(f"ends inside the name of a global at byte {start}")
        elif width:
            length = int.from_bytes(data[position : position - width], "little")
            if opcode in _INTEGERS and length > LARGEST_INTEGER_BYTES:
                raise PickleError(f"has an integer of {length} bytes at byte {start}")
            position += length - width
        if opcode == _MEMOIZE or opcode in PUTS:
            if before in _MAKES_NOTHING or not stack:
                raise PickleError(f"memoizes the same object twice at byte {start}")
            if opcode == _MEMOIZE or index == len(memo):
                memo.append(stack[-1])
            elif index > len(memo):
                raise PickleError(f"skips memo indices before {index} at byte {start}")
            else:
                memo[index] = stack[-1]
        elif opcode in _GETS:
            # Without `repeats`, the C unpickler reports this. With `repeats`, it may not see the
            # row in between.
            if repeats is not None and index >= len(memo):
                raise PickleError(f"refers to a memo index that is not set at byte {start}")
            weight = memo[index] if index < len(memo) else 1
            if weight > 1:
                referred += weight
                if referred > HEAVIEST_REFERENCES:
                    raise PickleError(f"refers to tuples too often (at byte {start})")
            stack.append(-weight)
            starts.append(start)
        elif opcode == _MARK:
            marks.append(len(stack))
        elif opcode == _POP and marks and marks[-1] == len(stack):
            marks.pop()
        elif opcode == _STOP:
            break
        else:
            taken, left = _EFFECT[opcode]
            if taken < 0:
                bottom = (marks.pop() if marks else 0) + taken + 1
            else:
                bottom = len(stack) - taken
            if bottom < 0:
                raise PickleError(f"cannot be unpickled (the stack is empty at byte {start})")
            weight = 1
            if opcode in _KEYS:
                first, step = _KEYS[opcode]
                keys = stack[bottom + first :: step]
                if keys and (max(keys) > 1 or min(keys) < -1):
                    chosen += sum(abs(key) for key in keys if abs(key) > 1)
                    if chosen > HEAVIEST_KEYS:
                        raise PickleError("has too many tuples or large integers as keys")
            if opcode in _TUPLES:
                weight += sum(map(abs, stack[bottom:]))
                if weight > HEAVIEST_TUPLE:
                    raise PickleError(f"has a tuple of more than {HEAVIEST_TUPLE} items")
            elif opcode in _INTEGERS:
                weight += length > _UNCHOSEN_BYTES
            elif opcode in _COSTLY:
                weight += opcode == _FROZENSET
                costly += 1
                if costly > MOST_COSTLY:
                    raise PickleError(f"has more than {MOST_COSTLY} globals and sets")
            if repeats is not None:
                # Only the end of a batch may take rows that were stepped over, and only all of
                # them.
                own = starts[bottom : bottom + 1] if opcode in b"ue" else starts[bottom:]
                if min(own, default=0) < 0:
                    raise PickleError(f"uses a part of a row at byte {start}")
                # The row would differ from the row that was stepped over.
                if opcode in _CHANGES and stack[bottom] < 0:
                    raise PickleError(f"changes a memoized object at byte {start}")
                if opcode in _BATCHES:
                    state.position = start
                    repeats.closed(state, bottom + 1, opcode)
            if left:
                # An opcode that takes an item and leaves one continues the part where that item
                # starts.
                if bottom < len(stack):
                    start = starts[bottom]
                del stack[bottom:], starts[bottom:]
                stack.append(weight)
                starts.append(start)
            else:
                del stack[bottom:], starts[bottom:]
    else:
        raise PickleError(f"is truncated (no end after {size} bytes)")
    if position != size:
        raise PickleError(
            f"is truncated after {size} bytes"
            if position > size
            else f"has {size - position} bytes after its end"
        )
    state.position = position
    return state
