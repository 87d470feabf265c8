"""The rerun facts of a checkpoint, which every layout's detection uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import (
    COMMON_ENTRY,
    COMMON_FIELDS,
    IDLE,
    MODE_OF_ARGUMENT,
    MOST_RANKS,
    grid_size,
    parse_unique_key,
    positions,
    state_value,
    unique_key,
)
from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles.display import short_repr
from ckptmigrate.pickles.torch_file import TorchFile


@dataclass(frozen=True)
class RerunFacts:
    """The rerun data that a checkpoint contains.

    Attributes:
        common_in_file: whether the common state is stored in common.pt.
        entry: `rerun_state_machine` in the common state, or None.
        entry_fields: which of COMMON_FIELDS `entry` has.
        state: the state in `entry`, or None.
        grid: the global shape of the rerun sharded object; () if there is no rerun shard.
        present: the offsets of the rerun shards that exist.
        argument_mode: the RerunMode value of args.rerun_mode, or None.
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
        """Whether `rerun_state_machine` in the common state records a fault."""
        return self.state is not None and self.state != IDLE

    def missing(self, grid: tuple[int, ...] | None = None) -> tuple[str, ...]:
        """Return the keys of the rerun shards that are missing.

        Args:
            grid: the global shape to compare with; the shape on disk by default.
        """
        shape = grid or self.grid
        if len(self.present) == grid_size(shape):
            return ()
        return tuple(unique_key(p, shape) for p in positions(shape) if p not in self.present)


def gather(manifest: Manifest) -> RerunFacts:
    """Return the rerun facts of a checkpoint.

    Raises:
        DamagedError: no release writes these data: `rerun_state_machine` has another type or other
            fields, or the rerun shards have two global shapes.
    """
    entry = manifest.common.values.get(COMMON_ENTRY)
    fields: tuple[str, ...] = ()
    state = None
    if isinstance(entry, list):
        raise DamagedError(
            "has a list of rerun states in the common state, as a development snapshot of "
            "December 2024 wrote it; no release reads it",
        )
    if entry is not None:
        if not isinstance(entry, dict):
            raise DamagedError("has a rerun_state_machine in the common state that is not a dict")
        fields = tuple(name for name in COMMON_FIELDS if name in entry)
        if fields not in (("mode",), COMMON_FIELDS):
            raise DamagedError(
                f"has a rerun_state_machine with {short_repr(entry)} in the common state, which no "
                "release writes",
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
            raise DamagedError(f"has a rerun shard {key!r} whose global shape is not known")
        position, grid = parsed
        grids.add(grid)
        present.add(position)
        if any(p >= size for p, size in zip(position, grid, strict=True)):
            raise DamagedError(
                f"has a rerun shard {key!r} whose offset is outside its global shape"
            )
    if len(grids) > 1:
        raise DamagedError(
            f"has rerun shards with {len(grids)} global shapes, and releases write one",
        )
    grid = grids.pop() if grids else ()
    if grid_size(grid) > MOST_RANKS:  # bounds the list of missing shards
        raise DamagedError(
            f"has rerun shards for {grid_size(grid)} ranks, which is more than any job has"
        )
    return grid, frozenset(present)


def read_payload(manifest: Manifest, key: str) -> tuple[dict[str, Any], TorchFile]:
    """Return the contents of a rerun shard, and the archive that holds them.

    Raises:
        DamagedError: the shard is not a list with one dict.
    """
    file = manifest.read_blob(key)
    tree = file.tree
    if not (isinstance(tree, list) and len(tree) == 1 and isinstance(tree[0], dict)):
        raise DamagedError(f"rerun shard {key!r} does not contain a rerun state")
    return tree[0], file
