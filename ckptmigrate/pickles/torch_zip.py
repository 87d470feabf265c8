"""Byte-exact reader and writer of the zip that `torch.save` writes; other zips are refused.

Two readers of one zip can find different members: torch (miniz) ignores case in names, finds the
central directory by its stated offset and ignores checksums; Python does none of these. So this
module looks nothing up. The folder, the members and two settings determine every byte that
`torch.save` writes. A file is read by writing it again and comparing the bytes.

Source: PyTorchStreamWriter (caffe2/serialize/inline_container.cc) of torch 1.13 to 2.14: stored
members, each aligned by an `FB` extra field, sizes in data descriptors, always a ZIP64 end record.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ckptmigrate.errors import PickleError

PICKLE: Final = "data.pkl"
STORAGES: Final = "data/"  # start of the names of tensor storages
Fetch = Callable[[int, int], bytes]  # parameters: offset, size
_ALIGNMENT: Final = ".storage_alignment"  # torch 2.7 and later store the setting in the file
_DEFAULT_ALIGNMENT: Final = 64
_LARGEST: Final = 2**32 - 2  # bytes; larger files are read only in outline
_ZIP64: Final = 2**32 - 1  # a size or an offset from here on is in a ZIP64 field
_MOST_MEMBERS: Final = 1_000_000
_LATE: Final = "there are bytes before its first member"
_SEARCHED: Final = 1024**2  # bytes that are searched for the start of a zip

_FLAGS: Final = 0x0800  # UTF-8 names
_DESCRIPTOR: Final = 0x0008  # sizes are in a data descriptor; not for an empty member
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_SIZES: Final = struct.Struct("<4s3I")
_SIZES64: Final = struct.Struct("<4sI2Q")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_END64: Final = struct.Struct("<4sQ2H2I4Q")
_LOCATOR: Final = struct.Struct("<4sIQI")
_END: Final = struct.Struct("<4s4H2IH")
_ENDS: Final = _END64.size + _LOCATOR.size + _END.size

_FOLDER: Final = re.compile(r"[^/\0]+")
# The members that torch.save writes, and the contents that torch.load accepts. Others are refused:
# a file with constants.pkl is loaded as TorchScript, and .data/version overrides version.
_MEMBERS: Final = {
    re.compile(name, re.ASCII): re.compile(content, re.ASCII | re.DOTALL)
    for name, content in {
        r"data\.pkl|data/\d+": rb".*",
        "byteorder": rb"little|big",
        "version": rb"([1-9]|10)\n",
        r"\.data/serialization_id": rb"\d{40}",
        r"\.format_version": rb"\d{1,9}",
        r"\.storage_alignment": rb"[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}",  # padding is below 2**16
    }.items()
}


@dataclass(frozen=True, slots=True)
class Stored:
    """The bytes of a member that are not in memory.

    Attributes:
        size: in bytes.
        checksum: their CRC-32; 0 if the file has no checksums.
        offset: start in the file.
    """

    size: int
    checksum: int = 0
    offset: int = 0

    def __len__(self) -> int:
        return self.size


@dataclass(frozen=True)
class TorchZip:
    """The values that determine the bytes of a file.

    Attributes:
        folder: the folder of all members; torch names it after the file (`common`), or `archive`
            when it writes to a stream.
        members: (name without the folder, bytes), in order.
        checksums: False after `torch.serialization.set_crc32_options(False)`.
    """

    folder: str
    members: tuple[tuple[str, bytes], ...]
    checksums: bool = True

    def parts(self) -> Iterator[tuple[str, bytes]]:
        """Yield the parts of the file in order: a description and the bytes."""
        for what, part in _parts(self.folder, self.members, self.checksums):
            assert isinstance(part, bytes)  # no member is `Stored`
            yield what, part


@dataclass(frozen=True)
class Outlined:
    """A file whose tensor storages are not in memory.

    Attributes:
        folder, checksums: see `TorchZip`.
        members: (name without the folder, bytes, or `Stored` for a storage), in order.
    """

    folder: str
    members: tuple[tuple[str, bytes | Stored], ...]
    checksums: bool = True

    def parts(self) -> Iterator[tuple[str, bytes | Stored]]:
        """Yield the parts of the file in order: a description, and the bytes or the storage."""
        return _parts(self.folder, self.members, self.checksums)

    @property
    def length(self) -> int:
        """Return the size of the file in bytes."""
        return sum(len(part) for _, part in self.parts())


def _parts(
    folder: str, members: Iterable[tuple[str, bytes | Stored]], checksums: bool
) -> Iterator[tuple[str, bytes | Stored]]:
    bodies = dict(members)
    alignment = int(bodies.get(_ALIGNMENT, _DEFAULT_ALIGNMENT))  # type: ignore[arg-type]
    position = 0
    central = bytearray()
    for name, body in bodies.items():
        path = f"{folder}/{name}".encode()
        offset, size = position, len(body)
        if isinstance(body, Stored):
            checksum = body.checksum
        else:
            checksum = zlib.crc32(body) if checksums else 0
        flags = _FLAGS | _DESCRIPTOR if size else _FLAGS
        wide = _zip64(size, 0, offset)
        padding = -(offset + _LOCAL.size + len(path) + len(wide) + 4) % alignment
        extra = wide + struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        header = _LOCAL.pack(b"PK\3\4", 0, flags, 0, 0, 0, 0, 0, 0, len(path), len(extra))
        header += path + extra
        sizes = _SIZES64 if wide else _SIZES
        descriptor = sizes.pack(b"PK\7\10", checksum, size, size) if size else b""
        position += len(header) + size + len(descriptor)
        yield f"the header of {name}", header
        yield f"the content of {name}", body
        yield f"the CRC or size after {name}", descriptor
        narrow, at, wide = min(size, _ZIP64), min(offset, _ZIP64), _zip64(size, size, offset)
        central += _CENTRAL.pack(
            b"PK\1\2", 0, 0, flags, 0, 0, 0, checksum, narrow, narrow,
            len(path), len(wide), 0, 0, 0, 0, at,
        )  # fmt: skip
        central += path + wide
    count, end = len(bodies), position + len(central)
    few = min(count, 0xFFFF)
    yield "the central directory", bytes(central)
    yield (
        "the ZIP64 record",
        _END64.pack(b"PK\6\6", 44, 0x031E, 45, 0, 0, count, count, len(central), position),
    )
    yield "the ZIP64 locator", _LOCATOR.pack(b"PK\6\7", 0, end, 1)
    at = min(position, _ZIP64)
    yield "the end record", _END.pack(b"PK\5\6", 0, 0, few, few, len(central), at, 0)


def _zip64(size: int, packed: int, offset: int) -> bytes:
    """Return the ZIP64 field with the numbers that have no place in an entry; empty if none."""
    numbers = ([size, packed] if size >= _ZIP64 else []) + ([offset] if offset >= _ZIP64 else [])
    if not numbers:
        return b""
    return struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers)


def write(zipped: TorchZip) -> bytes:
    """Return the bytes of a file."""
    return b"".join(part for _, part in zipped.parts())


def read(data: bytes) -> TorchZip:
    """Read a file that `torch.save` wrote.

    Raises:
        PickleError: `torch.save` does not write such a file; names the first part that differs.
    """
    found = _read(lambda at, size: data[at : at + size], len(data), outlined=False)
    members = ((name, body) for name, body in found.members if isinstance(body, bytes))
    return TorchZip(found.folder, tuple(members), found.checksums)


def outline(fetch: Fetch, length: int) -> Outlined:
    """Read a file that `torch.save` wrote, except for its tensor storages.

    Args:
        fetch: returns bytes of the file, from an offset and a size.
        length: the size of the file in bytes.

    Raises:
        PickleError: as `read`; the contents of the storages are not compared with their checksums.
    """
    return _read(fetch, length, outlined=True)


def _read(fetch: Fetch, length: int, *, outlined: bool) -> Outlined:
    start = fetch(0, 4)
    if start != b"PK\3\4":
        late = b"PK\3\4" in fetch(0, _SEARCHED)
        raise _other(_LATE if late else "it does not start with a member")
    if length > _LARGEST and not outlined:
        raise _other("it is 4 GiB or larger")
    try:
        found = _listed(fetch, length, outlined=outlined)
    except (struct.error, UnicodeError) as error:
        raise _other(f"its central directory is not valid: {error}") from error
    position = 0
    for what, part in found.parts():
        if isinstance(part, Stored):
            same = part.offset == position
        else:
            same = fetch(position, len(part)) == part
        if not same:
            raise _other(f"{what}, at byte {position}, differs from what torch.save writes")
        position += len(part)
    if position != length:
        raise _other("there are bytes between its members and its central directory")
    return found


def _listed(fetch: Fetch, length: int, *, outlined: bool) -> Outlined:
    """Return the contents of the central directory, not yet validated."""
    signature, *_ = _END.unpack(fetch(length - _END.size, _END.size))
    if signature != b"PK\5\6":
        raise _other("it is truncated, or there are bytes after its end")
    *_, size, start = _END64.unpack(fetch(length - _ENDS, _END64.size))
    left = length
    if start + size != length - _ENDS:
        raise _other("its end record refers to another central directory")
    central = fetch(start, size)
    members: dict[str, bytes | Stored] = {}
    folder, checksums = "", False
    at = 0
    while at < size:
        signature, *_, method, _, _, checksum, packed, full, width, extra, note, _, _, _, begin = (
            _CENTRAL.unpack_from(central, at)
        )
        at += _CENTRAL.size + width
        path = central[at - width : at].decode()
        wide = iter(struct.unpack_from(f"<{extra // 8}Q", central, at + 4) if extra else ())
        at += extra
        full, packed, begin = (
            next(wide, 0) if number == _ZIP64 else number for number in (full, packed, begin)
        )
        if signature != b"PK\1\2" or note:
            raise _other(f"its central directory has unknown records before byte {start + at}")
        if method or packed != full:
            raise _other(f"{path!r} in it is compressed")
        here, _, name = path.partition("/")
        folder = folder or here
        content = next((row for known, row in _MEMBERS.items() if known.fullmatch(name)), None)
        if content is None or here != folder or not _FOLDER.fullmatch(folder):
            raise _other(f"it contains {path!r}, which torch.save does not write")
        if name in members:
            raise _other(f"two of its members have the name {path!r}")
        left -= full
        if left < 0 or len(members) == _MOST_MEMBERS:
            raise _other("its members overlap, or are too many")
        body = begin + _LOCAL.size + sum(_LOCAL.unpack(fetch(begin, _LOCAL.size))[-2:])
        checksums = checksums or checksum != 0
        if outlined and name.startswith(STORAGES):
            members[name] = Stored(full, checksum, body)
            continue
        members[name] = found = fetch(body, full)
        if not content.fullmatch(found):
            raise _other(f"torch.load does not accept the content of {path!r} in it")
    for name in (PICKLE, "version"):
        if name not in members:
            raise _other(f"no {name}")
    return Outlined(folder, tuple(members.items()), checksums)


def _other(reason: str) -> PickleError:
    return PickleError(f"is not a torch zip file ({reason})")
