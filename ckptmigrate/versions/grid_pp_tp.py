"""Reading and writing of rerun shards for the two layouts with one shard per (PP, TP) rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import (
    COMMON_FIELDS,
    IDLE,
    MODE_DISABLED,
    Kind,
    RerunRecord,
    Shard,
    idle_shard,
    iteration_value,
    mode_value,
    parse_unique_key,
    positions,
    state_value,
    unique_key,
)
from ckptmigrate.checkpoint.topology import Topology
from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles.torch_file import TorchFile
from ckptmigrate.versions.rerun_facts import gather, read_payload


def read(manifest: Manifest, mode_of: Callable[[dict[str, Any]], Any]) -> RerunRecord:
    """Read rerun shards that are stored per (PP, TP) rank.

    Args:
        mode_of: returns the rerun mode as the layout stores it, given the contents of a shard.

    Raises:
        DamagedError: a shard cannot be read, or no release writes its mode, state or iteration.
    """
    facts = gather(manifest)
    missing = facts.missing()
    if missing:
        return RerunRecord(Kind.CORRUPT, entry=facts.entry, grid=facts.grid, missing=missing)
    shards: dict[tuple[int, ...], Shard] = {}
    modes, states, iterations = [], [], []
    for key in manifest.rerun_keys:
        position = parse_unique_key(key)
        payload, file = read_payload(manifest, key)
        try:
            modes.append(mode_value(mode_of(payload)))
            states.append(state_value(payload.get("state")))
            iterations.append(iteration_value(payload.get("current_iteration")))
        except DamagedError as error:
            raise DamagedError(f"rerun shard {key!r} {error.reason}", fix=error.fix) from error
        fields = {k: v for k, v in payload.items() if k not in COMMON_FIELDS}
        assert position is not None  # gather() refuses other keys
        shards[position[0]] = Shard(fields, payload, file)
    faults = [state for state in states if state != IDLE]
    if modes[0] == MODE_DISABLED:
        kind = Kind.DISABLED
    else:
        kind = Kind.FAULT if faults else Kind.IDLE
    state = faults[0] if faults else IDLE
    return RerunRecord(kind, modes[0], state, iterations[0], facts.entry, facts.grid, shards)


def place(
    record: RerunRecord,
    topology: Topology,
    payload_of: Callable[[dict[str, Any]], dict[str, Any]],
) -> dict[str, tuple[int | None, dict[str, Any], TorchFile]]:
    """Return the rerun shards, one per (PP, TP) rank, each with the rank that writes it.

    Each shard has the contents that the record has for this (PP, TP): those of the same key, or
    those of the rank with data parallel rank 0 if the record has one shard per rank. Otherwise the
    shard is a new idle one.

    Args:
        payload_of: makes the layout's shard contents from neutral fields.

    Returns:
        Key -> (rank, contents, archive); rank is None for a shard that the save plan already has.

    Raises:
        RefusedError: a required parallel size is unknown.
    """
    if len(record.grid) == 2:
        return {
            unique_key(position, record.grid): (None, payload_of(shard.fields), shard.file)
            for position, shard in record.shards.items()
        }
    grid = topology.require_grid()
    fresh = idle_shard()
    fresh_payload = payload_of(fresh.fields)
    placed: dict[str, tuple[int | None, dict[str, Any], TorchFile]] = {}
    for position in positions(grid):
        rank = topology.rank_of(*position)
        shard = record.shards.get((rank,))
        payload = payload_of(shard.fields) if shard else fresh_payload
        placed[unique_key(position, grid)] = (rank, payload, (shard or fresh).file)
    return placed
