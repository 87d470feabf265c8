"""The execution of a planned conversion: the only module of this package that writes."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from ckptmigrate.errors import DamagedError
from ckptmigrate.optimizer.new_files import NewBlob
from ckptmigrate.optimizer.resharding import Conversion
from ckptmigrate.optimizer.tensors import blocks
from ckptmigrate.storage import local_files
from ckptmigrate.storage.directories import Directory, LocalDirectory
from ckptmigrate.storage.progress import Progress


def perform(
    conversion: Conversion, destination: Path, progress: Progress | None = None
) -> dict[str, str]:
    """Write the new data files of a conversion into a directory, and read them back.

    The caller syncs the directory.

    Args:
        destination: an existing directory without these files.
        progress: called with the number of bytes written since the last call.

    Returns:
        The SHA-256 hash of each file, as a hexadecimal number.

    Raises:
        DamagedError: the source changed or is damaged, or a file was not written as planned.
        OSError: a file cannot be written.
    """
    source = conversion.manifest.directory
    return {
        name: _write(source, destination / name, blobs, progress)
        for name, blobs in conversion.files.items()
    }


def _write(
    source: Directory, path: Path, blobs: tuple[NewBlob, ...], progress: Progress | None
) -> str:
    digest = hashlib.sha256()
    with local_files.create(path, path.parent.stat().st_mode & 0o666) as file:
        for blob in blobs:
            for part in _parts(source, blob):
                file.write(part)
                digest.update(part)
                if progress is not None:
                    progress(len(part))
        file.flush()
        os.fsync(file.fileno())
    again = hashlib.sha256()
    for piece in LocalDirectory(path.parent).pieces(path.name):
        again.update(piece)
    if again.digest() != digest.digest():
        raise DamagedError("has other bytes than were written", path=path)
    return digest.hexdigest()


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
            own, checksum = zlib.crc32(block, own), zlib.crc32(block, checksum)
            yield block
        if span.checksum not in (None, own):
            raise DamagedError(
                f"has other bytes than its checksum at byte {span.view.start} states",
                path=source.path / span.view.file,
                fix="restore it from a copy",
            )
    yield blob.around(checksum)[1]
