"""integrity.json: SHA-256 hashes that 0.17.1 and later can check on load; migrations update them.

`{"algorithm": "sha256", "files": {name: hex}}`; rewriting a file makes its hash outdated.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from typing import Any, Final

from ckptmigrate.checkpoint.manifest import METADATA_FILES
from ckptmigrate.checkpoint.sidecar import digest
from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles.display import short_repr
from ckptmigrate.places import Place
from ckptmigrate.storage.directories import Directory
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.commands import shell

FILE: Final = "integrity.json"
_PIECE: Final = 16 * 1024 * 1024  # bytes read at a time


def mismatched(
    directory: Directory, *, payload: bool = False, progress: Progress | None = None
) -> list[str]:
    """Return the files of a checkpoint whose hash differs from its integrity.json.

    Args:
        directory: the checkpoint.
        payload: whether to hash every listed file, not only the metadata files.
        progress: called with each number of bytes read.

    Raises:
        DamagedError: integrity.json has no hashes, or a file cannot be read.
    """
    if FILE not in directory.files():
        return []
    listed = recorded(directory)
    asked = {name: listed[name] for name in listed if payload or name in METADATA_FILES}
    # Open only files of the checkpoint itself, whatever names are listed.
    there = {name: hashed for name, hashed in asked.items() if name in directory.files()}
    other = differing(directory, there, progress)
    return [name for name in asked if name not in there or name in other]


def differing(
    directory: Directory,
    listed: Mapping[str, str],
    progress: Progress | None = None,
) -> list[str]:
    """Return the files whose hash differs from the listed one; hash on every core.

    Args:
        directory: the checkpoint.
        listed: name of an existing file -> SHA-256 in hex.
        progress: called with each number of bytes read.

    Raises:
        DamagedError: a file cannot be read.
    """
    # The import takes longer than the rest of this module, and most commands hash no data files.
    from concurrent.futures import ThreadPoolExecutor

    turn = threading.Lock()

    def report(count: int) -> None:
        with turn:
            if progress:
                progress(count)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashlib releases the GIL
        found = list(pool.map(lambda name: _digest(directory, name, report), listed))
    return [name for name, hashed in zip(listed, found, strict=True) if hashed != listed[name]]


def _digest(directory: Directory, name: str, progress: Progress) -> str:
    state = hashlib.sha256()
    for start in range(0, directory.files()[name], _PIECE):
        piece = directory.read_range(name, start, _PIECE)
        state.update(piece)
        progress(len(piece))
    return state.hexdigest()


def updated(directory: Directory, changes: Mapping[str, bytes | None]) -> dict[str, bytes]:
    """Return the new integrity.json of a checkpoint whose files change; {} if it has none.

    Args:
        directory: the checkpoint before the change.
        changes: file name -> bytes, or None for a removed file.

    Raises:
        DamagedError: integrity.json exists but cannot be updated.
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


def with_files(content: bytes, digests: Mapping[str, str]) -> bytes:
    """Return an integrity.json with more files.

    Args:
        content: the bytes that `updated` returned.
        digests: name -> SHA-256 hash in hex.
    """
    found = json.loads(content)
    return json.dumps({**found, "files": {**found["files"], **digests}}, indent=2).encode()


def recorded(directory: Directory) -> Mapping[str, str]:
    """Return file name -> SHA-256 hash in hex, as recorded in integrity.json.

    Raises:
        DamagedError: integrity.json has no valid hashes.
    """
    _, files = _load(directory)
    if not all(isinstance(part, str) for item in files.items() for part in item):
        path = directory.path / FILE
        raise DamagedError("contains a SHA-256 hash that is not text", path=path, fix=_fix(path))
    return files


def _fix(path: Place) -> str:
    remove = shell("rm", path)
    return f"run the job without --verify-integrity, and remove this file with `{remove}`"


def _load(directory: Directory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the whole content of integrity.json, and its hashes by file name."""
    path = directory.path / FILE
    try:
        content = json.loads(directory.read(FILE))
        # Without an algorithm, releases assume sha256 (validation.py, core_v0.19.0).
        algorithm, files = content.get("algorithm", "sha256"), dict(content["files"].items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(
            f"does not contain SHA-256 hashes ({error})", path=path, fix=_fix(path)
        ) from error
    if algorithm != "sha256":
        raise DamagedError(
            f"contains hashes of {short_repr(algorithm)}, not sha256", path=path, fix=_fix(path)
        )
    return content, files
