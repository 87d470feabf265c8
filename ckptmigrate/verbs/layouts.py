"""The names of layouts and targets in prose, with the releases that write a layout."""

from __future__ import annotations

from ckptmigrate.releases.facts import Compat, LayoutRow, compat
from ckptmigrate.releases.transformer_engine import ADD, DROP
from ckptmigrate.versions import LAYOUTS, UNIVERSAL


def releases(row: LayoutRow, facts: Compat) -> str:
    """Return the releases that write a layout, such as `0.14 to 0.17`."""
    bounds = row.releases.split(",")
    first = next((each.removeprefix(">=") for each in bounds if each.startswith(">=")), None)
    end = next((each.removeprefix("<") for each in bounds if each.startswith("<")), None)
    if end is None:
        return f"{first} and later"
    last = facts.known_releases[facts.known_releases.index(end) - 1]
    if first is None:
        return f"up to {last}"
    return first if first == last else f"{first} to {last}"


def layout_name(layout: str) -> str:
    """Return the name of a layout with its releases, such as `none-emitting (0.14 to 0.17)`."""
    facts = compat()
    return f"{layout} ({releases(facts.row(layout), facts)})"


def target_name(target: str) -> str:
    """Return what a result is for: a release, all from 0.9, a layout, a type, jobs or a change."""
    if target[:1].isdigit():
        return f"Megatron-Core {target}"
    if target == UNIVERSAL:
        return "every release from 0.9"
    if any(target == layout.ID for layout in LAYOUTS):
        return f"layout {layout_name(target)}"
    from ckptmigrate.planning import extra_states, targets  # `inspect` and `verify` plan nothing

    others = {targets.WEIGHTS: "jobs that load no optimizer", targets.COMPACT: "the same jobs"}
    others |= {extra_states.target_name(how): f"--extra-state {how}" for how in (ADD, DROP)}
    return others.get(target, f"sharding type {target}")
