"""Error-tolerant read of a checkpoint: each unreadable part becomes a finding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ckptmigrate.checkpoint import common, manifest, metadata
from ckptmigrate.checkpoint.common import CommonState
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.metadata import Metadata
from ckptmigrate.checkpoint.rows import Chunk, Piece, chunk_of, is_entry, item_key, piece_of
from ckptmigrate.checks.findings import Finding, counted, fix_of, shown
from ckptmigrate.errors import CkptMigrateError, DamagedError, StoreError
from ckptmigrate.pickles.tree import Object
from ckptmigrate.places import Place
from ckptmigrate.storage.directories import Directory
from ckptmigrate.text.commands import command, removal

_Note = Callable[..., None]  # parameters: code, what, *items, fix


@dataclass(frozen=True)
class Material:
    """The readable parts of a checkpoint, which the checks use.

    Attributes:
        directory: the directory of the checkpoint.
        marker: the content of metadata.json; None if it cannot be read.
        metadata: the content of `.metadata`, not validated; None if it cannot be read.
        entries: key -> inert storage metadata, for all keys that are text.
        chunks: the readable rows of `storage_data`.
        planned: per rank, the keys in its save plan; None if there are no readable plans.
        common: the common state; None if it cannot be read.
        findings: the parts that could not be read.
    """

    directory: Directory
    marker: Mapping[str, Any] | None
    metadata: Metadata | None
    entries: Mapping[str, Any]
    chunks: tuple[Chunk, ...]
    planned: tuple[tuple[str, ...], ...] | None
    common: CommonState | None
    findings: tuple[Finding, ...]

    @property
    def path(self) -> Place:
        """The path of the checkpoint."""
        return self.directory.path

    @property
    def whole(self) -> Manifest | None:
        """The checkpoint as all other commands read it; None if a part cannot be read."""
        if self.metadata is None or self.common is None:
            return None
        if any(finding.code == "entry-malformed" for finding in self.findings):
            return None
        return Manifest(self.directory, self.marker or {}, self.metadata, self.common)

    def finding(self, code: str, what: str, *items: str, fix: str | None = None) -> Finding:
        """Return a finding about this checkpoint."""
        return Finding(code, self.path, what, tuple(map(shown, items)), fix=fix)


def gather(directory: Directory) -> Material:
    """Read all readable parts of a checkpoint.

    Raises:
        StoreError: the object store failed; damage of the checkpoint is never raised.
    """
    found: list[Finding] = []

    def note(code: str, what: str, *items: str, fix: str | None = None) -> None:
        found.append(Finding(code, directory.path, what, tuple(map(shown, items)), fix=fix))

    marker = _marker(directory, note)
    read = _metadata(directory, note)
    entries: dict[str, Any] = {}
    chunks: tuple[Chunk, ...] = ()
    planned = None
    if read is not None:
        entries = _entries(read, note)
        chunks = _chunks(read, note)
        planned = _planned(read, note)
    state = _common(directory, chunks, note)
    return Material(directory, marker, read, entries, chunks, planned, state, tuple(found))


def _marker(directory: Directory, note: _Note) -> Mapping[str, Any] | None:
    if manifest.MARKER_FILE not in directory.files():
        note("marker-missing", "metadata.json is missing")
        return None
    try:
        return manifest.read_marker(directory)
    except DamagedError as error:
        note("marker-unreadable", f"metadata.json {error.reason}", fix=_fix_of_marker(directory))
        return None


def _fix_of_marker(directory: Directory) -> str | None:
    """Return the fix for a metadata.json that `repair` cannot read, and so cannot keep, or None."""
    try:
        directory.read(manifest.MARKER_FILE)
    except DamagedError as error:
        path = directory.path
        first = removal(path / manifest.MARKER_FILE)
        return fix_of(error) or f"run `{first}`, then `{command('repair', path)}`"
    return None


def _metadata(directory: Directory, note: _Note) -> Metadata | None:
    if metadata.FILE not in directory.files():
        note(
            "metadata-missing",
            ".metadata is missing (the save did not finish, or a copy or a download omitted dot "
            "files)",
        )
        return None
    try:
        return metadata.parse(directory.read(metadata.FILE))
    except StoreError:  # a failure of the store, not of the checkpoint
        raise
    except CkptMigrateError as error:
        note("metadata-unreadable", f".metadata {error.reason}", fix=fix_of(error))
        return None


def _entries(read: Metadata, note: _Note) -> dict[str, Any]:
    table = read.attributes.get(metadata.ENTRIES)
    if not isinstance(table, dict):
        note("entry-malformed", ".metadata has no state_dict_metadata")
        return {}
    bad = [key for key in table if not isinstance(key, str)]
    if bad:
        note("entry-malformed", f"{counted(len(bad), 'key is', 'keys are')} not text")
    entries = {key: entry for key, entry in table.items() if isinstance(key, str)}
    unknown = [key for key, entry in entries.items() if not is_entry(entry)]
    if unknown:
        many = counted(len(unknown), "key is", "keys are")
        note("entry-malformed", f"{many} neither a tensor nor a sharded object", *unknown)
    return entries


def _chunks(read: Metadata, note: _Note) -> tuple[Chunk, ...]:
    table = read.attributes.get(metadata.STORED)
    if not isinstance(table, dict):
        note("entry-malformed", ".metadata has no storage_data")
        return ()
    chunks, bad = [], []
    for index, where in table.items():
        try:
            chunks.append(chunk_of(index, where))
        except DamagedError as error:
            bad.append(error.reason)
    if bad:
        many = counted(len(bad), "row of storage_data is", "rows of storage_data are")
        note("entry-malformed", f"{many} not a byte range", *dict.fromkeys(bad))
    seen: set[Piece] = set()
    twice: dict[str, None] = {}
    for chunk in chunks:
        piece = piece_of(chunk.key, chunk.offsets)
        if piece in seen:
            twice[chunk.key] = None
        seen.add(piece)
    if twice:
        note("entry-malformed", "a chunk of a key is stored twice", *twice)
    return tuple(chunks)


def _planned(read: Metadata, note: _Note) -> tuple[tuple[str, ...], ...] | None:
    plans = read.attributes.get(metadata.PLANS)
    if plans is None:
        return None
    if not isinstance(plans, list):
        note("entry-malformed", "all_local_plans is not a list")
        return None
    keys = []
    for rank, plan in enumerate(plans):
        items = plan.attributes.get("items") if isinstance(plan, Object) else None
        try:
            if not isinstance(items, list):
                raise DamagedError("has no items")
            keys.append(tuple(item_key(item) for item in items))
        except DamagedError as error:
            note("entry-malformed", f"the save plan of rank {rank} {error.reason}")
            return None
    return tuple(keys)


def _common(directory: Directory, chunks: tuple[Chunk, ...], note: _Note) -> CommonState | None:
    place = common.FILE
    try:
        if common.FILE in directory.files():
            return common.load(directory.read(common.FILE), in_file=True)
        blob = next((c.blob for c in chunks if c.key == common.KEY and c.offsets is None), None)
        if blob is None:
            note("common-missing", f"both {common.FILE} and the key {common.KEY} are missing")
            return None
        place = common.KEY
        if blob.file not in directory.files():
            raise DamagedError(f"is stored in {blob.file}, which is missing")
        size = directory.files()[blob.file]
        if blob.offset + blob.length > size:
            raise DamagedError(f"is stored beyond the end of {blob.file}")
        return common.load(directory.read_range(blob.file, blob.offset, blob.length), in_file=False)
    except StoreError:  # a failure of the store, not of the checkpoint
        raise
    except CkptMigrateError as error:
        note("common-unreadable", f"{place} {error.reason}", fix=fix_of(error))
        return None
