"""Comparison of the keys in the tables of `.metadata`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from ckptmigrate.checkpoint.material import Material
from ckptmigrate.checkpoint.rows import FLATTENED, PLANS, STORED
from ckptmigrate.checks.findings import Finding, finding
from ckptmigrate.text.printable import counted


def check(material: Material) -> Iterator[Finding]:
    """Yield findings about tables that lack a key of state_dict_metadata or have another key."""
    if material.metadata is None:
        return
    keys = dict.fromkeys(material.entries)
    yield from _compare(material, STORED, {c.key for c in material.chunks}, keys)
    if material.planned is not None:
        planned = {key for rank in material.planned for key in rank}
        yield from _compare(material, PLANS, planned, keys)
        yield from _plan_counts(material)
    # Torch fills this table only if it flattened the state dict (releases up to 0.10).
    flattened = material.metadata.attributes.get(FLATTENED)
    if isinstance(flattened, dict) and flattened:
        named = {key for key in flattened if isinstance(key, str)}
        yield from _compare(material, FLATTENED, named, keys)


def _compare(
    material: Material, table: str, named: Collection[str], keys: Collection[str]
) -> Iterator[Finding]:
    lacking = [key for key in keys if key not in named]
    if lacking:
        many = counted(len(lacking), "key is", "keys are")
        yield finding(material, "table-mismatch", f"{many} not in {table}", *lacking)
    beyond = sorted(set(named).difference(keys))
    if beyond:
        many = counted(len(beyond), "key", "keys")
        what = f"{table} contains {many} that state_dict_metadata does not"
        yield finding(material, "table-mismatch", what, *beyond)


def _plan_counts(material: Material) -> Iterator[Finding]:
    """Yield a finding if save plans and `storage_data` differ in the number of chunks of a key."""
    assert material.planned is not None
    planned = Counter(key for rank in material.planned for key in rank)
    stored = Counter(chunk.key for chunk in material.chunks)
    # A key that is only in one of the tables is reported as such.
    other = sorted(key for key, count in planned.items() if stored.get(key, count) != count)
    if other:
        many = counted(len(other), "key has", "keys have")
        yield finding(
            material,
            "table-mismatch",
            f"{many} a different number of chunks in storage_data and in all_local_plans",
            *(f"{key}: {stored[key]} stored, {planned[key]} planned" for key in other),
        )
