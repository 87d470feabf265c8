"""Read a checkpoint with real torch, without ckptmigrate and without Megatron.

The classes of Megatron that the samples name are stood in for by the few lines below, written
from the releases' sources; everything else is the real torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pickle
import sys
import types
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    Metadata,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, WriteItemType


class RerunMode(str, Enum):
    DISABLED = "disabled"
    VALIDATE_RESULTS = "validate_results"
    REPORT_DETERMINISM_STATS = "report_determinism_stats"


class RerunState(Enum):
    NOT_RUNNING_YET = 0
    INITIAL_RUN = 1
    RERUNNING_IN_PLACE = 2
    WILL_RERUN_FROM_CHECKPOINT = 3
    RERUNNING_FROM_CHECKPOINT = 4
    RERUNNING_AGAIN_FROM_CHECKPOINT = 5


class RerunDiagnostic(str, Enum):
    CORRECT_RESULT = "correct_result"
    TRANSIENT_ERROR = "transient_error"
    PERSISTENT_ERROR = "persistent_error"


class Call(NamedTuple):
    caller: Any
    sequence: int


class Caller(tuple):  # type: ignore[type-arg]
    """Three fields through 0.13, two from 0.14: here, whatever the file says."""

    def __new__(cls, *fields: Any) -> Caller:
        return super().__new__(cls, fields)


class AttnBackend(Enum):
    flash = 1
    fused = 2
    unfused = 3
    local = 4
    auto = 5


class InferenceCudaGraphScope(Enum):
    none = 1
    layer = 2
    block = 3


class ModelType(Enum):
    """As it is through 0.13."""

    encoder_or_decoder = 1
    encoder_and_decoder = 2
    retro_encoder = 3
    retro_decoder = 4


class CudaGraphScope(Enum):
    full_iteration = 1
    full_iteration_inference = 8  # since 0.17


class MCoreSavePlan(SavePlan):
    pass


class MCoreMetadata(Metadata):
    pass


_MODULES: dict[str, tuple[type, ...]] = {
    "megatron.core.rerun_state_machine": (RerunMode, RerunState, RerunDiagnostic, Call, Caller),
    "megatron.core.transformer.enums": (AttnBackend, InferenceCudaGraphScope, CudaGraphScope),
    "megatron.core.enums": (ModelType,),
    "megatron.core.dist_checkpointing.strategies.torch": (MCoreSavePlan, MCoreMetadata),
}
for _path, _classes in _MODULES.items():
    for _cls in _classes:
        _cls.__module__ = _path  # what a pickle written by a test names, too


@contextmanager
def megatron_names() -> Iterator[None]:
    """Let pickles name the classes above as Megatron's, while the block runs."""
    added = []
    for path, classes in _MODULES.items():
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if name not in sys.modules:
                sys.modules[name] = types.ModuleType(name)
                added.append(name)
        for cls in classes:
            setattr(sys.modules[path], cls.__name__, cls)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


@dataclass
class Contents:
    """A checkpoint as torch sees it.

    Attributes:
        metadata: the unpickled `.metadata`.
        tensors: key -> the whole tensor.
        blobs: key -> the bytes of a sharded object.
        common: the common state, from common.pt or from the entry.
    """

    metadata: Any
    tensors: dict[str, torch.Tensor]
    blobs: dict[str, bytes]
    common: dict[str, Any]

    def object(self, key: str) -> Any:
        """A sharded object, unpickled by torch."""
        with megatron_names():
            return torch.load(io.BytesIO(self.blobs[key]), weights_only=False)

    @property
    def rerun_keys(self) -> set[str]:
        """Keys of the rerun shards."""
        return {k for k in self.blobs if k.startswith("rerun_state_machine_state/")}

    def plan_keys(self) -> list[list[str]] | None:
        """The keys of each rank's plan, or None where there are no plans."""
        plans = getattr(self.metadata, "all_local_plans", None)
        return None if plans is None else [[i.index.fqn for i in p.items] for p in plans]


class _Planner(dcp.DefaultLoadPlanner):
    """Keeps the bytes of sharded objects instead of unpickling them."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.blobs: dict[str, bytes] = {}

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        self.blobs[read_item.dest_index.fqn] = value.getvalue()


class _Reader(dcp.FileSystemReader):
    """The real reader, but for class names of Megatron."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with megatron_names():
            return super().read_metadata(*args, **kwargs)


def read(checkpoint: Path) -> Contents:
    """Every tensor, blob and the common state of a checkpoint directory."""
    metadata, tensors, blobs = _load(checkpoint)
    return Contents(metadata, tensors, blobs, _common(checkpoint, blobs))


def read_common(checkpoint: Path) -> dict[str, Any]:
    """The common state alone."""
    in_entry = not (checkpoint / "common.pt").exists()
    return _common(checkpoint, _load(checkpoint, [_COMMON])[2] if in_entry else {})


_COMMON = "common_state/shard_0_1"


