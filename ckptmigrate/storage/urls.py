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
        raise _no_place(text, "is no URL of one store", "name one, as in s3://bucket/run")
    protocol, key = match[1].lower(), match[2]
    if protocol in _LOCAL:
        return Path(_path_of(text, key))
    _check_key(text, protocol, key)
    return Url(protocol, key.rstrip("/"))


def _path_of(text: str, key: str) -> str:
    path = key.removeprefix("localhost")
    if not path.startswith("/"):
        raise _no_place(text, "names no path of this machine", "name one, as in file:///data/run")
    return os.fsdecode(unquote_to_bytes(os.fsencode(path)))


def _check_key(text: str, protocol: str, key: str) -> None:
    held, _ = secrets.split(protocol, key)
    if held is not None:
        raise _no_place(
            text,
            f"holds {held}, and a URL is printed and written down",
            "leave it out, and set what opens the store where its library looks for it, such as "
            "the configuration of fsspec",
        )
    if "://" in key:
        raise _no_place(text, "is a chain of URLs", "name one, as in s3://bucket/run")
    for part in key.rstrip("/").split("/")[1:]:
        # Some libraries resolve these parts as a file system does, others keep them.
        if part in ("", ".", ".."):
            raise _no_place(text, f"has a part {part!r}", "name the place without such parts")


def _no_place(text: str, reason: str, fix: str) -> StoreError:
    """Return the error for an invalid URL, with its secrets masked."""
    return StoreError(reason, path=secrets.masked_url(text), fix=fix)
