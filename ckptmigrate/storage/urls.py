"""The place that a path or URL in a text names."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from ckptmigrate.errors import StoreError
from ckptmigrate.places import Place, Url
from ckptmigrate.text import secrets

_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.ASCII | re.IGNORECASE | re.DOTALL)
_LOCAL: Final = ("file", "local")


def place(text: str | Place) -> Place:
    """Return the place for a path or URL; `file://` is a local path.

    Raises:
        StoreError: the URL is invalid, or contains a secret.
    """
    if not isinstance(text, str):
        return text
    if "://" not in text and not secrets.is_slip(text):
        return Path(text)
    match = _SCHEME.fullmatch(text)
    if match is None:
        raise _no_place(text, "is not the URL of a store", "use a URL such as s3://bucket/run")
    protocol, key = match[1].lower(), match[2]
    if protocol in _LOCAL:
        return Path(_path_of(text, key))
    _check_key(text, protocol, key)
    return Url(protocol, key.rstrip("/"))


def _path_of(text: str, key: str) -> str:
    path = key.removeprefix("localhost")
    if not path.startswith("/"):
        raise _no_place(text, "is not a path on this host", "use a URL such as file:///data/run")
    return os.fsdecode(unquote_to_bytes(os.fsencode(path)))


def _check_key(text: str, protocol: str, key: str) -> None:
    held, _ = secrets.split(protocol, key)
    if held is not None:
        raise _no_place(
            text,
            f"contains {held}, and URLs are printed and stored in files",
            "omit it, and set the credentials where the library of the store reads them, such as "
            "the configuration of fsspec",
        )
    if "://" in key:
        raise _no_place(text, "is a chain of URLs", "use a URL such as s3://bucket/run")
    for part in key.rstrip("/").split("/")[1:]:
        # Some libraries resolve these parts as a file system does, others keep them.
        if part in ("", ".", ".."):
            raise _no_place(text, f"contains the part {part!r}", "use a URL without it")


def _no_place(text: str, reason: str, fix: str) -> StoreError:
    """Return the error for an invalid URL, with its secrets masked."""
    return StoreError(reason, path=secrets.masked_url(text), fix=fix)
