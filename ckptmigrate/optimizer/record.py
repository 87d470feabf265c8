"""The distributed optimizer in a neutral form, independent of the types that store it.

Every element is identified by parameter, state and cell. A cell is the part of a parameter that one
model parallel rank holds, and the unit in which releases store it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.optimizer.tensors import Numbers, Spans

PARAM: Final = "param"  # the fp32 copy of the weight
STATES: Final = (PARAM, "exp_avg", "exp_avg_sq")  # Adam; Lion has the first two
# A key of the optimizer: of several optimizers (MoE), each may have a prefix, and so have those of
# the modules of a MIMO model (core_v0.19.0 megatron/core/models/mimo/optimizer.py).
KEY: Final = re.compile(
    r"(?:mimo\.[^.]+\.)?(?:chained_(?P<chain>\d{1,4})\.)?optimizer\.(?P<rest>.+)", re.ASCII
)
STATE_KEY: Final = re.compile(r"state\.(?P<state>[^.]+)\.(?P<parameter>.+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class ParameterCell:
    """The states of one cell of a parameter.

    Attributes:
        offsets, sizes: the cell in the global tensor, per dimension.
        states: state -> where its elements are, in row-major order.
    """

    offsets: Numbers
    sizes: Numbers
    states: Mapping[str, Spans]

    @property
    def count(self) -> int:
        """Return the number of elements."""
        return math.prod(self.sizes)


@dataclass(frozen=True)
class Parameter:
    """The states of one parameter.

    Attributes:
        name: the key of its weight in the same checkpoint.
        shape: its global shape.
        cells: its cells, in the order of their offsets.
    """

    name: str
    shape: Numbers
    cells: tuple[ParameterCell, ...]


@dataclass(frozen=True)
class Chained:
    """The settings of one of the chained optimizers (MoE has one for experts); often the only one.

    Attributes:
        groups: its param_groups, inert, with the hyperparameters and `step`.
        grad_scaler: the state of its loss scaler, inert, or None.
    """

    groups: tuple[dict[str, Any], ...]
    grad_scaler: Any = None


@dataclass(frozen=True)
class Replica:
    """A parameter whose copies on several ranks differ.

    Attributes:
        name: the parameter.
        states: the states that differ.
        places: the copies, the one that is kept first.
    """

    name: str
    states: tuple[str, ...]
    places: tuple[str, ...]


@dataclass(frozen=True)
class OptimizerRecord:
    """The distributed optimizer of a checkpoint.

    Attributes:
        parameters: every parameter with its states, by name.
        chained: the optimizers.
        replicas: parameters whose copies differ.
        notes: how the names of parameters were found, as sentences.
    """

    parameters: Mapping[str, Parameter]
    chained: tuple[Chained, ...]
    replicas: tuple[Replica, ...] = ()
    notes: tuple[str, ...] = ()
