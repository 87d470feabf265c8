"""A model of a disk that keeps what was synced, and of everything else whatever it likes.

What is assumed of a file system, and no more:

- `fsync` of a file puts its bytes and permissions on disk, not its name.
- `fsync` of a directory puts on disk the names made, moved and removed in it. A rename between two
  directories is on disk once both were synced.
- What was not synced may have happened or not, each name by itself, in any combination; only
  operations on one name keep their order. A rename happens whole or not at all.
- Bytes that were not synced may all be there, or half of them, or none, or zeros in their place.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scenarios import LONG_AGO


@dataclass(frozen=True)
class Call:
    """One writing system call, as the shim recorded it."""

    name: str
    path: str
    other: str
    first: int
    second: int
    data: bytes


def parse(log: bytes) -> list[Call]:
    """The calls of a record (shim.c, note)."""
    calls = []
    start = 0
    while start < len(log):
        end = log.index(b"\n", start)
        name, path, other, first, second, size = log[start:end].decode().split("\t")
        start = end + 1 + int(size)
        calls.append(Call(name, path, other, int(first), int(second), log[end + 1 : start]))
    return calls


@dataclass
class Node:
    """A file, directory or link: as the running system sees it, and what of it is on disk."""

    kind: str  # "file", "directory", "link"
    mode: int
    content: bytes = b""
    synced_mode: int = 0
    synced_content: bytes = b""
    dated: bool = False  # whether its time of change is that of a file from before
    synced_dated: bool = False
    names: dict[str, Node] = field(default_factory=dict)
    synced_names: dict[str, Node] = field(default_factory=dict)

    def contents(self) -> list[bytes]:
        """What its bytes may be after a crash."""
        if self.content == self.synced_content:
            return [self.content]
        size = len(self.content)
        return [self.synced_content, self.content[: size // 2], bytes(size), self.content]


@dataclass
class Change:
    """Names that change together: (directory, name, what it then names)."""

    parts: tuple[tuple[Node, str, Node | None], ...]
    unsynced: list[Node]

    def touches(self, other: Change) -> bool:
        mine = {(id(place), name) for place, name, _ in self.parts}
        return any((id(place), name) in mine for place, name, _ in other.parts)


# A state of a tree: path -> (kind, mode, bytes, whether its time is that of a file from before).
State = dict[str, tuple[str, int, bytes, bool]]


class Disk:
    """A tree below a folder, call by call."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)
        self.pending: list[Change] = []
        self.root = self._load(place)

    def _load(self, path: Path) -> Node:
        status = path.lstat()
        mode, dated = stat.S_IMODE(status.st_mode), status.st_mtime_ns == LONG_AGO
        if path.is_symlink():
            node = Node("link", mode, os.readlink(path).encode(), dated=dated)
        elif path.is_dir():
            node = Node("directory", mode, dated=dated)
            node.names = {item.name: self._load(item) for item in path.iterdir()}
            node.synced_names = dict(node.names)
        else:
            node = Node("file", mode, path.read_bytes(), dated=dated)
        _write_back(node)
        return node

    def _find(self, path: str) -> Node:
        node = self.root
        for name in path.removeprefix(self.place).strip("/").split("/"):
            node = node.names[name] if name else node
        return node

    def _split(self, path: str) -> tuple[Node, str]:
        folder, _, name = path.rpartition("/")
        return self._find(folder), name

    def _change(self, *parts: tuple[Node, str, Node | None]) -> None:
        folders: list[Node] = []
        for folder, name, node in parts:
            if node is None:
                del folder.names[name]
            else:
                folder.names[name] = node
            if not any(folder is other for other in folders):
                folders.append(folder)
        self.pending.append(Change(parts, folders))

    def apply(self, call: Call) -> None:
        """What a call does, as the running system sees it."""
        if call.name == "open":
            folder, name = self._split(call.path)
            if name not in folder.names:
                mode = call.second & ~0o022
                self._change((folder, name, Node("file", mode, synced_mode=mode)))
            elif call.first & os.O_TRUNC:
                folder.names[name].content = b""
        elif call.name == "write":
            node = self._find(call.path)
            padded = node.content.ljust(call.first, b"\0")
            node.content = padded[: call.first] + call.data + padded[call.first + len(call.data) :]
        elif call.name == "fsync":
            self._sync(self._find(call.path))
        elif call.name == "chmod":
            self._find(call.path).mode = call.first
        elif call.name == "mkdir":
            folder, name = self._split(call.path)
            mode = call.first & ~0o022
            self._change((folder, name, Node("directory", mode, synced_mode=mode)))
        elif call.name == "symlink":
            node = Node("link", 0o777, call.data, 0o777, call.data)
            self._change((*self._split(call.path), node))
        elif call.name == "link":
            self._change((*self._split(call.other), self._find(call.path)))
        elif call.name == "unlink":
            self._change((*self._split(call.path), None))
        elif call.name == "rename":
            node = self._find(call.path)
            self._change((*self._split(call.path), None), (*self._split(call.other), node))
        elif call.name == "utimes":
            self._find(call.path).dated = True
        elif call.name not in ("xattr", "chown"):  # not looked at afterwards
            raise NotImplementedError(call.name)

    def _sync(self, node: Node) -> None:
        _write_back(node)
        left: list[Change] = []
        for change in self.pending:
            change.unsynced = [folder for folder in change.unsynced if folder is not node]
            if change.unsynced or any(change.touches(earlier) for earlier in left):
                left.append(change)
            else:
                for folder, name, child in change.parts:
                    _put(folder.synced_names, name, child)
        # What happens in a folder that is gone for good changes nothing any more.
        there = {id(n) for root in (False, True) for n in _below(self.root, synced=root)}
        there |= {
            id(n)
            for change in left
            for _, _, child in change.parts
            if child is not None
            for synced in (False, True)
            for n in _below(child, synced=synced)
        }
        self.pending = [c for c in left if any(id(folder) in there for folder, _, _ in c.parts)]

    def states(self, most: int) -> Iterator[tuple[State, bool]]:
        """What may be found after a crash now: all of it, or a fixed sample of so many.

        With each state, whether it is of a sample.
        """
        subsets, sampled = self._subsets(most)
        known: dict[int, list[_Choice]] = {}
        for number, chosen in enumerate(subsets):
            names: dict[int, dict[str, Node]] = {}
            for change in chosen:
                for folder, name, child in change.parts:
                    copy = names.setdefault(id(folder), dict(folder.synced_names))
                    _put(copy, name, child)
            found: list[tuple[str, Node]] = []
            _walk(self.root, "", names, found)
            for state, one_of_many in _with_contents(found, most, number, known):
                yield state, sampled or one_of_many

    def _subsets(self, most: int) -> tuple[list[list[Change]], bool]:
        """Which of the pending changes may be on disk, and whether it is only a sample of them.

        Changes of one name happen in order.
        """
        earlier = [
            [number for number, other in enumerate(self.pending[:later]) if change.touches(other)]
            for later, change in enumerate(self.pending)
        ]
        found = [frozenset[int]()]
        for later, needed in enumerate(earlier):
            found += [done | {later} for done in found if done.issuperset(needed)]
            if len(found) > most:
                break
        sampled = len(found) > most
        if sampled:
            chance = random.Random(len(self.pending))
            found = [frozenset(), frozenset(range(len(self.pending)))]
            for _ in range(most):
                done, share = set[int](), chance.random()
                for later, needed in enumerate(earlier):
                    if chance.random() < share and done.issuperset(needed):
                        done.add(later)
                found.append(frozenset(done))
        return [[self.pending[number] for number in sorted(done)] for done in found], sampled


