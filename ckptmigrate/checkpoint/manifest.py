"""One checkpoint as an immutable value: its metadata, common state, metadata.json and file list.

`material.load` reads it; this module writes nothing. An edit returns another manifest, and
`contents` returns the new bytes of each changed file.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

from ckptmigrate.checkpoint import common, metadata
from ckptmigrate.checkpoint.common import CommonState
from ckptmigrate.checkpoint.metadata import Metadata
from ckptmigrate.checkpoint.rerun import COMMON_ENTRY, SHARDED_KEY, StoredRerun
from ckptmigrate.checkpoint.rows import Blob
from ckptmigrate.checkpoint.saved_sizes import NO_SIZES, SavedSizes
from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles import torch_file
from ckptmigrate.pickles.torch_file import TorchFile
from ckptmigrate.places import Place
from ckptmigrate.storage.directories import Directory

MARKER_FILE: Final = "metadata.json"
# The metadata files that a migration may rewrite.
METADATA_FILES: Final = (metadata.FILE, common.FILE, MARKER_FILE)
MARKS: Final = (MARKER_FILE, metadata.FILE)  # a directory without them is not a checkpoint

RNG_KEY: Final = "rng_state"
RELEASE: Final = "release"  # directory name, and content of the tracker file
PAYLOAD: Final = re.compile(r"__(\d{1,18})_(\d{1,18})\.distcp", re.ASCII)
# Releases >= 0.19 write only the sharded_* keys (core_v0.19.0
# megatron/core/dist_checkpointing/core.py CheckpointingConfig).
COMMON_MARKER: Final = {"common_backend": "torch", "common_backend_version": 1}
SHARDED_MARKER: Final = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}


@dataclass(frozen=True)
class Manifest:
    """A checkpoint without its tensors.

    Attributes:
        directory: the directory it was read from.
        marker: the content of metadata.json.
        metadata: the content of `.metadata`.
        common: the common state, from `common.pt` or the sharded object.
        sizes: the parallel sizes that a file of the framework states, if there are no `args`.
        new_payload: the bytes of `new_payload_file`, a data file that does not exist yet.
        nested: the checkpoints in folders of this one, by the path of the folder (nested.py).
    """

    directory: Directory
    marker: Mapping[str, Any]
    metadata: Metadata
    common: CommonState
    sizes: SavedSizes = NO_SIZES
    new_payload: bytes = field(default=b"", repr=False)
    nested: Mapping[str, Manifest] = field(default_factory=dict)

    @property
    def path(self) -> Place:
        """Return the checkpoint directory, for messages."""
        return self.directory.path

    @cached_property
    def payload_files(self) -> Mapping[str, tuple[int, int]]:
        """Return data file -> (writing rank, size in bytes)."""
        found: dict[str, tuple[int, int]] = {}
        for name, size in self.directory.files().items():
            match = PAYLOAD.fullmatch(name)
            if match:
                found[name] = (int(match[1]), size)
        return found

    @property
    def parts(self) -> Mapping[str, Manifest]:
        """Return "" -> this checkpoint, and `folder/` -> each nested one; keys start file names."""
        return {"": self, **{f"{folder}/": each for folder, each in self.nested.items()}}

    @property
    def all_payload(self) -> Mapping[str, int]:
        """Return data file -> size in bytes; `folder/file` for nested checkpoints."""
        return {
            f"{start}{name}": size
            for start, each in self.parts.items()
            for name, (_, size) in each.payload_files.items()
        }

    @property
    def small_files(self) -> tuple[str, ...]:
        """Return the names of METADATA_FILES; `folder/file` for nested checkpoints."""
        return tuple(f"{start}{name}" for start in self.parts for name in METADATA_FILES)

    @cached_property
    def new_payload_file(self) -> str:
        """Return an unused name for a data file of rank 0."""
        return next(unused_names(self.directory.files()))

    @property
    def iteration(self) -> int | None:
        """Return the iteration from the common state, else from the directory name, or None."""
        if self.common.iteration is not None:
            return self.common.iteration
        match = re.fullmatch(r"iter_(\d{1,64})", self.path.name, re.ASCII)
        return int(match[1]) if match else None

    @property
    def is_release(self) -> bool:
        """Return whether this is a `release` checkpoint, of which a job loads only the weights."""
        return self.path.name == RELEASE

    def size_of(self, name: str) -> Any:
        """Return a parallel size by its name in `args`: from `args`, else from the framework."""
        if self.common.arguments is not None:
            return self.common.argument(name)
        return self.sizes.values.get(name)

    @cached_property
    def rerun_keys(self) -> list[str]:
        """Return the keys of the rerun shards, in file order."""
        return [k for k in self.metadata.entries if k.startswith(f"{SHARDED_KEY}/")]

    @cached_property
    def rng_keys(self) -> list[str]:
        """Return the keys of the RNG states, in file order."""
        return [k for k in self.metadata.blobs if k.startswith(f"{RNG_KEY}/")]

    @cached_property
    def rng_symbols(self) -> tuple[str, ...]:
        """Return the globals that the first RNG state names.

        One RNG state is enough, because all ranks of a save use the same NumPy.

        Returns an empty tuple if the RNG state cannot be read, which `verify` reports.
        """
        try:
            return self.read_blob(self.rng_keys[0]).named if self.rng_keys else ()
        except DamagedError:
            return ()

    def read_blob(self, key: str) -> TorchFile:
        """Return the sharded object of a key, inert.

        Raises:
            DamagedError: the key has no bytes, or they are not a torch zip.
        """
        try:
            return torch_file.load(self.read_blob_bytes(key))
        except DamagedError as error:
            raise DamagedError(
                f"sharded object {key!r} {error.reason}", path=self.path, fix=error.fix
            ) from error

    def read_blob_bytes(self, key: str) -> bytes:
        """Return the bytes of the sharded object of a key.

        Raises:
            DamagedError: the key has no bytes, or they are not in its data file.
        """
        blob = self.metadata.blobs.get(key)
        if blob is None:
            raise DamagedError("has no row in storage_data")
        return self.directory.read_range(blob.file, blob.offset, blob.length)

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Return `length` bytes of a data file from byte `offset`.

        Raises:
            DamagedError: the file cannot be read.
        """
        return self.directory.read_range(name, offset, length)

    def same_file(self, name: str, other: Manifest, other_name: str) -> bool:
        """Return whether two data files are the same inode, so that their bytes are the same."""
        return self.directory.same_file(name, other.path / other_name)

    # -- edits; each returns another Manifest

    def with_metadata(self, edited: Metadata) -> Manifest:
        """Return the same checkpoint with another `.metadata`."""
        return replace(self, metadata=edited)

    def with_objects(self, contents: Mapping[str, bytes]) -> Manifest:
        """Return the same checkpoint with new bytes for some sharded objects."""
        payload, moved = self.new_payload, {}
        for key, content in contents.items():
            moved[key] = Blob(self.new_payload_file, len(payload), len(content))
            payload += content
        return replace(self, metadata=self.metadata.relocated(moved), new_payload=payload)

    def with_rerun(self, wanted: StoredRerun, unchanged: Mapping[str, Any]) -> Manifest:
        """Return the same checkpoint with the rerun state that a layout wants.

        Args:
            wanted: the value of `rerun_state_machine` and the rerun shards; other shards are
                dropped.
            unchanged: the current shard contents of each existing key. If a key is to have that
                same object, its bytes are not moved.
        """
        stale = [key for key in self.rerun_keys if key not in wanted.shards]
        edited = self.metadata.without(frozenset(stale))
        moved: dict[str, Blob] = {}
        added: dict[str, tuple[int, Blob]] = {}
        payload = bytearray(self.new_payload)
        known: dict[int, Blob] = {}
        for key, (rank, fields, file) in wanted.shards.items():
            if key in unchanged and unchanged[key] is fields:
                continue
            if id(fields) not in known:  # equal contents share their bytes
                content = torch_file.dump(file.with_tree([fields], "archive"))
                known[id(fields)] = Blob(self.new_payload_file, len(payload), len(content))
                payload += content
            if key in edited.entries:
                moved[key] = known[id(fields)]
            else:
                added[key] = (rank or 0, known[id(fields)])
        edited = edited.relocated(moved).with_blobs(added)
        if wanted.entry is None:
            values = self.common.without(COMMON_ENTRY)
        elif self.common.values.get(COMMON_ENTRY) is wanted.entry:
            values = self.common
        else:
            values = self.common.with_value(COMMON_ENTRY, wanted.entry)
        return replace(self, metadata=edited, common=values, new_payload=bytes(payload))

    def with_common_in_file(self) -> Manifest:
        """Return the same checkpoint with the common state in `common.pt`; update metadata.json."""
        if self.common.in_file and common.KEY not in self.metadata.entries:
            return self
        # If it is in both, the sharded object is outdated: every release reads the file.
        stale = (common.KEY,) if common.KEY in self.metadata.entries else ()
        return replace(
            self,
            metadata=self.metadata.without(stale),
            common=self.common.placed(in_file=True),
            marker={**self.marker, **COMMON_MARKER},
        )

    def with_common_in_entry(self) -> Manifest:
        """Return the same checkpoint with the common state in the sharded object `common.KEY`.

        Rank 0 writes the object.
        """
        placed = self.common.placed(in_file=False)
        unchanged = not self.common.in_file and self.common.values is self._values_as_read
        if unchanged:
            return self
        content = placed.dump()
        blob = Blob(self.new_payload_file, len(self.new_payload), len(content))
        if common.KEY in self.metadata.entries:
            edited = self.metadata.relocated({common.KEY: blob})
        else:
            edited = self.metadata.with_blobs({common.KEY: (0, blob)})
        marker = {k: v for k, v in self.marker.items() if k not in COMMON_MARKER}
        return replace(
            self,
            metadata=edited,
            common=placed,
            marker=marker,
            new_payload=self.new_payload + content,
        )

    @property
    def _values_as_read(self) -> Any:
        tree = self.common.torch_file.tree
        return tree[0] if isinstance(tree, list) else tree

    def contents(self, before: Manifest) -> dict[str, bytes | None]:
        """Return the changes from `before` on disk: file name -> bytes, or None for a removed file.

        Files of a nested checkpoint are named `folder/file`.
        """
        changed: dict[str, bytes | None] = {}
        if self.metadata is not before.metadata:
            changed[metadata.FILE] = self.metadata.dump()
        if self.common.in_file and (
            not before.common.in_file or self.common.values is not before.common.values
        ):
            changed[common.FILE] = self.common.dump()
        elif before.common.in_file and not self.common.in_file:
            changed[common.FILE] = None
        if self.marker != before.marker:
            changed[MARKER_FILE] = json.dumps(dict(self.marker)).encode()
        if self.new_payload:
            changed[self.new_payload_file] = self.new_payload
        for folder, found in self.nested.items():
            inside = found.contents(before.nested[folder])
            changed |= {f"{folder}/{name}": content for name, content in inside.items()}
        return changed


def unused_names(taken: Collection[str], rank: int = 0) -> Iterator[str]:
    """Yield names for new data files of a rank.

    Args:
        taken: names that no new file gets.
    """
    names = (f"__{rank}_{index}.distcp" for index in itertools.count())
    return (name for name in names if name not in taken)


def marker_of(found: Manifest) -> dict[str, Any]:
    """Return the content of metadata.json as releases write it.

    It depends on whether `common.pt` exists.

    Source: CheckpointingConfig of megatron/core/dist_checkpointing/core.py, core_v0.9.0 to
    core_v0.18.2, and core_v0.19.0; metadata.json of every sample.
    """
    return {**SHARDED_MARKER, **(COMMON_MARKER if found.common.in_file else {})}


def read_marker(directory: Directory) -> dict[str, Any]:
    """Return the content of metadata.json.

    Raises:
        DamagedError: it is not a JSON object.
    """
    path = directory.path / MARKER_FILE
    try:
        marker = json.loads(directory.read(MARKER_FILE))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"is not JSON ({error})", path=path) from error
    if not isinstance(marker, dict):
        raise DamagedError("is not a JSON object", path=path)
    return marker