def _common(checkpoint: Path, blobs: dict[str, bytes]) -> dict[str, Any]:
    with megatron_names():
        if (checkpoint / "common.pt").exists():
            common: dict[str, Any] = torch.load(checkpoint / "common.pt", weights_only=False)
        else:
            [common] = torch.load(io.BytesIO(blobs[_COMMON]), weights_only=False)
    return common


def _load(
    checkpoint: Path, keys: Collection[str] | None = None
) -> tuple[Metadata, dict[str, torch.Tensor], dict[str, bytes]]:
    """`.metadata`, and the tensors and blobs with these keys, or all of them."""
    reader = _Reader(checkpoint)
    metadata = reader.read_metadata()
    wanted: dict[str, Any] = {}
    for key, entry in metadata.state_dict_metadata.items():
        if keys is not None and key not in keys:
            continue
        if isinstance(entry, TensorStorageMetadata):
            wanted[key] = torch.empty(entry.size, dtype=entry.properties.dtype)
        else:
            assert isinstance(entry, BytesStorageMetadata)
            wanted[key] = b""
    planner = _Planner()
    dcp.load(wanted, storage_reader=reader, planner=planner, no_dist=True)
    tensors = {k: v for k, v in wanted.items() if isinstance(v, torch.Tensor)}
    return metadata, tensors, planner.blobs


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors agree in every bit, NaN payloads included."""
    return a.dtype == b.dtype and a.shape == b.shape and _bits(a) == _bits(b)


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def plain(value: Any) -> Any:
    """A value that compares by content: tensors as lists, objects by their attributes."""
    if isinstance(value, torch.Tensor):
        return ("tensor", str(value.dtype), value.tolist())
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and value != value:
        return "nan"
    if isinstance(value, Enum):
        return (type(value).__name__, value.value)
    if type(value).__module__ in ("argparse", "types"):
        return {k: plain(v) for k, v in vars(value).items()}
    return value


def reported(value: Any) -> Any:
    """A value as a training job of a real release reports it, in JSON."""
    return json.loads(json.dumps(plain(value)))


def reported_tensors(contents: Contents) -> dict[str, list[str]]:
    """The same of all tensors: their dtype, and a digest of their bits, by key."""
    return {
        key: [str(tensor.dtype), hashlib.sha256(_bits(tensor)).hexdigest()]
        for key, tensor in contents.tensors.items()
    }


def consistent(contents: Contents, *, has_plans: bool) -> None:
    """The tables of `.metadata` name the same keys, and items of objects are BYTE_IO items."""
    metadata = contents.metadata
    keys = set(metadata.state_dict_metadata)
    assert {index.fqn for index in metadata.storage_data} == keys
    if metadata.planner_data:
        assert set(metadata.planner_data) == keys
    plans = getattr(metadata, "all_local_plans", None)
    assert (plans is not None) == has_plans
    if plans is not None:
        assert {item.index.fqn for plan in plans for item in plan.items} == keys
        for plan in plans:
            for item in plan.items:
                is_object = isinstance(
                    metadata.state_dict_metadata[item.index.fqn], BytesStorageMetadata
                )
                assert (item.type == WriteItemType.BYTE_IO) == is_object
                assert is_object == (item.tensor_data is None)


def edit_common(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the `common.pt` of a root of one iteration."""
    [path] = root.glob("*/common.pt")
    with megatron_names():
        state = torch.load(path, weights_only=False)
        change(state)
        torch.save(state, path)


def edit_metadata(root: Path, change: Callable[[Any], object]) -> None:
    """Change the `.metadata` of a root of one iteration, which torch's own classes stand for."""
    [path] = root.glob("*/.metadata")
    with megatron_names():
        metadata = pickle.loads(path.read_bytes())
        change(metadata)
        path.write_bytes(pickle.dumps(metadata, protocol=4))


def rename(metadata: Any, names: dict[str, str]) -> None:
    """Give entries other keys, in every table of a `.metadata` that names them."""

    def renamed(index: Any) -> Any:
        return dataclasses.replace(index, fqn=names.get(index.fqn, index.fqn))

    for name in ("state_dict_metadata", "planner_data", "mcore_data"):
        table = getattr(metadata, name, None)
        if table:
            setattr(metadata, name, {names.get(k, k): v for k, v in table.items()})
    metadata.storage_data = {renamed(i): v for i, v in metadata.storage_data.items()}
    for plan in getattr(metadata, "all_local_plans", None) or ():
        plan.items[:] = [dataclasses.replace(i, index=renamed(i.index)) for i in plan.items]


def drop(metadata: Any, keys: list[str]) -> None:
    """Take entries out of every table of a `.metadata`."""
    for name in ("state_dict_metadata", "planner_data"):
        table = getattr(metadata, name, None)
        if table:
            setattr(metadata, name, {k: v for k, v in table.items() if k not in keys})
    metadata.storage_data = {i: v for i, v in metadata.storage_data.items() if i.fqn not in keys}
    for plan in getattr(metadata, "all_local_plans", None) or ():
        plan.items[:] = [item for item in plan.items if item.index.fqn not in keys]


def unpickle(data: bytes) -> Any:
    """`pickle.loads` with the names above."""
    with megatron_names():
        return pickle.loads(data)
