"""Bound a pickle before any machine runs it.

A lexer over the opcodes, which refuses what no pickler of protocol 2 to 5 writes (EXT codes,
INST, OBJ, the text opcodes of protocol 0), memo indexes that run ahead of the memo (on
CPython up to 3.11 five bytes of LONG_BINPUT allocate hundreds of megabytes), oversized
integers, bytes after STOP, and tuples that share tuples until their hash takes for ever.
"""

from __future__ import annotations

import pickletools
from typing import Final

from ckptmigrate.errors import PickleError

PROTOCOLS: Final = range(2, 6)
# Python hashes a tuple item by item, shared ones again and again: thirty tuples of two references
# to the one before cost 2**30 steps as a key. A pickle that refers to few tuples is harmless, one
# that refers to many is looked at closely (`_check_tuples`).
_FEW_TUPLE_REFERENCES: Final = 8
LARGEST_TUPLE: Final = 1_000_000  # items, shared ones counted each time
LARGEST_INTEGER_BYTES: Final = 4096

# What the C pickler emits for protocols 2 to 5 (CPython Modules/_pickle.c, save_*).
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

# For each opcode byte: the size of a fixed argument, or minus the size of the
# little-endian length that precedes a variable one, or None where it is not allowed.
_SIZED: Final = {
    "uint1": 1, "uint2": 2, "uint4": 4, "uint8": 8, "int4": 4, "float8": 8,
    "long1": -1, "long4": -4, "string1": -1, "string4": -4,
    "unicodestring1": -1, "unicodestring4": -4, "unicodestring8": -8,
    "bytes1": -1, "bytes4": -4, "bytes8": -8, "bytearray8": -8,
}  # fmt: skip
_NEWLINES: Final = -100  # GLOBAL: two lines of text


def _table() -> list[int | None]:
    table: list[int | None] = [None] * 256
    for op in pickletools.opcodes:
        if op.name not in _ALLOWED:
            continue
        if op.name == "GLOBAL":
            table[ord(op.code)] = _NEWLINES
        else:
            table[ord(op.code)] = _SIZED[op.arg.name] if op.arg else 0
    return table


_ARGUMENT: Final = _table()
_STOP, _PUT, _LONG_PUT, _MEMOIZE = ord("."), ord("q"), ord("r"), 0x94
_LONG1, _LONG4 = 0x8A, 0x8B
_GETS: Final = frozenset(b"hj")
_TUPLES: Final = frozenset(b"t\x85\x86\x87")


def check(data: bytes) -> None:
    """Refuse a pickle that no checkpoint writer could have written.

    Raises:
        PickleError: with the byte offset and what was found there.
    """
    size = len(data)
    if size < 2 or data[0] != 0x80 or data[1] not in PROTOCOLS:
        raise PickleError("is not a pickle of protocol 2 to 5" if size else "is empty")
    position, memoized, argument = 0, 0, _ARGUMENT
    opcode, references = 0, 0
    tuples: set[int] = set()  # memo indexes of tuples
    while position < size:
        before, opcode = opcode, data[position]
        width = argument[opcode]
        start = position
        position += 1
        if width is None:
            name = _NAMES.get(opcode, f"byte 0x{opcode:02x}")
            raise PickleError(f"has {name} at byte {start}, which no checkpoint writer emits")
        if width >= 0:
            if opcode == _MEMOIZE:
                if before in _TUPLES:
                    tuples.add(memoized)
                memoized += 1
            elif opcode in _GETS:
                index = int.from_bytes(data[position : position + width], "little")
                references += index in tuples
            elif opcode in (_PUT, _LONG_PUT):
                index = int.from_bytes(data[position : position + width], "little")
                if index > memoized:
                    raise PickleError(f"has memo index {index} ahead of its memo at byte {start}")
                if before in _TUPLES:
                    tuples.add(index)
                memoized = max(memoized, index + 1)
            position += width
            if opcode == _STOP:
                break
        elif width == _NEWLINES:
            for _ in range(2):
                position = data.find(b"\n", position) + 1
                if not position:
                    raise PickleError(f"ends inside the symbol name at byte {start}")
        else:
            length = int.from_bytes(data[position : position - width], "little")
            if opcode in (_LONG1, _LONG4) and length > LARGEST_INTEGER_BYTES:
                raise PickleError(f"has an integer of {length} bytes at byte {start}")
            position += length - width
    else:
        raise PickleError(f"is truncated: {size} bytes without an end")
    if position != size:
        raise PickleError(
            f"is truncated after {size} bytes"
            if position > size
            else f"has {size - position} bytes after its end"
        )
    if references > _FEW_TUPLE_REFERENCES:
        _check_tuples(data)


def _check_tuples(data: bytes) -> None:
    """Refuse a pickle with a tuple of more than LARGEST_TUPLE items, shared ones counted anew.

    Runs the opcodes on a stack of such counts. Everything but a tuple counts one: lists, dicts
    and sets have no hash, and that of a frozenset or an object does not look at its items again.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    for opcode, argument, _ in pickletools.genops(data):
        name, taken = opcode.name, opcode.stack_before
        index = argument if isinstance(argument, int) else 0
        if name == "MARK":
            marks.append(len(stack))
        elif name == "POP" and marks and marks[-1] == len(stack):
            marks.pop()
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if name == "MEMOIZE" else index] = stack[-1] if stack else 1
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo.get(index, 1))
        else:
            if pickletools.markobject in taken:
                below_mark = taken.index(pickletools.markobject)
                start = (marks.pop() if marks else 0) - below_mark
            else:
                start = len(stack) - len(taken)
            items = stack[max(start, 0) :]
            del stack[max(start, 0) :]
            if opcode.stack_after:
                stack.append(1 + sum(items) if name.startswith("TUPLE") else 1)
                if stack[-1] > LARGEST_TUPLE:
                    raise PickleError(f"has a tuple of more than {LARGEST_TUPLE} shared items")
