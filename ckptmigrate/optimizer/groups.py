"""The param_groups of an optimizer, as each release writes them."""

from __future__ import annotations

from typing import Any, Final

from ckptmigrate.optimizer import registration
from ckptmigrate.optimizer.record import Chained
from ckptmigrate.optimizer.source import Source
from ckptmigrate.optimizer.target import OptimizerTarget

_DECOUPLED: Final = "is_decoupled_lr"
_DEFAULT: Final = "default_config"  # since 0.16: whether no override changes the learning rate
_STEP: Final = "step"


def adapted(
    source: Source, chained: Chained, target: OptimizerTarget
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return the param_groups for a target, and the changes as sentences.

    Source: core_v0.13.1, core_v0.15.3, core_v0.16.1, core_v0.19.0
    megatron/core/optimizer/__init__.py _get_param_groups,
    megatron/core/optimizer/distrib_optimizer.py load_state_dict.

    Raises:
        RefusedError: the target requires an order of the groups that the checkpoint does not show.
    """
    groups = [dict(group) for group in chained.groups]
    notes = []
    steps = [group[_STEP] for group in groups if group.get(_STEP) is not None]
    missing = [group for group in groups if group.get(_STEP) is None]
    if missing and steps:
        for group in missing:
            group[_STEP] = steps[0]
        notes.append(f"param_groups without a step get that of the others: {steps[0]}")
    are_sorted = any(_DEFAULT in group for group in groups)
    if target.is_before("0.16"):
        for group in groups:
            if _DEFAULT in group:
                group[_DECOUPLED] = not group.pop(_DEFAULT)
    elif target.release is not None:
        for group in groups:
            if _DEFAULT not in group:
                group[_DEFAULT] = not group.get(_DECOUPLED, False)
                group[_DECOUPLED] = False
    if target.is_before("0.14") and are_sorted:
        ordered = _by_first_parameter(source, groups)
        if ordered != groups:
            notes.append("param_groups are in the order of their first parameters")
        groups = ordered
    return groups, tuple(notes)


def _by_first_parameter(source: Source, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return groups that 0.16 or later sorted in the order of the first parameter of each.

    Releases up to 0.13 match groups by position. The first parameter is the word embedding, which
    has weight decay and may have a decoupled learning rate.

    Raises:
        RefusedError: the order of the other groups is not known.
    """
    decoupled = [group for group in groups if group.get(_DECOUPLED)]
    others = [group for group in groups if not group.get(_DECOUPLED)]
    decay_first: bool | None = True
    if decoupled and len({bool(group.get("wd_mult", 1.0)) for group in others}) > 1:
        decay_first = registration.layers_start_with_decay(source)
        if decay_first is None:
            raise source.refusal("the order of its param_groups is not known")
    return [
        *sorted(decoupled, key=lambda group: not group.get("wd_mult", 1.0)),
        *sorted(others, key=lambda group: bool(group.get("wd_mult", 1.0)) != decay_first),
    ]
