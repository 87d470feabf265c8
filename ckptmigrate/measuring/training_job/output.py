"""JSON values for the program that reads the output of a job."""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException

# Attributes of a rerun state machine; no release has all of them. The error injector is a separate
# object, and its state dict is printed.
MACHINE_FIELDS = (
    "mode",
    "state",
    "current_iteration",
    "rerun_requested",
    "checkpoint_requested",
    "restart_again_requested",
    "continue_requested",
    "failed_validation_call",
    "initial_result",
    "suspicious_node",
    "suspicious_device",
    "data_iterator_checkpoints",
    "last_loss",
    "large_value_counts",
    "max_values",
)


def held(machine: Any) -> dict[str, Any]:
    """Return the state of a rerun state machine, under the names that checkpoints use."""
    fields = {name: getattr(machine, name) for name in MACHINE_FIELDS if hasattr(machine, name)}
    fields["error_injector_checkpoint"] = machine.error_injector.state_dict()
    line: dict[str, Any] = plain(fields)
    return line


def plain(value: Any) -> Any:
    """Return a value as JSON that compares by content.

    Raises:
        TypeError: there is no rule for the type, and a default text could hide a difference.
    """
    if isinstance(value, torch.Tensor):
        return ["tensor", str(value.dtype), value.tolist()]
    if isinstance(value, Enum):  # before str, because some enums are strings, too
        return [type(value).__name__, value.value]
    if isinstance(value, float) and value != value:
        return "nan"
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__} among the loaded values")


def told_entries(entries: dict[str, Any]) -> tuple[dict[str, list[str]], list[str]]:
    """Return [dtype, SHA-256 of the bits] by tensor key, and the keys of the objects."""
    tensors, objects = {}, []
    for key, value in entries.items():
        if isinstance(value, torch.Tensor) and "/shard_" not in key:
            bits = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            tensors[key] = [str(value.dtype), hashlib.sha256(bits).hexdigest()]
        else:
            objects.append(key)
    return tensors, sorted(objects)


def told_error(error: BaseException) -> str:
    """Return the error message; of the errors that torch gathers from all ranks, the first one."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return f"{type(error).__name__}: {error}"
