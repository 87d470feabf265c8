"""New data files in place of those that have bytes which no key uses."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ckptmigrate.checkpoint.manifest import Manifest, unused_names
from ckptmigrate.checkpoint.rows import Blob
from ckptmigrate.checkpoint.used_bytes import unused
from ckptmigrate.errors import DamagedError
from ckptmigrate.planning.change import NewPayload
from ckptmigrate.storage.directories import Directory
from ckptmigrate.text.commands import command
from ckptmigrate.text.sizes import data_files, size


@dataclass(frozen=True)
class Compaction:
    """A planned compaction.

    Attributes:
        manifest: the result; its new data files do not exist yet.
        directory: where the existing data files are.
        files: new data file -> the byte ranges of existing ones that it consists of, end to end.
        left_out: existing data files that the result does not use -> their sizes in bytes.
    """

    manifest: Manifest
    directory: Directory
    files: Mapping[str, tuple[Blob, ...]]
    left_out: Mapping[str, int]

    @property
    def sizes(self) -> dict[str, int]:
        """Return the size of each new data file in bytes."""
        return {name: sum(blob.length for blob in blobs) for name, blobs in self.files.items()}

    @property
    def freed(self) -> int:
        """Return the number of unused bytes that are left out."""
        return sum(self.left_out.values()) - sum(self.sizes.values())

    @property
    def payload(self) -> Mapping[str, NewPayload]:
        """Return the new data files."""
        from ckptmigrate.optimizer.performing import moved  # a dry run does not need it

        return {
            name: NewPayload(count, partial(moved, self.directory, self.files[name]))
            for name, count in self.sizes.items()
        }

    @property
    def note(self) -> str:
        """Return what the compaction writes and omits, as a sentence."""
        sizes = self.sizes
        if not sizes:
            return f"data files that no key uses are left out: {size(self.freed)}"
        return (
            f"data files are rewritten without the {size(self.freed)} that no key uses, which "
            f"writes {data_files(len(sizes), sum(sizes.values()))}"
        )

    @property
    def kept(self) -> str:
        """Return what becomes of the data files that the result in place does not use."""
        path = self.manifest.path
        return (
            f"{path}: the former data files are kept for `undo`: to free "
            f"{size(sum(self.left_out.values()))}, run `{command('undo', path, '--forget')}`"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (docs/json.md, `upgrade --json`)."""
        return {
            "written_bytes": sum(self.sizes.values()),
            "freed_bytes": self.freed,
            "files": [{"name": name, "bytes": count} for name, count in self.sizes.items()],
            "left_out": list(self.left_out),
        }


def unused_bytes(found: Manifest) -> dict[str, int]:
    """Return existing data file -> the number of its bytes that no key uses, if there are any."""
    sizes = {name: count for name, (_, count) in found.payload_files.items()}
    return unused(found.metadata.chunks, sizes)


def compact(found: Manifest, taken: Collection[str], part_size: int) -> Compaction | None:
    """Plan new data files without unused bytes; None if there are no unused bytes.

    A data file without unused bytes is kept. The byte ranges of others get new data files of the
    same rank.

    Args:
        found: a checkpoint, possibly with data files that are not written yet.
        taken: names, besides those of existing data files, that no new data file gets.
        part_size: the largest size of a new data file in bytes, unless one byte range is larger.

    Raises:
        DamagedError: byte ranges overlap.
    """
    wasted = unused_bytes(found)
    if not wasted:
        return None
    used: dict[str, set[Blob]] = {name: set() for name in wasted}
    for chunk in found.metadata.chunks:
        if chunk.blob.file in used:
            used[chunk.blob.file].add(chunk.blob)
    names = {*found.directory.files(), found.new_payload_file, *taken}
    files: dict[str, tuple[Blob, ...]] = {}
    places: dict[Blob, Blob] = {}
    for name, blobs in used.items():
        rank, _ = found.payload_files[name]
        new = unused_names(names, rank)
        for some in _cut(_ordered(found, blobs), part_size):
            there = next(each for each in new if each not in files)
            files[there], end = some, 0
            for blob in some:
                places[blob] = Blob(there, end, blob.length)
                end += blob.length
    sizes = {name: found.payload_files[name][1] for name in wasted}
    result = found.with_metadata(found.metadata.moved(places))
    return Compaction(result, found.directory, files, sizes)


def _ordered(found: Manifest, blobs: Collection[Blob]) -> Sequence[Blob]:
    """Return byte ranges of one file in order.

    Raises:
        DamagedError: they overlap.
    """
    ordered = sorted(blobs, key=lambda blob: (blob.offset, blob.length))
    end = 0
    for blob in ordered:
        if blob.offset < end:
            raise DamagedError(
                f"has byte ranges that overlap, at byte {blob.offset}",
                path=found.path / blob.file,
                fix=f"to list all damage, run `{command('verify', found.path)}`",
            )
        end = blob.offset + blob.length
    return ordered


def _cut(blobs: Sequence[Blob], part_size: int) -> Iterator[tuple[Blob, ...]]:
    """Yield the byte ranges of each new file, which are at most `part_size` if possible."""
    some: list[Blob] = []
    count = 0
    for blob in blobs:
        if some and count + blob.length > part_size:
            yield tuple(some)
            some, count = [], 0
        some.append(blob)
        count += blob.length
    if some:
        yield tuple(some)
