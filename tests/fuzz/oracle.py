"""What a mutant must come to: a clear error, or what Python's own pickle says of the same bytes.

The judge shares no code with `ckptmigrate.pickles`: it reads with the standard library's unpickler,
which a training job would run, and stand-in classes of its own.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import Any

from ckptmigrate.checkpoint import metadata
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.pickles import torch_file


class Wrong(AssertionError):
    """Neither a clear error nor a right result."""


class _Named(type):
    """A class that stands for a symbol; calling it says REDUCE, its __new__ says NEWOBJ."""

    where: tuple[str, str]

    def __call__(cls, *args: Any) -> Any:
        made = object.__new__(cls)
        made.told = [("call",), args]
        return made


class _Thing(metaclass=_Named):
    told: list[Any]

    def __new__(cls, *args: Any, **named: Any) -> Any:
        made = object.__new__(cls)
        made.told = [("new",), args, tuple(named.items())]
        return made

    def __setstate__(self, state: Any) -> None:
        self.told.append(("state", state))

    def __setitem__(self, key: Any, value: Any) -> None:
        self.told.append(("item", key, value))

    def append(self, value: Any) -> None:
        self.told.append(("append", value))

    def extend(self, values: Any) -> None:
        for value in values:
            self.append(value)

    def add(self, value: Any) -> None:
        self.told.append(("add", value))


class _Reference:
    def __init__(self, pid: Any) -> None:
        self.pid = pid


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _Named("stub", (_Thing,), {"where": (module, name)})


class _PlainWithStorages(_Plain):
    def persistent_load(self, pid: Any) -> Any:
        return _Reference(pid)


def unpickled(data: bytes, *, storages: bool) -> Any:
    """What the standard library says that a pickle holds."""
    kind = _PlainWithStorages if storages else _Plain
    return kind(io.BytesIO(data), fix_imports=False).load()


def same(a: Any, b: Any, *, sharing: bool = True) -> bool:
    """Whether two unpickled values are the same.

    Args:
        sharing: whether what is one object in one has to be one in the other, and objects have to
            come about in the same way; else only what comes of it counts.
    """
    known: dict[int, int] = {}
    pairs: set[tuple[int, int]] = set()
    todo = [(a, b)]
    while todo:
        a, b = todo.pop()
        if isinstance(a, _Named) and isinstance(b, _Named):
            if a.where != b.where:
                return False
            continue
        if type(a) is not type(b) and not (isinstance(a, _Thing) and isinstance(b, _Thing)):
            return False
        if isinstance(a, (dict, list, tuple, set, frozenset, _Thing, _Reference)):
            if not sharing:
                if (id(a), id(b)) in pairs:
                    continue
                pairs.add((id(a), id(b)))
            elif id(a) in known:
                if known[id(a)] != id(b) and not isinstance(a, (tuple, frozenset)):
                    return False
                continue
            known[id(a)] = id(b)
            left, right = _inside(a, sharing), _inside(b, sharing)
            if len(left) != len(right):
                return False
            todo += zip(left, right, strict=True)
        elif a != b and not (a != a and b != b):
            return False
    return True


def _inside(value: Any, history: bool) -> list[Any]:
    if isinstance(value, _Thing):
        told = value.told
        if not history:  # a state takes the place of the one before
            states = [n for n, part in enumerate(told) if _is_state(part)]
            told = [part for n, part in enumerate(told) if n not in states[:-1]]
        return [type(value), *told]
    if isinstance(value, _Reference):
        return [value.pid]
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    if isinstance(value, (set, frozenset)):
        return sorted((part for part in value if not isinstance(part, _Thing)), key=repr)
    return list(value)


def judge(kind: str, data: bytes) -> bool:
    """Whether a mutant was accepted, and rightly so; False for a clear error.

    Raises:
        Wrong: it was accepted and means something else, or the error is not a clear one.
        Exception: a crash.
    """
    try:
        if kind == "metadata":
            found = metadata.load(data)
            written = found.dump()
        else:
            file = torch_file.load(data)
            written = torch_file.dump(file)
    except CkptMigrateError as error:
        _check_clear(error)
        return False
    if kind == "metadata":
        if written != data:
            _check_same(data, written, storages=False)
        _check_view(found, data)
    else:
        _check_archive(data, written)
    return True


def _check_clear(error: CkptMigrateError) -> None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            raise Wrong("it ran out of memory") from error
        cause = cause.__cause__
    text = str(error)
    if not text.strip() or not text.isprintable():
        raise Wrong(f"the error is no clear one: {text!r}")


def _check_same(data: bytes, written: bytes, *, storages: bool) -> None:
    try:
        plain = unpickled(data, storages=storages)
    except Exception as error:
        raise Wrong(f"accepted, and Python says {type(error).__name__}: {error}") from error
    if not same(plain, unpickled(written, storages=storages)):
        raise Wrong("written back as something else")


def _check_view(found: metadata.Metadata, data: bytes) -> None:
    """What `Metadata` says of entries and byte ranges is what the pickle holds."""
    plain = unpickled(data, storages=False)
    attributes = _state(plain)
    if list(found.entries) != list(attributes["state_dict_metadata"]):
        raise Wrong("other entries")
    rows = []
    for index, where in attributes["storage_data"].items():
        key, place = _state(index), _state(where)
        offset = key.get("offset")
        offsets = None if offset is None else offset.told[1][0]
        row = (key["fqn"], offsets, place["relative_path"], place["offset"], place["length"])
        rows.append(row)
    told = [(c.key, c.offsets, c.blob.file, c.blob.offset, c.blob.length) for c in found.chunks]
    if rows != told:
        raise Wrong("other byte ranges")


def _state(thing: Any) -> Any:
    return [part for part in thing.told if _is_state(part)][-1][1]


def _is_state(part: Any) -> bool:
    return isinstance(part, tuple) and part[:1] == ("state",)


def _check_archive(data: bytes, written: bytes) -> None:
    before, after = _members(data), _members(written)
    names = [name for name, _ in before]
    if names != [name for name, _ in after]:
        raise Wrong("other members")
    for (name, old), (_, new) in zip(before, after, strict=True):
        if old != new and not name.endswith("/data.pkl"):
            raise Wrong(f"another {name}")
        if old != new:
            _check_same(old, new, storages=True)


def _members(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        return [(info.filename, zipped.read(info)) for info in zipped.infolist()]