def _write_back(node: Node) -> None:
    node.synced_mode, node.synced_dated = node.mode, node.dated
    node.synced_content = node.content


def _put(names: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def _below(node: Node, *, synced: bool) -> Iterator[Node]:
    yield node
    for child in (node.synced_names if synced else node.names).values():
        yield from _below(child, synced=synced)


def _walk(
    node: Node, path: str, names: dict[int, dict[str, Node]], found: list[tuple[str, Node]]
) -> None:
    for name, child in sorted(names.get(id(node), node.synced_names).items()):
        found.append((f"{path}{name}", child))
        if child.kind == "directory":
            _walk(child, f"{path}{name}/", names, found)


_Choice = tuple[tuple[int, bool], bytes]  # (mode, whether its time is an old one), bytes


def _with_contents(
    found: list[tuple[str, Node]], most: int, seed: int, known: dict[int, list[_Choice]]
) -> Iterator[tuple[State, bool]]:
    choices = []
    for _, node in found:
        if id(node) not in known:
            about = dict.fromkeys([(node.synced_mode, node.synced_dated), (node.mode, node.dated)])
            known[id(node)] = [(a, content) for a in about for content in node.contents()]
        choices.append(known[id(node)])
    count = math.prod(map(len, choices))
    picks: Iterator[tuple[_Choice, ...]] = itertools.product(*choices)
    if count > most:
        chance = random.Random(seed)
        picks = iter([tuple(chance.choice(each) for each in choices) for _ in range(most)])
    for pick in picks:
        state = {
            path: (node.kind, mode, content, dated)
            for (path, node), ((mode, dated), content) in zip(found, pick, strict=True)
        }
        yield state, count > most
