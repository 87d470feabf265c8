"""The tracker files of a root: those of Megatron-LM and of Megatron-Bridge.

Megatron-Bridge reads latest_train_state.pt first, and latest_checkpointed_iteration.txt only if the
former is missing. It saves both; the former is a copy of the iteration's train_state.pt.

Source: save_checkpoint and _resolve_checkpoint_iteration of Megatron-Bridge
src/megatron/bridge/training/checkpointing.py; TrainState.state_dict of training/state.py.
"""

from __future__ import annotations

from typing import Any, Final

from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles import torch_file
from ckptmigrate.pickles.tree import Global, Object, PersistentId
from ckptmigrate.storage.directories import Directory, read_if_there

TRACKER_FILE: Final = "latest_checkpointed_iteration.txt"
LATEST_TRAIN_STATE: Final = "latest_train_state.pt"  # of Megatron-Bridge
TRACKERS: Final = (LATEST_TRAIN_STATE, TRACKER_FILE)  # in the order of writing
TRAIN_STATE: Final = "train_state.pt"
_TENSOR: Final = "torch._utils._rebuild_tensor_v2"
_BYTES: Final = {"torch.IntStorage": 4, "torch.LongStorage": 8}


def files(text: str, iteration: Directory | None) -> dict[str, bytes]:
    """Return the tracker files that name an iteration, in the order of writing.

    Args:
        text: content of latest_checkpointed_iteration.txt.
        iteration: directory of the iteration.

    Returns:
        File name -> bytes. Includes latest_train_state.pt if the iteration has a train_state.pt of
        that step.
    """
    state = None if iteration is None else train_state(text, iteration)
    bridge = {} if state is None else {LATEST_TRAIN_STATE: state}
    return {**bridge, TRACKER_FILE: text.encode()}


def train_state(text: str, iteration: Directory) -> bytes | None:
    """Return the train_state.pt of an iteration; None if missing or of a different step."""
    try:
        state = read_if_there(iteration, TRAIN_STATE)
        return state if state is not None and text == str(step(state)) else None
    except DamagedError:
        return None


def step(content: bytes) -> int:
    """Return the step in a train state, an integer tensor without dimensions.

    Raises:
        DamagedError: the content is not a train state.
    """
    found = torch_file.load(content)
    tensor = found.tree.get("step") if isinstance(found.tree, dict) else None
    storage = _storage(tensor)
    if storage is None:
        raise DamagedError("does not contain the step of a train state")
    size, name = storage
    data = dict(found.storages).get(f"data/{name}", b"")
    if len(data) != size:
        raise DamagedError(f"contains a step of {len(data)} bytes")
    return int.from_bytes(data, "little", signed=True)


def _storage(tensor: Any) -> tuple[int, str] | None:
    """Return the size in bytes and the storage name of an integer tensor without dimensions."""
    if not isinstance(tensor, Object) or type(tensor).path != _TENSOR or len(tensor.args) < 3:
        return None
    reference, offset, shape = tensor.args[:3]
    if not isinstance(reference, PersistentId) or (offset, shape) != (0, ()):
        return None
    match reference.pid:
        case ("storage", Global() as kind, str(name), _, 1) if kind.path in _BYTES:
            return _BYTES[kind.path], name
    return None
