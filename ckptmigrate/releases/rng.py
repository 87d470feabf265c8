"""The RNG states: the grid that a release asks for, and a checkpoint re-keyed for it.

A job of every release saves them as one sharded object per place of a (PP, TP) grid, that of the
rank with data and context parallel rank 0: a list of one state, or, with
--data-parallel-random-init, of one state per data parallel rank, out of which each picks its
own. 0.16 alone, and only with expert parallelism, saves such a list for every rank, in a (PP, TP,
DP x CP) grid. On load a job asks for the grid that it would save.

Source: get_rng_state and load_checkpoint of megatron/training/checkpointing.py, core_v0.9.0 to
core_v0.19.0; which release does what is in compat_matrix.yaml.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ckptmigrate.checkpoint import diffing
from ckptmigrate.checkpoint.manifest import RNG_KEY as KEY
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import grid_size, parse_unique_key, positions, unique_key
from ckptmigrate.checkpoint.rows import Blob
from ckptmigrate.checkpoint.topology import Given, derive, has_encoder
from ckptmigrate.releases.readers import Reader
from ckptmigrate.versions.taking import MISSING

FLAG: Final = "--no-load-rng"
# Several models on grids of their own (core_v0.19.0, key_prefix): nothing is known of their jobs.
_PREFIXED: Final = re.compile(rf"[^/]+{KEY}/", re.ASCII)

Position = tuple[int, ...]


@dataclass(frozen=True)
class Rekeyed:
    """A manifest with the RNG states in the grid of a reader.

    Attributes:
        manifest: the manifest; the very same where nothing had to change.
        lossy: whether ranks had states of their own that are left out.
        note: what was done, or None.
    """

    manifest: Manifest
    lossy: bool = False
    note: str | None = None


def missing(
    found: Manifest, reader: Reader, grid: tuple[int, int], world: int
) -> tuple[str, str] | None:
    """The error and the reason where a job asks for RNG states that are not there.

    Args:
        grid: (PP, TP) of the job, which is that of the checkpoint: with another one, no job
            asks for RNG states.
        world: WORLD of the job, in ranks.
    """
    if found.common.arguments is None or not saved(found):
        return None
    if has_encoder(found):  # of several grids
        return None
    if found.is_release or any(_PREFIXED.match(key) for key in found.metadata.blobs):
        return None
    asked = _asked(found, reader, grid, world)
    stored = _stored(found)
    present = stored.get(asked, frozenset())
    lacking = next((place for place in positions(asked) if place not in present), None)
    if lacking is None:
        return None
    has = " and ".join(_words(each) for each in stored) or "none"
    return (
        f"{MISSING}{unique_key(lacking, asked, KEY)}.",
        f"it asks for RNG states by {_words(asked)}, and the checkpoint has {has}",
    )


def saved(found: Manifest) -> bool:
    """Whether the job that saved it was not told --no-save-rng."""
    return not found.common.argument("no_save_rng")


def rekeyed(found: Manifest, reader: Reader, given: Given | None = None) -> Rekeyed:
    """Turn the grid of 0.16 with expert parallelism into that of all others, or the reverse.

    The payload stays as it is: new keys point to the bytes that are there. What no key points
    to any more comes back on the way up, from the originals of the sidecar.

    Raises:
        RefusedError: sizes that are needed are unknown or contradict each other.
    """
    stored = _stored(found)
    if len(stored) != 1:
        return Rekeyed(found)
    [(grid, present)] = stored.items()
    if len(present) != grid_size(grid):
        return Rekeyed(found)
    if len(grid) == 3 and not _by_rank(found, reader):
        return _with_fewer(found, grid)
    if len(grid) == 2 and _by_rank(found, reader):
        return _with_more(found, grid, given)
    return Rekeyed(found)


def _by_rank(found: Manifest, reader: Reader) -> bool:
    """Whether a reader asks for the states of every rank, given the expert parallelism."""
    experts = found.common.argument("expert_model_parallel_size")
    return reader.rng_by_rank and type(experts) is int and experts > 1


def _asked(found: Manifest, reader: Reader, grid: tuple[int, int], world: int) -> Position:
    if not _by_rank(found, reader):
        return grid
    return (*grid, max(world // grid_size(grid), 1))


def _stored(found: Manifest) -> dict[Position, frozenset[Position]]:
    """Grid -> the places of it that the checkpoint has states for."""
    stored: dict[Position, set[Position]] = {}
    for key in found.rng_keys:
        parsed = parse_unique_key(key, KEY)
        if parsed is not None:
            place, grid = parsed
            stored.setdefault(grid, set()).add(place)
    return {grid: frozenset(places) for grid, places in stored.items()}


def _with_fewer(found: Manifest, grid: Position) -> Rekeyed:
    """Of every place (PP, TP) the states of its first rank, as all other releases save them."""
    firsts = {place[:2]: unique_key(place, grid, KEY) for place in positions(grid) if not place[2]}
    lossy = not all(
        _same(found, firsts[place[:2]], unique_key(place, grid, KEY)) for place in positions(grid)
    )
    ranks = {
        key: rank
        for rank in range(len(found.metadata.plans or ()))
        for key in found.metadata.plan_keys(rank)
    }
    added = {
        unique_key(place, grid[:2], KEY): (ranks.get(first, 0), found.metadata.blobs[first])
        for place, first in firsts.items()
    }
    note = "every data and context parallel rank has the RNG states of the first"
    if not lossy:
        note = f"{note}, which are its own"
    return _with(found, grid, added, lossy=lossy, note=note)


def _with_more(found: Manifest, grid: Position, given: Given | None) -> Rekeyed:
    """For every rank the states that every other release would give it."""
    topology = derive(found, given)
    whole = (*grid, max(topology.require_world() // grid_size(grid), 1))
    added = {
        unique_key(place, whole, KEY): (
            topology.rank_of(*place),
            found.metadata.blobs[unique_key(place[:2], grid, KEY)],
        )
        for place in positions(whole)
    }
    note = "every data and context parallel rank gets the RNG states that are there for (PP, TP)"
    return _with(found, grid, added, lossy=False, note=note)


def _with(
    found: Manifest, gone: Position, added: dict[str, tuple[int, Blob]], *, lossy: bool, note: str
) -> Rekeyed:
    stale = frozenset(unique_key(place, gone, KEY) for place in positions(gone))
    edited = found.metadata.without(stale).with_blobs(added)
    return Rekeyed(found.with_metadata(edited), lossy, note)


def _same(found: Manifest, first: str, other: str) -> bool:
    """Whether two keys have the same states behind them."""
    if first == other:
        return True
    return diffing.same_object(found.read_blob_bytes(first), found.read_blob_bytes(other))


def _words(grid: Position) -> str:
    names = "(PP, TP, DP x CP)" if len(grid) == 3 else "(PP, TP)"
    return f"{names} in a grid of {' x '.join(map(str, grid))}"
