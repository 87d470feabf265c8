"""Replacements for what the distributed optimizer uses and a machine without a GPU lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core import optimizer
from megatron.core.optimizer import distrib_optimizer
from training_job.release import fit_in as fit_in_without_optimizer

from .formula import adam


class FusedAdam(torch.optim.Optimizer):
    """Adam with the interface of Transformer Engine and Apex: `step` is in the param groups."""

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        **_: Any,
    ) -> None:
        defaults = {"lr": lr, "bias_correction": bias_correction, "betas": betas, "eps": eps}
        super().__init__(params, {**defaults, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        for group in self.param_groups:
            if group["params"]:
                group["step"] = group.get("step", 0) + 1
            for param in group["params"]:
                state = self.state[param]
                adam(param, state["exp_avg"], state["exp_avg_sq"], param.grad, group)


def fit_in() -> None:
    """Replace them in torch and in the release."""
    fit_in_without_optimizer()
    for name in ("zeros", "ones", "empty", "full", "empty_like", "zeros_like"):
        setattr(torch, name, _on_host(getattr(torch, name)))
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor
    of_tensor = torch.Tensor.type

    def type_on_gpu(tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
        """Return the type name of a tensor as if it were on a GPU, which the optimizer expects."""
        found = of_tensor(tensor, *args, **options)
        return found.replace("torch.", "torch.cuda.") if isinstance(found, str) else found

    torch.Tensor.type = type_on_gpu
    for module in (optimizer, distrib_optimizer):
        module.Adam = FusedAdam
    optimizer.USING_PYTORCH_OPTIMIZER = False
    # 0.12 calls it without a parameter to quantize, and Transformer Engine is not installed.
    distrib_optimizer.quantize_param_shard = lambda *_: None
    distrib_optimizer.HAVE_APEX_OR_TE = True
    distrib_optimizer.USING_APEX_OPTIMIZER = True


def _on_host(create: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def create_on_host(*args: Any, device: Any = None, **options: Any) -> torch.Tensor:
        return create(*args, device="cpu" if device == "cuda" else device, **options)

    return create_on_host
