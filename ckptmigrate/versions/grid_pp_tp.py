"""What the two layouts with a (PP, TP) grid share: reading and writing whole payloads."""

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
from ckptmigrate.inert.torchfile import TorchFile
from ckptmigrate.versions.facts import gather, read_payload


def read(manifest: Manifest, mode_of: Callable[[dict[str, Any]], Any]) -> RerunRecord:
    """Read a (PP, TP) grid.

    Args:
        mode_of: where the layout keeps the mode, given a payload.

    Raises:
        DamagedError: a payload cannot be read, or has a mode, state or iteration of no release.
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
    """The shards of a (PP, TP) grid, each with the rank that writes it (None: as it was).

    Where the record has a payload for the place (its own grid, or the (WORLD,) payload of the
    rank with data parallel rank 0) that one goes in, else a fresh idle one.

    Args:
        payload_of: the layout's payload, made from neutral fields.

    Raises:
        RefusedError: sizes that are needed are not known.
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
