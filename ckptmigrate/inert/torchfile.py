"""Files and blobs as `torch.save` writes them: a zip with one pickle and tensor storages.

`common.pt` is one, and so is each `BytesStorageMetadata` blob inside a payload file. The
layout is that of torch's PyTorchStreamWriter (caffe2/serialize/inline_container.cc, read
from files written by torch 2.5 and 2.13): stored members, the data of each aligned to 64
bytes by an `FB` extra field, sizes in data descriptors, a zip64 end record always.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from dataclasses import dataclass, replace
from typing import Any, Final

from ckptmigrate.errors import PickleError
from ckptmigrate.inert import reader, writer

PROTOCOL: Final = 2
_PICKLE: Final = "data.pkl"
_ALIGNMENT: Final = 64
_FLAGS: Final = 0x0800  # UTF-8 names
_DESCRIPTOR: Final = 0x0008  # sizes in a data descriptor; an empty member has none
_MOST_MEMBERS: Final = 1_000_000


@dataclass(frozen=True)
class TorchFile:
    """One `torch.save` archive, its pickle as an inert tree.

    Attributes:
        tree: the inert tree of `data.pkl`.
        archive: the folder all members stand in; torch names it after the file (`common`)
            or `archive` when it writes to a stream.
        members: (name without the folder, bytes) in order; `data.pkl` holds its bytes as
            read, and is written anew from `tree`.
        named: the symbols that `data.pkl` named when it was read.
    """

    tree: Any
    archive: str
    members: tuple[tuple[str, bytes], ...]
    named: tuple[str, ...] = ()

    def with_tree(self, tree: Any, archive: str | None = None) -> TorchFile:
        """The same storages behind another tree."""
        return replace(self, tree=tree, archive=archive or self.archive)


def load(data: bytes) -> TorchFile:
    """Read an archive without executing its pickle.

    Raises:
        PickleError: not a torch zip, damaged, compressed, or with a pickle that is refused.
    """
    try:
        archive, members = _unzip(data)
    except Exception as error:  # zipfile raises nearly anything on bad input
        raise PickleError(f"is not a torch zip ({error})") from error
    tree, named = reader.load_with_symbols(dict(members)[_PICKLE], storages=True)
    return TorchFile(tree, archive, members, named)


def _unzip(data: bytes) -> tuple[str, tuple[tuple[str, bytes], ...]]:
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        infos = zipped.infolist()
        if infos and not data.startswith(b"PK\3\4"):
            raise ValueError("bytes stand before it")
        if data[-22:-18] != b"PK\5\6":
            raise ValueError("bytes stand after it")
        if len(infos) > _MOST_MEMBERS:
            raise ValueError(f"{len(infos)} members")
        names = [info.filename for info in infos]
        if len(set(names)) != len(names):
            raise ValueError("two members have one name")
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise ValueError("a member is compressed")
        if sum(info.file_size for info in infos) > len(data):
            raise ValueError("its members overlap")
        archive = names[0].partition("/")[0] if names else ""
        if f"{archive}/{_PICKLE}" not in names or not all(
            name.startswith(f"{archive}/") for name in names
        ):
            raise ValueError("no data.pkl")
        start = len(archive) + 1
        return archive, tuple((i.filename[start:], zipped.read(i)) for i in infos)


def dump(file: TorchFile) -> bytes:
    """The bytes of an archive; those it was read from where its tree is unchanged."""
    pickled = writer.dump(file.tree, PROTOCOL)
    out, central = bytearray(), bytearray()
    for name, content in file.members:
        body = pickled if name == _PICKLE else content
        path = f"{file.archive}/{name}".encode()
        offset, size, checksum = len(out), len(body), zlib.crc32(body)
        flags = _FLAGS | _DESCRIPTOR if size else _FLAGS
        padding = -(offset + 30 + len(path) + 4) % _ALIGNMENT
        out += struct.pack(
            "<4s5H3I2H", b"PK\3\4", 0, flags, 0, 0, 0, 0, 0, 0, len(path), padding + 4
        )
        out += path + struct.pack("<2sH", b"FB", padding) + b"Z" * padding + body
        if size:
            out += struct.pack("<4s3I", b"PK\7\10", checksum, size, size)
        central += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 0, 0, flags, 0, 0, 0, checksum, size, size,
            len(path), 0, 0, 0, 0, 0, offset,
        )  # fmt: skip
        central += path
    count, at, end = len(file.members), len(out), len(out) + len(central)
    out += central
    out += struct.pack(
        "<4sQ2H2I4Q", b"PK\6\6", 44, 0x031E, 45, 0, 0, count, count, len(central), at
    )
    out += struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    out += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(central), at, 0)
    return bytes(out)


def new(tree: Any) -> TorchFile:
    """An archive for a tree without tensors, with the members torch 2.4 and later write."""
    # torch identifies a serialization by 40 digits; a digest keeps equal content equal.
    digest = hashlib.sha256(writer.dump(tree, PROTOCOL)).digest()
    identity = f"{int.from_bytes(digest, 'big') % 10**40:040d}".encode()
    members = (
        (_PICKLE, b""),
        ("byteorder", b"little"),
        ("version", b"3\n"),
        (".data/serialization_id", identity),
    )
    return TorchFile(tree, "archive", members)
