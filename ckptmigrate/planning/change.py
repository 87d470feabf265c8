"""What is to become of the small files of one directory, in place: a checkpoint, or a root."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ckptmigrate.access.places import Place


@dataclass(frozen=True)
class Change:
    """New bytes for small files, and what is kept for the way back.

    Attributes:
        path: the directory.
        files: small file -> its new bytes, or None where it goes.
        sidecar: the bytes of the new sidecar; None where there is to be none.
        originals: file name -> bytes to keep for the way back, under `originals_folder`.
        originals_folder: relative to the directory.
        kept_steps: how many steps of the sidecar stay, and their originals with them.
        before: small file -> its digest as it was planned from, or None where there is none.
        after: the same for what it is then.
        marks: files without which the directory is nothing to a reader: they go and come in any
            case, so that nobody reads a mixture.
    """

    path: Place
    files: Mapping[str, bytes | None]
    sidecar: bytes | None
    originals: Mapping[str, bytes]
    originals_folder: str
    kept_steps: int
    before: Mapping[str, str | None]
    after: Mapping[str, str | None]
    marks: tuple[str, ...]
