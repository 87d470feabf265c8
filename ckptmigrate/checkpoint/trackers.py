"""The tracker files of a root: those of Megatron-LM and of Megatron-Bridge.

Megatron-Bridge reads latest_train_state.pt first, and latest_checkpointed_iteration.txt only if the
former is missing. It saves both; the former is a copy of the iteration's train_state.pt.

Source: save_checkpoint and _resolve_checkpoint_iteration of Megatron-Bridge
src/megatron/bridge/training/checkpointing.py; TrainState.state_dict of training/state.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles import torch_file
from ckptmigrate.pickles.tree import Global, Object, PersistentId
from ckptmigrate.places import Place
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import Directory, read_if_there

TRACKER_FILE: Final = "latest_checkpointed_iteration.txt"
LATEST_TRAIN_STATE: Final = "latest_train_state.pt"  # of Megatron-Bridge
TRACKERS: Final = (LATEST_TRAIN_STATE, TRACKER_FILE)  # in the order of writing
TRAIN_STATE: Final = "train_state.pt"
_TENSOR: Final = "torch._utils._rebuild_tensor_v2"
_LONGEST: Final = 64  # characters
_BYTES: Final = {"torch.IntStorage": 4, "torch.LongStorage": 8}


def texts(root: Directory, names: Iterable[str]) -> dict[str, str]:
    """Return the text that each tracker file of a root contains, for those that exist.

    The text of latest_train_state.pt is its step; it is left out if it has none.

    Args:
        names: the names of the tracker files, in the order of the result.
    """
    return {
        name: text
        for name in names
        if name in root.files() and (text := _TEXTS[name](root)) is not None
    }


def _text(root: Directory) -> str:
    """Return the text of the tracker file; of a long file, a part that names no iteration."""
    content = directories.start_of(root.path / TRACKER_FILE, _LONGEST + 1)
    text = content.decode("ascii", "replace")
    return text.strip() if len(content) <= _LONGEST else text


def _text_of_state(root: Directory) -> str | None:
    try:
        return str(step(root.read(LATEST_TRAIN_STATE)))
    except DamagedError:
        return None


_TEXTS: Final[Mapping[str, Callable[[Directory], str | None]]] = {
    TRACKER_FILE: _text,
    LATEST_TRAIN_STATE: _text_of_state,
}


def files(text: str, iteration: Place | None, root: Place | None = None) -> dict[str, bytes]:
    """Return the tracker files that name an iteration, in the order of writing.

    Args:
        text: content of latest_checkpointed_iteration.txt.
        iteration: directory of the iteration; None if it has no train_state.pt.
        root: a root whose latest_train_state.pt is used if that of the iteration is missing.

    Returns:
        File name -> bytes. Includes latest_train_state.pt if there is a train state of that step.
    """
    found = (
        train_state(text, directories.directory(place, by_name=True), name)
        for place, name in ((iteration, TRAIN_STATE), (root, LATEST_TRAIN_STATE))
        if place is not None
    )
    state = next((each for each in found if each is not None), None)
    bridge = {} if state is None else {LATEST_TRAIN_STATE: state}
    return {**bridge, TRACKER_FILE: text.encode()}


def train_state(text: str, iteration: Directory, name: str = TRAIN_STATE) -> bytes | None:
    """Return the train state of an iteration; None if missing or of a different step."""
    try:
        state = read_if_there(iteration, name)
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
