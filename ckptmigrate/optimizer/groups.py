"""The param_groups of an optimizer, as each release writes them."""

from __future__ import annotations

from typing import Any, Final

from ckptmigrate.optimizer.record import Chained
from ckptmigrate.optimizer.target import OptimizerTarget

_DECOUPLED: Final = "is_decoupled_lr"
_DEFAULT: Final = "default_config"  # since 0.16: whether no override changes the learning rate
_STEP: Final = "step"


def adapted(
    chained: Chained, target: OptimizerTarget
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return the param_groups for a target, and the changes as sentences.

    Source: core_v0.13.1, core_v0.15.3, core_v0.16.1, core_v0.19.0
    megatron/core/optimizer/__init__.py _get_param_groups,
    megatron/core/optimizer/distrib_optimizer.py load_state_dict.
    """
    groups = [dict(group) for group in chained.groups]
    notes = []
    steps = [group[_STEP] for group in groups if group.get(_STEP) is not None]
    missing = [group for group in groups if group.get(_STEP) is None]
    if missing and steps:
        for group in missing:
            group[_STEP] = steps[0]
        notes.append(f"param_groups without a step get that of the others: {steps[0]}")
    if target.is_before("0.16"):
        for group in groups:
            if _DEFAULT in group:
                group[_DECOUPLED] = not group.pop(_DEFAULT)
    elif target.release is not None:
        for group in groups:
            if _DEFAULT not in group:
                group[_DEFAULT] = not group.get(_DECOUPLED, False)
                group[_DECOUPLED] = False
    if target.is_before("0.14"):  # matched by position, in the order of their first parameters
        ordered = sorted(groups, key=_first_appearance)
        if ordered != groups:
            notes.append("param_groups are in the order of their first parameters")
        groups = ordered
    return groups, tuple(notes)


def _first_appearance(group: dict[str, Any]) -> tuple[bool, bool]:
    """Return a key that sorts the group of the first parameter, the embedding, to the front."""
    return not group.get(_DECOUPLED, False), not group.get("wd_mult", 1.0)
