"""The rerun facts of a checkpoint, gathered once, for every layout to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import (
    COMMON_ENTRY,
    COMMON_FIELDS,
    IDLE,
    MODE_OF_ARGUMENT,
    grid_size,
    parse_unique_key,
    positions,
    state_value,
    unique_key,
)
from ckptmigrate.errors import DamagedError
from ckptmigrate.inert.short import short
from ckptmigrate.inert.torchfile import TorchFile


@dataclass(frozen=True)
class RerunFacts:
    """What the files say of reruns.

    Attributes:
        common_in_file: whether the common state lies in common.pt.
        entry: the common entry; None where there is none.
        entry_fields: which of COMMON_FIELDS the entry has.
        state: the state in the common entry, or None.
        grid: the shape of the sharded object; () where no shard is there.
        present: the positions of the grid that are there.
        argument_mode: the RerunMode value that args.rerun_mode stands for, or None.
    """

    common_in_file: bool
    entry: Any
    entry_fields: tuple[str, ...]
    state: int | None
    grid: tuple[int, ...]
    present: frozenset[tuple[int, ...]]
    argument_mode: str | None

    @property
    def fault(self) -> bool:
        """Whether the common entry tells of a fault."""
        return self.state is not None and self.state != IDLE

    def missing(self, grid: tuple[int, ...] | None = None) -> tuple[str, ...]:
        """The keys that a grid lacks; the grid that is there where none is given."""
        shape = grid or self.grid
        if len(self.present) == grid_size(shape):
            return ()
        return tuple(unique_key(p, shape) for p in positions(shape) if p not in self.present)


def gather(manifest: Manifest) -> RerunFacts:
    """The rerun facts of a checkpoint.

    Raises:
        DamagedError: the facts fit no release: an entry of another kind, shards of two grids.
    """
    entry = manifest.common.values.get(COMMON_ENTRY)
    fields: tuple[str, ...] = ()
    state = None
    if isinstance(entry, list):
        raise DamagedError(
            "has a list of rerun states per rank in its common state, as a development "
            "snapshot of December 2024 wrote it and no release reads",
        )
    if entry is not None:
        if not isinstance(entry, dict):
            raise DamagedError("has a rerun entry that is no dict")
        fields = tuple(name for name in COMMON_FIELDS if name in entry)
        if fields not in (("mode",), COMMON_FIELDS):
            raise DamagedError(
                f"has a rerun entry with {short(entry)} in its common "
                "state, which no release writes",
            )
        if fields == COMMON_FIELDS:
            state = state_value(entry["state"])
    grid, present = _shards(manifest)
    return RerunFacts(
        manifest.common.in_file,
        entry,
        fields,
        state,
        grid,
        present,
        MODE_OF_ARGUMENT.get(str(manifest.common.argument("rerun_mode"))),
    )


def _shards(manifest: Manifest) -> tuple[tuple[int, ...], frozenset[tuple[int, ...]]]:
    grids: set[tuple[int, ...]] = set()
    present: set[tuple[int, ...]] = set()
    for key in manifest.rerun_keys:
        parsed = parse_unique_key(key)
        if parsed is None or len(parsed[1]) > 2:
            raise DamagedError(f"has a rerun shard {key!r} of no known grid")
        position, grid = parsed
        grids.add(grid)
        present.add(position)
        if any(p >= size for p, size in zip(position, grid, strict=True)):
            raise DamagedError(f"has a rerun shard {key!r} outside of its grid")
    if len(grids) > 1:
        raise DamagedError(
            f"has rerun shards of {len(grids)} grids, and no release writes more than one",
        )
    grid = grids.pop() if grids else ()
    # A hostile key may name a grid of billions; no job has more shards than keys can say.
    if grid_size(grid) > 1_000_000:
        raise DamagedError(f"has a rerun grid of {grid_size(grid)} ranks")
    return grid, frozenset(present)


def read_payload(manifest: Manifest, key: str) -> tuple[dict[str, Any], TorchFile]:
    """The payload dict behind a rerun key, and the archive it stands in.

    Raises:
        DamagedError: the blob is no one-element list with a dict.
    """
    file = manifest.read_blob(key)
    tree = file.tree
    if not (isinstance(tree, list) and len(tree) == 1 and isinstance(tree[0], dict)):
        raise DamagedError(f"rerun shard {key!r} holds no rerun payload")
    return tree[0], file
