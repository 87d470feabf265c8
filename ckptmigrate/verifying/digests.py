"""integrity.json against the files: small ones always, payload on demand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ckptmigrate import integrity
from ckptmigrate.errors import DamagedError
from ckptmigrate.verifying.findings import Finding, counted
from ckptmigrate.verifying.material import Material

_SMALL: Final = 64 * 1024 * 1024  # bytes; larger files are hashed with the payload
_PIECE: Final = 4 * 1024 * 1024

Progress = Callable[[int], None]


def is_small(name: str, size: int) -> bool:
    """Whether a file is hashed without being asked for."""
    return size <= _SMALL and not name.endswith(".distcp")


def check(
    material: Material, *, payload: bool = False, progress: Progress | None = None
) -> Iterator[Finding]:
    """Each file has the digest that integrity.json says.

    Args:
        payload: hash payload files, too, on every core.
        progress: called with a number of bytes whenever that many were hashed.
    """
    sizes = material.directory.files()
    if integrity.FILE not in sizes:
        if payload:
            yield material.finding("integrity-absent", f"there is no {integrity.FILE}")
        return
    try:
        recorded = integrity.recorded(material.directory)
    except DamagedError as error:
        yield material.finding("integrity-unreadable", f"{integrity.FILE} {error.reason}")
        return
    gone = [name for name in recorded if name not in sizes]
    if gone:
        many = counted(len(gone), "file")
        what = f"{many} of integrity.json {'is' if len(gone) == 1 else 'are'} missing"
        yield material.finding("integrity-file-missing", what, *gone)
    asked = [n for n in recorded if n in sizes and (payload or is_small(n, sizes[n]))]
    from concurrent.futures import ThreadPoolExecutor

    # hashlib lets go of the interpreter, so that threads do use every core.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda name: file_digest(material.path / name, progress), asked)
        other = [n for n, digest in zip(asked, found, strict=True) if digest != recorded[n]]
    if other:
        many = counted(len(other), "file has", "files have")
        what = f"{many} other bytes than integrity.json says"
        yield material.finding("integrity-mismatch", what, *other)


def file_digest(path: Path, progress: Progress | None = None) -> str | None:
    """The SHA-256 of a file, in hex; None where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
                if progress is not None:
                    progress(len(piece))
    except OSError:
        return None
    return digest.hexdigest()
