"""The bytes of new data files, each read once and compared with its checksum."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator

from ckptmigrate.checkpoint.rows import Blob
from ckptmigrate.errors import DamagedError
from ckptmigrate.optimizer import tensors
from ckptmigrate.optimizer.checksums import joined
from ckptmigrate.optimizer.new_files import NewBlob
from ckptmigrate.optimizer.resharding import Conversion
from ckptmigrate.optimizer.tensors import blocks
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import Directory
from ckptmigrate.text.commands import command


def pieces(conversion: Conversion, name: str) -> Iterator[bytes]:
    """Yield the bytes of a new data file; every call yields the same bytes.

    At the end, the cached pages of the data files that were read are given back.

    Args:
        name: one of `conversion.files`.

    Raises:
        DamagedError: the source changed or is damaged.
    """
    source, blobs = conversion.manifest.directory, conversion.files[name]
    for blob in blobs:
        yield from _parts(source, blob)
    for file in {span.view.file for blob in blobs for span in blob.spans}:
        directories.drop_cache(source.path / file)


def _parts(source: Directory, blob: NewBlob) -> Iterator[bytes]:
    """Yield the bytes of a `torch.save` zip.

    Raises:
        DamagedError: the elements that are read do not have the checksum that their file states.
    """
    yield blob.around(0)[0]
    checksum = 0
    for span in blob.spans:
        own = 0
        for block in blocks(source, (span,)):
            own = zlib.crc32(block, own)
            yield block
        checksum = joined(checksum, own, span.size)
        if span.checksum not in (None, own):
            raise _damaged(source, span.view.file, span.view.start)
    yield blob.around(checksum)[1]


def moved(source: Directory, zips: Collection[Blob]) -> Iterator[bytes]:
    """Yield the bytes of `torch.save` zips, unchanged and end to end; see `pieces`.

    Args:
        zips: where they are in the data files of `source`.

    Raises:
        DamagedError: one is not such a zip, or its bytes do not have the checksum that it states.
    """
    for blob in zips:
        try:
            found = tensors.members_of(source, blob)
        except DamagedError as error:
            raise DamagedError(
                f"the bytes at {blob.offset} cannot be checked: {error.reason}",
                path=source.path / blob.file,
                fix=f"to list all damage, run `{command('verify', source.path)}`",
            ) from error
        for _, part in found.parts():
            if isinstance(part, bytes):  # `members_of` has compared them with the file
                yield part
                continue
            own, start = 0, blob.offset + part.offset
            for block in tensors.range_blocks(source, Blob(blob.file, start, part.size)):
                own = zlib.crc32(block, own)
                yield block
            if part.checksum not in (0, own):
                raise _damaged(source, blob.file, start)
    for file in {blob.file for blob in zips}:
        directories.drop_cache(source.path / file)


def _damaged(source: Directory, file: str, start: int) -> DamagedError:
    return DamagedError(
        f"has other bytes than its checksum at byte {start} states",
        path=source.path / file,
        fix="restore it from a copy",
    )
