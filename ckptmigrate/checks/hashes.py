"""Comparison of files with integrity.json: metadata files always, data files on request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ckptmigrate.checkpoint import integrity
from ckptmigrate.checkpoint.material import Material
from ckptmigrate.checks.findings import Finding, finding
from ckptmigrate.errors import DamagedError, PointerError
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.printable import counted

_SMALL: Final = 64 * 1024 * 1024  # bytes; larger files are hashed with the data files


def is_small(name: str, size: int) -> bool:
    """Return whether a file is always hashed, even without --hash.

    Args:
        size: in bytes.
    """
    return size <= _SMALL and not name.endswith(".distcp")


def check(
    material: Material, *, payload: bool = False, progress: Progress | None = None
) -> Iterator[Finding]:
    """Yield findings about files whose hash differs from integrity.json.

    Args:
        payload: also hash data files, on every core.
        progress: called with the number of bytes hashed since the last call.
    """
    sizes = material.directory.files()
    if integrity.FILE not in sizes:
        if payload:
            yield finding(material, "integrity-absent", f"{integrity.FILE} is missing")
        return
    try:
        recorded = integrity.recorded(material.directory)
    except DamagedError as error:
        fix = error.fix if isinstance(error, PointerError) else None
        what = f"{integrity.FILE} {error.reason}"
        yield finding(material, "integrity-unreadable", what, fix=fix)
        return
    gone = [name for name in recorded if name not in sizes]
    if gone:
        many = counted(len(gone), "file")
        what = f"{many} in integrity.json {'is' if len(gone) == 1 else 'are'} missing"
        yield finding(material, "integrity-file-missing", what, *gone)
    asked = {
        name: recorded[name]
        for name in recorded
        if name in sizes
        and name not in material.pointers
        and (payload or is_small(name, sizes[name]))
    }
    try:
        other = integrity.differing(material.directory, asked, progress)
    except DamagedError as error:
        yield finding(material, "integrity-mismatch", f"a file {error.reason}", str(error.path))
        return
    if other:
        many = counted(len(other), "file has", "files have")
        what = f"{many} another SHA-256 hash than integrity.json records"
        yield finding(material, "integrity-mismatch", what, *other)
