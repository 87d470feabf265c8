"""The planned change of the metadata files of one directory, a checkpoint or a root."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ckptmigrate.places import Place


@dataclass(frozen=True)
class Change:
    """New bytes for metadata files, and the original files to keep for undo.

    Attributes:
        path: the directory.
        files: metadata file -> its new bytes, or None to remove it.
        sidecar: the bytes of the new sidecar; None for no sidecar.
        originals: file name -> bytes to keep for undo, under `originals_folder`.
        originals_folder: relative to the directory.
        kept_steps: the number of sidecar steps that are kept, with their original files.
        before: metadata file -> its digest at the time of planning, or None if it does not exist.
        after: metadata file -> its digest after the change, or None if it is removed.
        marks: files without which a reader does not recognise the directory. An in-place change
            always removes them first and writes them last, so that no reader sees a mixture.
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
