"""The bytes of the new data files of a planned conversion."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from ckptmigrate.errors import DamagedError
from ckptmigrate.optimizer.checksums import joined
from ckptmigrate.optimizer.new_files import NewBlob
from ckptmigrate.optimizer.resharding import Conversion
from ckptmigrate.optimizer.tensors import blocks
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import Directory


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
            raise DamagedError(
                f"has other bytes than its checksum at byte {span.view.start} states",
                path=source.path / span.view.file,
                fix="restore it from a copy",
            )
    yield blob.around(checksum)[1]
