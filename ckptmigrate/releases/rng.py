"""The RNG states: which shards a release requests, and how to rename their keys for it.

There are two grids. In the (PP, TP) grid, one sharded object per (PP, TP) rank is saved, from the
rank with data and context parallel rank 0. The object is a list of one state or, with
--data-parallel-random-init, of one state per data parallel rank, from which each rank takes its
own. In the (PP, TP, DP x CP) grid, every rank saves such a list. The keys of a checkpoint tell
which grid it has. On load a job requests the shards that it would save.

Source: get_rng_state and load_checkpoint of megatron/training/checkpointing.py, core_v0.9.0 to
core_v0.19.0; which release does what is in compat_matrix.yaml. Megatron-Bridge v0.3.0 to v0.6.0
src/megatron/bridge/training/checkpointing.py get_rng_state has the second grid with expert
parallelism.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ckptmigrate.checkpoint import differences
from ckptmigrate.checkpoint.manifest import RNG_KEY, Manifest
from ckptmigrate.checkpoint.rerun import grid_size, parse_unique_key, positions, unique_key
from ckptmigrate.checkpoint.rows import Blob
from ckptmigrate.checkpoint.topology import Given, derive, has_encoder
from ckptmigrate.releases.readers import Reader
from ckptmigrate.versions.load_rules import MISSING

FLAG: Final = "--no-load-rng"
# Keys of several models, each with its own parallelism (core_v0.19.0, key_prefix; Megatron-Bridge
# v0.6.0, module_name). What their jobs request is unknown.
_NAMED: Final = re.compile(rf"[^/]+{RNG_KEY}/|{RNG_KEY}\.[^/]+/", re.ASCII)
GRID: Final = "rng-grid"  # a subject of compat_matrix.yaml

Position = tuple[int, ...]


@dataclass(frozen=True)
class MissingStates:
    """RNG states that a job requests and that the checkpoint does not have.

    Attributes:
        error: the error of the job.
        why: the reason.
        unknown: why it is not known whether the job requests them, or None.
    """

    error: str
    why: str
    unknown: str | None


@dataclass(frozen=True)
class Rekeyed:
    """A manifest with the RNG state keys that a reader requests.

    Attributes:
        manifest: the manifest; the same object if nothing had to change.
        lossy: whether ranks had different states, some of which are dropped.
        note: a description of the change, or None.
    """

    manifest: Manifest
    lossy: bool = False
    note: str | None = None


def missing(
    found: Manifest,
    reader: Reader,
    grid: tuple[int, int],
    world: int,
    experts: int | None = None,
) -> MissingStates | None:
    """Return the RNG states that a job requests and that are missing, or None.

    Args:
        grid: (PP, TP) of the job, in ranks. It equals that of the checkpoint, because otherwise
            no job requests RNG states.
        world: world size of the job, in ranks.
        experts: expert parallel size of the job, in ranks; None for that of the checkpoint.
    """
    if found.common.arguments is None or not saved(found):
        return None
    if has_encoder(found):  # its RNG states have several global shapes
        return None
    if found.is_release or any(_NAMED.match(key) for key in found.metadata.blobs):
        return None
    asked: Position = grid
    if _by_rank(found, reader, experts):
        asked = (*grid, max(world // grid_size(grid), 1))
    stored = _stored(found)
    present = stored.get(asked, frozenset())
    lacking = next((place for place in positions(asked) if place not in present), None)
    if lacking is None:
        return None
    has = " and ".join(_words(each) for each in stored) or "none"
    changed = reader.unmeasured(GRID) if any(len(grid) == 3 for grid in stored) else None
    return MissingStates(
        f"{MISSING}{unique_key(lacking, asked, RNG_KEY)}.",
        f"the release requests one RNG state per {_words(asked)}, and the checkpoint has {has}",
        None
        if changed is None
        else f"the checkpoint has one RNG state per {has}, and {changed.measured} requests one per "
        f"{_words(asked)}: {changed.change}",
    )


def saved(found: Manifest) -> bool:
    """Return whether the checkpoint was saved without --no-save-rng."""
    return not found.common.argument("no_save_rng")


def rekeyed(found: Manifest, reader: Reader | None, given: Given | None = None) -> Rekeyed:
    """Convert the RNG keys from the (PP, TP, DP x CP) grid to the (PP, TP) grid, or back.

    Args:
        reader: the release that loads the result; None for every release. With expert parallelism
            no grid suits all of them, and the grid stays.

    The data files do not change: new keys refer to existing bytes. A later upgrade restores the
    dropped keys from the original files that the sidecar keeps.

    Raises:
        RefusedError: required parallel sizes are unknown or contradict each other.
    """
    stored = _stored(found)
    if len(stored) != 1:
        return Rekeyed(found)
    [(grid, present)] = stored.items()
    if len(present) != grid_size(grid):
        return Rekeyed(found)
    if reader is None and _has_experts(found):
        return Rekeyed(found)
    if len(grid) == 3 and not _by_rank(found, reader):
        return _with_fewer(found, grid, reader)
    if len(grid) == 2 and _by_rank(found, reader):
        return _with_more(found, grid, given)
    return Rekeyed(found)


def _by_rank(found: Manifest, reader: Reader | None, experts: int | None = None) -> bool:
    """Return whether a reader requests one RNG state per rank for this expert parallelism."""
    return reader is not None and reader.rng_by_rank and _has_experts(found, experts)


def _has_experts(found: Manifest, experts: int | None = None) -> bool:
    experts = experts or found.size_of("expert_model_parallel_size")
    return type(experts) is int and experts > 1


def _stored(found: Manifest) -> dict[Position, frozenset[Position]]:
    """Return the offsets of the RNG states in the checkpoint: global shape -> offsets."""
    stored: dict[Position, set[Position]] = {}
    for key in found.rng_keys:
        parsed = parse_unique_key(key, RNG_KEY)
        if parsed is not None:
            place, grid = parsed
            stored.setdefault(grid, set()).add(place)
    return {grid: frozenset(places) for grid, places in stored.items()}


def _with_fewer(found: Manifest, grid: Position, reader: Reader | None) -> Rekeyed:
    """Keep the states of the first rank of each (PP, TP)."""
    firsts = {
        place[:2]: unique_key(place, grid, RNG_KEY) for place in positions(grid) if not place[2]
    }
    lossy = not all(
        _same(found, firsts[place[:2]], unique_key(place, grid, RNG_KEY))
        for place in positions(grid)
    )
    ranks = {key: rank for rank, keys in enumerate(found.metadata.planned or ()) for key in keys}
    added = {
        unique_key(place, grid[:2], RNG_KEY): (ranks.get(first, 0), found.metadata.blobs[first])
        for place, first in firsts.items()
    }
    note = "every data and context parallel rank loads the RNG state of the first of them"
    if not lossy:
        note = f"{note}, which is equal to its own"
    changed = None if reader is None else reader.unmeasured(GRID)
    if changed is not None:
        note = f"{note} (in {changed.measured}: {changed.change})"
    return _with(found, grid, added, lossy=lossy, note=note)


def _with_more(found: Manifest, grid: Position, given: Given | None) -> Rekeyed:
    """Add a key for each rank that refers to the states of its (PP, TP)."""
    topology = derive(found, given)
    topology.require_grid()  # which names all unknown sizes
    whole = (*grid, max(topology.require_world() // grid_size(grid), 1))
    added = {
        unique_key(place, whole, RNG_KEY): (
            topology.rank_of(*place),
            found.metadata.blobs[unique_key(place[:2], grid, RNG_KEY)],
        )
        for place in positions(whole)
    }
    note = "every data and context parallel rank gets the RNG state of its (PP, TP) rank"
    return _with(found, grid, added, lossy=False, note=note)


def _with(
    found: Manifest, gone: Position, added: dict[str, tuple[int, Blob]], *, lossy: bool, note: str
) -> Rekeyed:
    stale = frozenset(unique_key(place, gone, RNG_KEY) for place in positions(gone))
    edited = found.metadata.without(stale).with_blobs(added)
    return Rekeyed(found.with_metadata(edited), lossy, note)


def _same(found: Manifest, first: str, other: str) -> bool:
    """Return whether two keys have the same states."""
    if first == other:
        return True
    return differences.same_object(found.read_blob_bytes(first), found.read_blob_bytes(other))


def _words(grid: Position) -> str:
    names = "(PP, TP, DP x CP)" if len(grid) == 3 else "(PP, TP)"
    return f"{names} rank ({' x '.join(map(str, grid))})"
