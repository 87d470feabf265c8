"""Reader of the tables of `.metadata`: their readable rows, and the damage of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ckptmigrate.checkpoint.damage import Damage
from ckptmigrate.checkpoint.rows import (
    ENTRIES,
    FLATTENED,
    PLANS,
    STORED,
    Chunk,
    Piece,
    chunk_of,
    is_entry,
    item_key,
    piece_of,
)
from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles.tree import Object
from ckptmigrate.text.printable import counted

_NO_PLANS = "has an all_local_plans that is not a list of save plans"
Planned = tuple[tuple[str, ...], ...]  # per rank, the keys in its save plan


def entries(table: Any) -> tuple[Mapping[str, Any], list[Damage]]:
    """Return the rows of `state_dict_metadata` whose key is text."""
    if not isinstance(table, dict):
        return {}, [_malformed(f".metadata has no {ENTRIES}", f"has no {ENTRIES}")]
    found = {key: entry for key, entry in table.items() if isinstance(key, str)}
    bad = len(table) - len(found)
    what = f"{counted(bad, 'key is', 'keys are')} not text"
    damage = [_malformed(what, "has a key that is not text")] if bad else []
    return found, damage + unknown(found)


def unknown(found: Mapping[str, Any]) -> list[Damage]:
    """Return the damage of values that are neither a tensor nor a sharded object, if any."""
    keys = [key for key, entry in found.items() if not is_entry(entry)]
    many = counted(len(keys), "key is", "keys are")
    what = f"{many} neither a tensor nor a sharded object"
    return [Damage("entry-malformed", what, tuple(keys))] if keys else []


def chunks(table: Any) -> tuple[tuple[Chunk, ...], list[Damage]]:
    """Return the readable rows of `storage_data`."""
    if not isinstance(table, dict):
        return (), [_malformed(f".metadata has no {STORED}", f"has no {STORED}")]
    found, bad = [], []
    for index, where in table.items():
        try:
            found.append(chunk_of(index, where))
        except DamagedError as error:
            bad.append(error.reason)
    many = counted(len(bad), "row of storage_data is", "rows of storage_data are")
    damage = [_malformed(f"{many} not a byte range", bad[0], *dict.fromkeys(bad))] if bad else []
    return tuple(found), damage + _stored_twice(found)


def _stored_twice(found: Sequence[Chunk]) -> list[Damage]:
    seen: set[Piece] = set()
    twice: dict[str, None] = {}
    for chunk in found:
        piece = piece_of(chunk.key, chunk.offsets)
        if piece in seen:
            twice[chunk.key] = None
        seen.add(piece)
    if not twice:
        return []
    reason = f"stores a chunk of {next(iter(twice))!r} twice"
    return [_malformed("a chunk of a key is stored twice", reason, *twice)]


def planned(attributes: Mapping[str, Any]) -> tuple[Planned | None, list[Damage]]:
    """Return the keys in the save plans; None if there are no readable plans."""
    damage = []
    if not isinstance(attributes.get(FLATTENED), dict | None):
        damage.append(_contradictory("has a planner_data that is not a dict"))
    plans = attributes.get(PLANS)
    if plans is None:
        return None, damage
    if not isinstance(plans, list):
        return None, [*damage, _malformed("all_local_plans is not a list", _NO_PLANS)]
    keys = []
    for rank, plan in enumerate(plans):
        items = plan.attributes.get("items") if isinstance(plan, Object) else None
        if not isinstance(items, list):
            return None, [
                *damage,
                _malformed(f"the save plan of rank {rank} has no items", _NO_PLANS),
            ]
        try:
            keys.append(tuple(map(item_key, items)))
        except DamagedError as error:
            what = f"the save plan of rank {rank} {error.reason}"
            return None, [*damage, _malformed(what, error.reason)]
        if not isinstance(plan.attributes.get(FLATTENED), dict | None):
            damage.append(_contradictory(_NO_PLANS))
    return tuple(keys), damage


def without_entry(stored: Sequence[Chunk], keys: Mapping[str, Any]) -> list[Damage]:
    """Return the damage of rows of `storage_data` whose key has no entry."""
    alone = next((chunk.key for chunk in stored if chunk.key not in keys), None)
    return (
        []
        if alone is None
        else [_contradictory(f"stores {alone!r}, which is not in state_dict_metadata")]
    )


def _contradictory(reason: str) -> Damage:
    """Return damage that is not a finding of the reader: a check of `verify` reports it, if any."""
    return Damage(None, error=DamagedError(reason))


def _malformed(what: str, reason: str, *items: str) -> Damage:
    return Damage("entry-malformed", what, items, error=DamagedError(reason))
