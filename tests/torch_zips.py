"""Zips as `torch.save` writes them, and zips that two readers may read as different files.

Written from what torch's files look like, not with the package's own writer.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

FLAGS, DESCRIPTOR = 0x800, 0x8


@dataclass
class Entry:
    """A member; `local` and `central` set fields of its headers other than torch does.

    Fields: signature, made, needed, flags, method, time, date, crc, packed, size, name, extra,
    comment, disk, inner, outer, offset.
    """

    name: str | bytes
    body: bytes
    local: Mapping[str, Any] = field(default_factory=dict)
    central: Mapping[str, Any] = field(default_factory=dict)
    before: bytes = b""
    descriptor: bytes | None = None

    @property
    def path(self) -> bytes:
        return self.name.encode() if isinstance(self.name, str) else self.name


def build(
    entries: Sequence[Entry],
    *,
    start: bytes = b"",
    between: bytes = b"",
    end: Mapping[str, Any] | None = None,
    end64: Mapping[str, Any] | None = None,
    locator: Mapping[str, Any] | None = None,
    base: int = 0,
) -> bytes:
    """Return the bytes of a zip.

    Args:
        start: bytes before the first member.
        between: bytes between the members and the central directory.
        end, end64, locator: fields of the last records other than torch sets.
        base: what is added to every offset that is written.
    """
    out, central = bytearray(start), bytearray()
    for entry in entries:
        path, body = entry.path, entry.body
        out += entry.before
        crc = zlib.crc32(body)
        row: dict[str, Any] = {
            "made": 0, "needed": 0, "flags": FLAGS | (DESCRIPTOR if body else 0), "method": 0,
            "time": 0, "date": 0, "crc": crc, "packed": len(body), "size": len(body),
            "name": path, "extra": b"", "comment": b"", "disk": 0, "inner": 0, "outer": 0,
            "offset": len(out) + base,
        }  # fmt: skip
        padding = -(len(out) + 30 + len(path) + 4) % 64
        local = {
            **row, "signature": b"PK\3\4", "crc": 0, "packed": 0, "size": 0,
            "extra": struct.pack("<2sH", b"FB", padding) + b"Z" * padding, **entry.local,
        }  # fmt: skip
        out += struct.pack(
            "<4s5H3I2H", *(local[k] for k in ("signature", "needed", "flags", "method", "time",
                                              "date", "crc", "packed", "size")),
            len(local["name"]), len(local["extra"]),
        )  # fmt: skip
        out += local["name"] + local["extra"] + body
        told = struct.pack("<4s3I", b"PK\7\10", crc, len(body), len(body)) if body else b""
        out += told if entry.descriptor is None else entry.descriptor
        row = {**row, "signature": b"PK\1\2", **entry.central}
        central += struct.pack(
            "<4s6H3I5H2I", *(row[k] for k in ("signature", "made", "needed", "flags", "method",
                                              "time", "date", "crc", "packed", "size")),
            len(row["name"]), len(row["extra"]), len(row["comment"]), row["disk"], row["inner"],
            row["outer"], row["offset"],
        )  # fmt: skip
        central += row["name"] + row["extra"] + row["comment"]
    out += between
    count, at = len(entries), len(out)
    out += central
    last64 = {
        "signature": b"PK\6\6", "length": 44, "made": 0x031E, "needed": 45, "disk": 0, "first": 0,
        "here": count, "count": count, "size": len(central), "at": at + base, "more": b"",
        **(end64 or {}),
    }  # fmt: skip
    place = {"signature": b"PK\6\7", "disk": 0, "at": len(out) + base, "disks": 1}
    place |= locator or {}
    last = {
        "signature": b"PK\5\6", "disk": 0, "first": 0, "here": min(count, 0xFFFF),
        "count": min(count, 0xFFFF), "size": len(central), "at": at + base, "comment": b"",
        **(end or {}),
    }  # fmt: skip
    more, comment = last64.pop("more"), last.pop("comment")
    out += struct.pack("<4sQ2H2I4Q", *last64.values()) + more
    out += struct.pack("<4sIQI", *place.values())
    out += struct.pack("<4s4H2IH", *last.values(), len(comment)) + comment
    return bytes(out)


def zipped(members: Sequence[tuple[str, bytes]]) -> bytes:
    """Return a zip of (whole name, bytes) as torch writes it, whatever the names."""
    return build([Entry(name, body) for name, body in members])


def differentials(members: Sequence[tuple[str, bytes]], other: bytes) -> dict[str, bytes]:
    """Return zips that one reader takes for `members` and another may not, by name.

    Args:
        members: of a file as torch writes it, by whole names, data.pkl first.
        other: another data.pkl, to be found by some reader.
    """
    plain = [Entry(*each) for each in members]
    name = members[0][0]
    folder = name.partition("/")[0]
    twin = Entry(name, other)
    hidden = build([twin, *plain[1:]])
    whole = build(plain)

    def first(**changes: Any) -> bytes:
        return build([replace(plain[0], **changes), *plain[1:]])

    def unicode_path(to: bytes) -> bytes:
        return struct.pack("<HHBI", 0x7075, 5 + len(to), 1, zlib.crc32(name.encode())) + to

    quoted = Entry(f"{folder}/data/7", hidden)
    inside = build([plain[0], quoted, *plain[1:]])
    at = inside.index(hidden)
    record64 = at + len(hidden) - 98
    listed = hidden[hidden.index(b"PK\1\2") : -98]
    record = struct.pack(
        "<4sQ2H2I4Q", b"PK\6\6", 44, 0x31E, 45, 0, 0, len(plain), len(plain), len(listed),
        at + hidden.index(b"PK\1\2"),
    )  # fmt: skip
    far = build([twin, *plain[1:]], base=at)  # the same, with offsets that hold inside of the file
    quoting = build([plain[0], Entry(f"{folder}/data/7", far), *plain[1:]])
    full = {"here": 0xFFFF, "count": 0xFFFF, "size": 0xFFFFFFFF, "at": 0xFFFFFFFF}
    body = members[0][1]
    found = {
        "twin by case of the folder": build([*plain, Entry(f"{folder.upper()}/data.pkl", other)]),
        "folder by case, first": build([Entry(f"{folder.upper()}/x", b"x"), *plain, twin]),
        "twin of version": build([*plain, Entry(f"{folder}/VERSION", b"9999\n")]),
        "twin": build([*plain, twin]),
        "twin, first": build([twin, *plain]),
        "two folders": build([Entry("other/data.pkl", other), *plain]),
        "two files, one after the other": whole + hidden,
        "two files, the other way round": hidden + whole,
        "two files, offsets of the second set": whole
        + build([twin, *plain[1:]], base=len(whole)),
        "two files, the second without ends": build(plain, between=listed),
        "end record elsewhere": build(plain, between=listed, end={"size": len(listed)}),
        "end record of another directory": build(
            [plain[0], quoted, *plain[1:]],
            end={"size": len(listed), "at": at + hidden.index(b"PK\1\2")},
        ),
        "end records of another directory": build(
            [plain[0], quoted, *plain[1:]],
            end={"size": len(listed), "at": at + hidden.index(b"PK\1\2")},
            end64={"size": len(listed), "at": at + hidden.index(b"PK\1\2")},
        ),
        "ZIP64 record of another directory": build(
            [plain[0], quoted, *plain[1:]],
            end64={"size": len(listed), "at": at + hidden.index(b"PK\1\2")},
        ),
        "ZIP64 locator elsewhere": build(
            [plain[0], quoted, *plain[1:]], locator={"at": record64}
        ),
        "ZIP64 locator elsewhere, full": build(
            [plain[0], quoted, *plain[1:]], locator={"at": record64}, end=full
        ),
        "ZIP64 locator into a member": build(
            [plain[0], Entry(f"{folder}/data/7", far), *plain[1:]],
            locator={"at": quoting.index(far) + len(far) - 98},
            end=full,
        ),
        "ZIP64 locator into a member, offsets not set": build(
            [plain[0], Entry(f"{folder}/data/7", far), *plain[1:]],
            locator={"at": quoting.index(far) + len(far) - 98},
        ),
        "ZIP64 record twice": build(plain, between=record),
        "ZIP64 record, longer": build(plain, end64={"length": 64, "more": b"x" * 20}),
        "full end record": build(plain, end=full),
        "comment": build(plain, end={"comment": b"nothing"}),
        "comment with a zip": build(plain, end={"comment": hidden}),
        "comment with an end": build(plain, end={"comment": hidden[-22:]}),
        "disk of the end": build(plain, end={"disk": 1}),
        "disk of the directory": build(plain, end={"first": 1}),
        "disk of the ZIP64 record": build(plain, end64={"disk": 1}),
        "disk of the locator": build(plain, locator={"disk": 1}),
        "disks": build(plain, locator={"disks": 2}),
        "disk of a member": first(central={"disk": 1}),
        "fewer members": build(plain, end={"here": 1, "count": 1}),
        "fewer members in the ZIP64 record": build(plain, end64={"here": 1, "count": 1}),
        "more members": build(plain, end={"here": 99, "count": 99}),
        "Unicode path": first(central={"extra": unicode_path(f"{folder}/x".encode())}),
        "Unicode path of a twin": build(
            [*plain, Entry(f"{folder}/x", other, central={"extra": unicode_path(name.encode())})]
        ),
        "Unicode path, local": first(local={"extra": unicode_path(f"{folder}/x".encode())}),
        "ZIP64 field": first(central={"extra": struct.pack("<2HQ", 1, 8, 2**40)}),
        "ZIP64 sizes": first(
            central={
                "extra": struct.pack("<2H2Q", 1, 16, len(body), len(body)),
                "size": 2**32 - 1, "packed": 2**32 - 1,
            }
        ),
        "ZIP64 offset": first(
            central={"extra": struct.pack("<2HQ", 1, 8, at), "offset": 2**32 - 1}
        ),
        "local name": first(local={"name": f"{folder}/Data.pkl".encode()}),
        "local name, longer": first(local={"name": name.encode() + b"x" * 8}),
        "central name": first(central={"name": f"{folder}/x".encode()}),
        "central name by case": first(central={"name": f"{folder}/DATA.pkl".encode()}),
        "local extra, shorter": first(local={"extra": b""}),
        "local extra, of another kind": first(local={"extra": struct.pack("<2HI", 0xCAFE, 4, 0)}),
        "local padding of other bytes": first(local={"extra": b"FB\x12\0" + b"A" * 18}),
        "local sizes": first(local={"size": len(body), "packed": len(body)}),
        "local sizes, wrong": first(local={"size": 3, "packed": 3}),
        "local CRC": first(local={"crc": 1}),
        "central CRC": first(central={"crc": 1}),
        "central size": first(central={"size": len(body) - 1, "packed": len(body) - 1}),
        "central packed size": first(central={"packed": len(body) - 1}),
        "no descriptor": first(descriptor=b""),
        "descriptor of another CRC": first(
            descriptor=struct.pack("<4s3I", b"PK\7\10", 1, len(body), len(body))
        ),
        "descriptor of other sizes": first(
            descriptor=struct.pack("<4s3I", b"PK\7\10", zlib.crc32(body), 3, 3)
        ),
        "descriptor without a signature": first(
            descriptor=struct.pack("<3I", zlib.crc32(body), len(body), len(body))
        ),
        "ZIP64 descriptor": first(
            descriptor=struct.pack("<4sI2Q", b"PK\7\10", zlib.crc32(body), len(body), len(body))
        ),
        "offset of another member": build(
            [
                plain[0],
                replace(twin, name=f"{folder}/data/7", local={"name": name.encode()}),
                *plain[1:],
            ]
        ),
        "offset of another member, too": build(
            [
                replace(plain[0], central={"offset": len(build(plain[:1])) - 98 - 46 - len(name)}),
                replace(twin, local={}), *plain[1:],
            ]
        ),
        "member comment": first(central={"comment": b"x"}),
        "a directory": build([*plain, Entry(f"{folder}/data/", b"")]),
        "a directory by its attributes": first(central={"outer": 0x10}),
        "a link by its attributes": first(central={"made": 0x300, "outer": 0o120777 << 16}),
        "bytes before": build(plain, start=b"#!/bin/sh\n"),
        "bytes before, offsets not set": b"#!/bin/sh\n" + whole,
        "bytes after": whole + b"\n",
        "a zip before": hidden[:-98] + build(plain, base=len(hidden) - 98),
        "bytes between members": build([plain[0], replace(plain[1], before=b"x" * 64), *plain[2:]]),
        "a hidden member between": build(
            [plain[0], replace(plain[1], before=hidden[: hidden.index(b"PK\7\10") + 16]),
             *plain[2:]]
        ),
        "bytes before the directory": build(plain, between=b"x" * 64),
        "TorchScript": build([*plain, Entry(f"{folder}/constants.pkl", other)]),
        "TorchScript code": build([*plain, Entry(f"{folder}/code/__torch__.py", b"pass")]),
        "version of the future": _with(plain, "version", b"11\n"),
        "version of zero": _with(plain, "version", b"0\n"),
        "no version": [e for e in plain if not e.path.endswith(b"/version")],
        "byte order": _with(plain, "byteorder", b"middle"),
        "no data.pkl": plain[1:],
        "no folder": [Entry(e.path.partition(b"/")[2], e.body) for e in plain],
        "empty folder": [Entry(b"/" + e.path.partition(b"/")[2], e.body) for e in plain],
        "NUL in the folder": [Entry(b"a\0" + e.path, e.body) for e in plain],
        "not UTF-8": [Entry(b"\xff" + e.path, e.body) for e in plain],
    }  # fmt: skip
    for at, spelling in enumerate(("data.pkl", "Data.pkl", "DATA.PKL", "data.PKL", "datA.pkl")):
        found[f"twin by case, {spelling}"] = build([*plain, Entry(f"{folder}/{spelling}", other)])
        for more in range(1, 4):  # where a binary search meets one of the two first depends on it
            entries = [*plain, *(Entry(f"{folder}/x{n}", b"") for n in range(more))]
            entries.insert(at + more, Entry(f"{folder}/{spelling}", other))
            found[f"twin by case, {spelling} of {len(entries)}"] = build(entries)
    for bit in range(16):
        flags = (FLAGS | DESCRIPTOR) ^ (1 << bit)
        found[f"flag {bit}"] = first(local={"flags": flags}, central={"flags": flags})
        found[f"flag {bit}, local"] = first(local={"flags": flags})
        found[f"flag {bit}, central"] = first(central={"flags": flags})
    for method in (1, 8, 12, 14, 95, 99):
        found[f"method {method}"] = first(local={"method": method}, central={"method": method})
    for odd in (
        "\0",
        "data.pkl\0",
        "data.pkl\0x",
        "\0data.pkl",
        "data\\8",
        "./data.pkl",
        "/data.pkl",
        "../data.pkl",
        "data/../data.pkl",
        "data.pkl/",
        "DATA/0",
        "data/\uff18",
        "\ufb01",
        "\u0130",
        "K",
    ):
        found[f"member {odd!r}"] = build([*plain, Entry(f"{folder}/{odd}", other)])
        found[f"member {odd!r}, first"] = build([Entry(f"{folder}/{odd}", other), *plain])
    return {name: data if isinstance(data, bytes) else build(data) for name, data in found.items()}


def _with(entries: Sequence[Entry], name: str, body: bytes) -> list[Entry]:
    """The same with one content set, whether there is such a member or not."""
    path = entries[0].path.partition(b"/")[0] + b"/" + name.encode()
    return [*(e for e in entries if e.path != path), Entry(path, body)]


def changed_bytes(data: bytes, members: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
    """Yield the file with each byte outside of the members' contents changed, in several ways."""
    inside = set()
    at = 0
    for _, body in members:
        if body:
            at = data.index(b"PK\3\4", at)
            at += 30 + sum(struct.unpack_from("<2H", data, at + 26))
            inside |= {*range(at, at + len(body))}
    for at, byte in enumerate(data):
        if at not in inside:
            for new in {0, 0xFF, byte ^ 1, byte ^ 0x20, (byte + 8) % 256} - {byte}:
                yield data[:at] + bytes([new]) + data[at + 1 :]


def shuffled(data: bytes, random: Random, count: int) -> Iterator[bytes]:
    """Yield the file with runs of it moved, repeated, removed, or numbers of records changed."""
    marks = [at for at in range(len(data)) if data[at : at + 2] == b"PK"]
    for _ in range(count):
        a, b, c = sorted(random.choice(marks) + random.randrange(-2, 60) for _ in range(3))
        a = max(a, 0)
        way = random.randrange(5)
        if way == 0:
            yield data[:a] + data[b:]
        elif way == 1:
            yield data[:b] + data[a:]
        elif way == 2:
            yield data[:a] + data[b:c] + data[a:b] + data[c:]
        else:
            width = random.choice((2, 4, 8))
            new = random.choice((0, 1, a, b, len(data), 2**16 - 1, 2**32 - 1, 2**64 - 1))
            packed = (new % 2 ** (8 * width)).to_bytes(width, "little")
            yield data[:a] + packed + data[a + width :]
