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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ckptmigrate.errors import PickleError

PICKLE: Final = "data.pkl"
_ALIGNMENT: Final = ".storage_alignment"  # torch 2.7 and later store the setting in the file
_DEFAULT_ALIGNMENT: Final = 64
_LARGEST: Final = 2**32 - 2  # bytes; larger files have ZIP64 fields in their entries
_MOST_MEMBERS: Final = 1_000_000

_FLAGS: Final = 0x0800  # UTF-8 names
_DESCRIPTOR: Final = 0x0008  # sizes are in a data descriptor; not for an empty member
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_SIZES: Final = struct.Struct("<4s3I")
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
        alignment = int(dict(self.members).get(_ALIGNMENT, _DEFAULT_ALIGNMENT))
        position = 0
        central = bytearray()
        for name, body in self.members:
            path = f"{self.folder}/{name}".encode()
            offset, size = position, len(body)
            checksum = zlib.crc32(body) if self.checksums else 0
            flags = _FLAGS | _DESCRIPTOR if size else _FLAGS
            padding = -(offset + _LOCAL.size + len(path) + 4) % alignment
            header = _LOCAL.pack(b"PK\3\4", 0, flags, 0, 0, 0, 0, 0, 0, len(path), padding + 4)
            header += path + struct.pack("<2sH", b"FB", padding) + b"Z" * padding
            descriptor = _SIZES.pack(b"PK\7\10", checksum, size, size) if size else b""
            position += len(header) + size + len(descriptor)
            yield f"the header of {name}", header
            yield f"the content of {name}", body
            yield f"the CRC or size after {name}", descriptor
            central += _CENTRAL.pack(
                b"PK\1\2", 0, 0, flags, 0, 0, 0, checksum, size, size,
                len(path), 0, 0, 0, 0, 0, offset,
            )  # fmt: skip
            central += path
        count, end = len(self.members), position + len(central)
        few = min(count, 0xFFFF)
        yield "the central directory", bytes(central)
        yield (
            "the ZIP64 record",
            _END64.pack(b"PK\6\6", 44, 0x031E, 45, 0, 0, count, count, len(central), position),
        )
        yield "the ZIP64 locator", _LOCATOR.pack(b"PK\6\7", 0, end, 1)
        yield "the end record", _END.pack(b"PK\5\6", 0, 0, few, few, len(central), position, 0)


def write(zipped: TorchZip) -> bytes:
    """Return the bytes of a file."""
    return b"".join(part for _, part in zipped.parts())


def read(data: bytes) -> TorchZip:
    """Read a file that `torch.save` wrote.

    Raises:
        PickleError: `torch.save` does not write such a file; names the first part that differs.
    """
    if not data.startswith(b"PK\3\4"):
        raise _other(
            "there are bytes before its first member"
            if b"PK\3\4" in data
            else ("it does not start with a member")
        )
    if len(data) > _LARGEST:
        raise _other("it is 4 GiB or larger")
    try:
        zipped = _listed(data)
    except (struct.error, UnicodeError) as error:
        raise _other(f"its central directory is not valid: {error}") from error
    position = 0
    for what, part in zipped.parts():
        if not data.startswith(part, position):
            raise _other(f"{what}, at byte {position}, differs from what torch.save writes")
        position += len(part)
    if position != len(data):
        raise _other("there are bytes between its members and its central directory")
    return zipped


def _listed(data: bytes) -> TorchZip:
    """Return the contents of the central directory, not yet validated."""
    signature, *_, size, start, _ = _END.unpack_from(data, len(data) - _END.size)
    if signature != b"PK\5\6":
        raise _other("it is truncated, or there are bytes after its end")
    end, left = start + size, len(data)
    if end != len(data) - _ENDS:
        raise _other("its end record refers to another central directory")
    members: dict[str, bytes] = {}
    folder, checksums = "", False
    while start < end:
        signature, *_, method, _, _, checksum, packed, size, length, extra, comment, _, _, _, at = (
            _CENTRAL.unpack_from(data, start)
        )
        start += _CENTRAL.size + length
        path = data[start - length : start].decode()
        if signature != b"PK\1\2" or extra or comment:
            raise _other(f"its central directory has unknown records before byte {start}")
        if method or packed != size:
            raise _other(f"{path!r} in it is compressed")
        here, _, name = path.partition("/")
        folder = folder or here
        content = next((row for known, row in _MEMBERS.items() if known.fullmatch(name)), None)
        if content is None or here != folder or not _FOLDER.fullmatch(folder):
            raise _other(f"it contains {path!r}, which torch.save does not write")
        if name in members:
            raise _other(f"two of its members have the name {path!r}")
        left -= size
        if left < 0 or len(members) == _MOST_MEMBERS:
            raise _other("its members overlap, or are too many")
        body = at + _LOCAL.size + sum(_LOCAL.unpack_from(data, at)[-2:])
        members[name] = data[body : body + size]
        checksums = checksums or checksum != 0
        if not content.fullmatch(members[name]):
            raise _other(f"torch.load does not accept the content of {path!r} in it")
    for name in (PICKLE, "version"):
        if name not in members:
            raise _other(f"no {name}")
    return TorchZip(folder, tuple(members.items()), checksums)


def _other(reason: str) -> PickleError:
    return PickleError(f"is not a torch zip file ({reason})")
