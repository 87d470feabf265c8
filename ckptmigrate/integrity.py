"""integrity.json: the digests that 0.17.1 and later can check on load, kept true by a migration.

`{"algorithm": "sha256", "files": {name: hex}}`; a rewritten file makes its digest stale.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from ckptmigrate.errors import DamagedError
from ckptmigrate.sidecar import digest
from ckptmigrate.storage import Directory

FILE: Final = "integrity.json"
_FIX: Final = "remove it, and have the reader go without --verify-integrity"


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


def recorded(directory: Directory) -> Mapping[str, str]:
    """File name -> the SHA-256 that the integrity.json of a checkpoint says, in hex.

    Raises:
        DamagedError: it says none.
    """
    _, files = _load(directory)
    if not all(isinstance(part, str) for item in files.items() for part in item):
        raise DamagedError("holds a digest that is no text", path=directory.path / FILE, fix=_FIX)
    return files


def _load(directory: Directory) -> tuple[dict[str, Any], dict[str, Any]]:
    path = directory.path / FILE
    try:
        content = json.loads(directory.read(FILE))
        algorithm, files = content["algorithm"], dict(content["files"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"holds no digests ({error})", path=path, fix=_FIX) from error
    if algorithm != "sha256":
        raise DamagedError(f"holds digests of {algorithm!r}, not sha256", path=path, fix=_FIX)
    return content, files
