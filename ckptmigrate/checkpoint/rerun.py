"""The rerun state in a neutral form, independent of the layouts that store it.

Source of the field names and enums: RerunStateMachine of core_v0.10.0 to core_v0.19.0
(megatron/core/rerun_state_machine.py).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles import torch_file
from ckptmigrate.pickles.display import short_repr
from ckptmigrate.pickles.torch_file import TorchFile
from ckptmigrate.pickles.tree import Object, enum_member, enum_value, is_object, symbol

COMMON_ENTRY: Final = "rerun_state_machine"
SHARDED_KEY: Final = "rerun_state_machine_state"

_MODULE: Final = "megatron.core.rerun_state_machine"
MODE_VALIDATE: Final = "validate_results"
MODE_DISABLED: Final = "disabled"
# --rerun-mode and the enum spell one member differently (core_v0.10.0
# megatron/training/arguments.py, core_v0.19.0 megatron/training/config/resilience_config.py).
MODE_OF_ARGUMENT: Final = {
    "disabled": MODE_DISABLED,
    "validate_results": MODE_VALIDATE,
    "report_stats": "report_determinism_stats",
}
STATES: Final = (
    "NOT_RUNNING_YET",
    "INITIAL_RUN",
    "RERUNNING_IN_PLACE",
    "WILL_RERUN_FROM_CHECKPOINT",
    "RERUNNING_FROM_CHECKPOINT",
    "RERUNNING_AGAIN_FROM_CHECKPOINT",
)
IDLE: Final = STATES.index("NOT_RUNNING_YET")
# The only fault state that a job can resume from: in any other, `should_run_forward_backward` of
# core_v0.10.0 to core_v0.19.0 does not run the first step.
RESUMABLE: Final = STATES.index("WILL_RERUN_FROM_CHECKPOINT")

MOST_RANKS: Final = 1_000_000  # jobs have less than a tenth; more is an error or an attack

# Fields that are in the rerun shard up to 0.13, and in the common state from 0.14.
COMMON_FIELDS: Final = ("mode", "state", "current_iteration")


class Kind(str, Enum):
    """Kind of rerun state that a checkpoint stores."""

    ABSENT = "absent"  # nothing stored, by a release without reruns
    IDLE = "idle"
    DISABLED = "disabled"
    FAULT = "fault"
    CORRUPT = "corrupt"  # the common state requires shards that are missing


@dataclass(frozen=True)
class Shard:
    """The contents of one rerun shard.

    Attributes:
        fields: the contents without COMMON_FIELDS, inert.
        stored: the contents as stored, or None for a new shard. A layout that keeps `stored`
            unchanged need not write the object again.
        file: the archive that contains its tensors (saved microbatches).
    """

    fields: dict[str, Any]
    stored: dict[str, Any] | None
    file: TorchFile


@dataclass(frozen=True)
class RerunRecord:
    """The rerun state of one checkpoint in any layout.

    Attributes:
        kind: idle, fault, disabled, absent or corrupt.
        mode: the stored RerunMode value; None if the layout stores none.
        state: the stored RerunState value (index into STATES), or None.
        iteration: the stored current_iteration, or None.
        entry: `rerun_state_machine` as stored in the common state, or None.
        grid: the global shape of the sharded object, (PP, TP) or (WORLD,); () if there is none.
        shards: shards by offset in the grid.
        missing: required keys that do not exist; for an idle state, no job requests them.
    """

    kind: Kind
    mode: str | None = None
    state: int | None = None
    iteration: int | None = None
    entry: Any = None
    grid: tuple[int, ...] = ()
    shards: Mapping[tuple[int, ...], Shard] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def is_unresumable(self) -> bool:
        """Return whether this is a fault in a state that no release can resume from."""
        return self.kind is Kind.FAULT and self.state != RESUMABLE

    @property
    def promise(self) -> str:
        """Return which stored data requires the missing shards."""
        if self.entry is None:
            return "some rerun shards exist"
        return "the common state records a fault"


@dataclass(frozen=True)
class StoredRerun:
    """The rerun state as a layout stores it.

    Attributes:
        entry: the value of `rerun_state_machine` in the common state; None to store none.
        shards: unique key -> (rank whose save plan writes it, contents, archive of its tensors).
            The rank is None for a key that the checkpoint already has.
    """

    entry: Any = None
    shards: Mapping[str, tuple[int | None, dict[str, Any], TorchFile]] = field(default_factory=dict)


# -- keys


_SIZES: Final = r"\d{1,9}(?:\.\d{1,9}){0,3}"
_UNIQUE_KEY: Final = re.compile(rf"(\w+)/shard_({_SIZES})_({_SIZES})", re.ASCII)


def unique_key(position: tuple[int, ...], grid: tuple[int, ...], name: str = SHARDED_KEY) -> str:
    """Return the key of a sharded object, for example `rerun_state_machine_state/shard_0.1_2.4`."""
    return f"{name}/shard_{'.'.join(map(str, position))}_{'.'.join(map(str, grid))}"


def parse_unique_key(
    key: str, name: str = SHARDED_KEY
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return (offset, global shape) of a sharded object's key; None if no release writes it."""
    match = _UNIQUE_KEY.fullmatch(key)
    if match is None or match[1] != name:
        return None
    position, grid = (tuple(int(n) for n in part.split(".")) for part in match.groups()[1:])
    # Refuse leading zeros, which no release writes.
    return (position, grid) if key == unique_key(position, grid, name) else None


