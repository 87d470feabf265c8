"""integrity.json: the digests that 0.17.1 and later can check on load, kept true by a migration.

`{"algorithm": "sha256", "files": {name: hex}}`; a rewritten file makes its digest stale.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from ckptmigrate.errors import DamagedError
from ckptmigrate.sidecar import digest
from ckptmigrate.storage import Directory

FILE: Final = "integrity.json"
_SMALL_FILES: Final = (".metadata", "common.pt", "metadata.json")  # those that a plan reads whole
_PIECE: Final = 16 * 1024 * 1024  # bytes read at a time


def mismatched(
    directory: Directory, *, payload: bool = False, progress: Callable[[int], None] | None = None
) -> list[str]:
    """The files of a checkpoint that do not have the digest that its integrity.json has.

    Args:
        directory: the checkpoint.
        payload: whether to read every file that is listed, not only the small ones.
        progress: called with a number of bytes whenever that many were read.

    Raises:
        DamagedError: integrity.json holds no digests, or a file cannot be read.
    """
    if FILE not in directory.files():
        return []
    _, listed = _load(directory)
    names = [name for name in listed if payload or name in _SMALL_FILES]
    # Of what is listed, only names of files in the checkpoint itself are ever opened.
    there = [name for name in names if name in directory.files()]
    turn = threading.Lock()

    def told(count: int) -> None:
        with turn:
            if progress:
                progress(count)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashlib lets go of the GIL
        digests = list(pool.map(lambda name: _digest(directory, name, told), there))
    found = dict(zip(there, digests, strict=True))
    return [name for name in names if found.get(name) != listed[name]]


def _digest(directory: Directory, name: str, progress: Callable[[int], None]) -> str:
    state = hashlib.sha256()
    for start in range(0, directory.files()[name], _PIECE):
        piece = directory.read_range(name, start, _PIECE)
        state.update(piece)
        progress(len(piece))
    return state.hexdigest()


def _load(directory: Directory) -> tuple[dict[str, object], dict[str, object]]:
    """The whole content of integrity.json, and its digests by name."""
    path = directory.path / FILE
    fix = "remove it, and have the reader go without --verify-integrity"
    try:
        content = json.loads(directory.read(FILE))
        # Where it names no algorithm, readers take sha256 (validation.py, core_v0.19.0).
        algorithm, files = content.get("algorithm", "sha256"), dict(content["files"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"holds no digests ({error})", path=path, fix=fix) from error
    if algorithm != "sha256":
        raise DamagedError(f"holds digests of {algorithm!r}, not sha256", path=path, fix=fix)
    return content, files


def updated(directory: Directory, changes: Mapping[str, bytes | None]) -> dict[str, bytes]:
    """The new integrity.json of a checkpoint whose files change; {} where it has none.

    Args:
        directory: the checkpoint before.
        changes: file name -> bytes, or None for a file that goes.

    Raises:
        DamagedError: there is one, and it cannot be kept true.
    """
    if FILE not in directory.files() or not changes:
        return {}
    content, files = _load(directory)
    for name, bytes_or_none in changes.items():
        if bytes_or_none is None:
            files.pop(name, None)
        else:
            files[name] = digest(bytes_or_none)
    return {FILE: json.dumps({**content, "files": files}, indent=2).encode()}
