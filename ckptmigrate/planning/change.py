"""The planned change of the metadata files of one directory, a checkpoint or a root."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ckptmigrate.checkpoint import integrity, sidecar
from ckptmigrate.checkpoint.sidecar import FileState, digest
from ckptmigrate.places import Place


@dataclass(frozen=True)
class NewPayload:
    """A new data file, which is written piece by piece because it may be large.

    Attributes:
        size: in bytes.
        pieces: yields its bytes in order; every call yields the same bytes.
    """

    size: int
    pieces: Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class Change:
    """New bytes for metadata files, new data files, and the original files to keep for undo.

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
        payload: new data file, directly in the directory -> its content.
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
    payload: Mapping[str, NewPayload] = field(default_factory=dict)

    def with_payload(self, digests: Mapping[str, str]) -> Change:
        """Return the change with the digests of its data files, which are known once written.

        The last step of the sidecar and integrity.json, if they are written, record them.

        Args:
            digests: name of each data file of `payload` -> its digest.
        """
        if not digests:
            return self
        after = {**self.after, **digests}
        files = dict(self.files)
        states = {name: FileState(None, found) for name, found in digests.items()}
        hashes = files.get(integrity.FILE)
        if hashes is not None:
            files[integrity.FILE] = hashes = integrity.with_files(hashes, digests)
            after[integrity.FILE] = digest(hashes)
            states[integrity.FILE] = FileState(self.before[integrity.FILE], after[integrity.FILE])
        return replace(
            self,
            files=files,
            sidecar=None
            if self.sidecar is None
            else sidecar.with_files(self.sidecar, states, tuple(digests)),
            before={**dict.fromkeys(digests), **self.before},
            after=after,
        )