def positions(grid: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield every offset of a grid lazily, because args may specify a grid larger than memory."""
    if grid:
        yield from itertools.product(*map(range, grid))


def grid_size(grid: tuple[int, ...]) -> int:
    """Return the number of offsets in a grid."""
    return math.prod(grid) if grid else 0


# -- values


def mode_member(value: str) -> Object:
    """Return `RerunMode(value)`, inert."""
    return enum_member(symbol(_MODULE, "RerunMode"), value)


def state_member(value: int) -> Object:
    """Return `RerunState(value)`, inert."""
    return enum_member(symbol(_MODULE, "RerunState"), value)


def mode_value(member: Any) -> str:
    """Return the value of an inert `RerunMode`.

    Raises:
        DamagedError: the object is not a known RerunMode.
    """
    value = _member_value(member, "RerunMode")
    if value not in MODE_OF_ARGUMENT.values():
        raise DamagedError(f"has an unknown rerun mode ({short_repr(value)})")
    return str(value)


def state_value(member: Any) -> int:
    """Return the value of an inert `RerunState`, an index into STATES.

    Raises:
        DamagedError: the object is not a known RerunState.
    """
    value = _member_value(member, "RerunState")
    if type(value) is not int or not 0 <= value < len(STATES):
        raise DamagedError(f"has an unknown rerun state ({short_repr(value)})")
    return value


def _member_value(member: Any, name: str) -> Any:
    value = enum_value(member)
    if value is None or not is_object(member, f"{_MODULE}.{name}"):
        raise DamagedError(f"has a rerun_state_machine without a {name}")
    return value


def iteration_value(value: Any) -> int:
    """Return a stored current_iteration.

    Raises:
        DamagedError: the value is not a valid iteration.
    """
    # 0.10 and 0.11 store the previous iteration, so -1 is valid.
    if type(value) is not int or not -1 <= value < 10**12:
        raise DamagedError(
            f"has a rerun_state_machine whose current_iteration is {short_repr(value)}"
        )
    return value


def idle_fields() -> dict[str, Any]:
    """Return new idle shard contents as 0.18 writes them.

    Source: core_v0.18.2 RerunStateMachine.state_dict.
    """
    injector = {
        "error_injection_rate": 0,
        "error_injection_type": enum_member(symbol(_MODULE, "RerunDiagnostic"), "transient_error"),
        "injected_error_type": None,
    }
    return {
        "rerun_requested": False,
        "checkpoint_requested": False,
        "restart_again_requested": False,
        "continue_requested": False,
        "error_injector_checkpoint": injector,
        "failed_validation_call": None,
        "initial_result": None,
        "suspicious_node": None,
        "suspicious_device": None,
        "data_iterator_checkpoints": None,
        "large_value_counts": {},
        "max_values": {},
    }


def idle_shard() -> Shard:
    """Return a new idle shard."""
    fields = idle_fields()
    return Shard(fields, None, torch_file.new([fields]))
