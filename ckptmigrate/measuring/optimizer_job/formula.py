"""The values of every element of the weights, gradients and optimizer states, by a formula.

An element's value is a function of the parameter's name and the element's index in the global
tensor, so that no code that saves, loads or converts is needed to know it. The samples with
an optimizer have these values, too.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch

STATES = ("param", "exp_avg", "exp_avg_sq")
STEP = 7  # of every param group of a new checkpoint
LR, WEIGHT_DECAY = 0.001, 0.01
LOSS_SCALE = 2.0**13  # with fp16
GROUP: dict[str, Any] = {"lr": LR, "betas": (0.9, 0.999), "eps": 1e-8}
_SHIFT = {"param": 0.5, "exp_avg": 0.5, "exp_avg_sq": 0.0, "grad": 0.5}
_SCALE = {"param": 0.25, "exp_avg": 1.0, "exp_avg_sq": 1.0, "grad": 1.0}


def values(key: str, state: str, index: torch.Tensor) -> torch.Tensor:
    """Return the fp32 values of elements.

    Args:
        key: the stored name of the parameter.
        state: a name in STATES, or `grad`.
        index: row-major indices of the elements in the global tensor, int64.
    """
    seed = zlib.crc32(f"module.{key}|{state}".encode())
    mixed = index * 2654435761 + seed * 40503 + (index ^ seed) * 97
    value = (mixed % 2**23).to(torch.float32) / 2**23
    return (value - _SHIFT[state]) * _SCALE[state]


def trained(key: str, index: torch.Tensor, steps: int, *, decays: bool) -> list[torch.Tensor]:
    """Return the states of elements (in the order of STATES) after some steps of Adam.

    Args:
        steps: how many steps the elements are trained, from the values of the formula on.
        decays: whether the weights decay; those of one dimension do not.
    """
    states = [values(key, state, index) for state in STATES]
    group = {**GROUP, "weight_decay": WEIGHT_DECAY if decays else 0.0}
    for step in range(STEP + 1, STEP + 1 + steps):
        adam(*states, values(key, "grad", index), {**group, "step": step})
    return states


def adam(
    param: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    grad: torch.Tensor,
    group: dict[str, Any],
) -> None:
    """Perform a step of AdamW in place.

    Each operation rounds once, so that an element's result does not depend on the shard it is in.
    """
    beta1, beta2 = group["betas"]
    exp_avg.mul_(beta1).add_(grad * (1 - beta1))
    exp_avg_sq.mul_(beta2).add_(grad * grad * (1 - beta2))
    root = exp_avg_sq.div(1 - beta2 ** group["step"]).sqrt_().add_(group["eps"])
    update = exp_avg.div(1 - beta1 ** group["step"]).div_(root)
    param.sub_(update.add_(param * group["weight_decay"]).mul_(group["lr"]))
