"""The checkpoint that an optimizer is read from: its weights, and the keys of its optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from ckptmigrate.checkpoint.common import CommonState
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rows import Blob
from ckptmigrate.checkpoint.shapes import TensorDescription, shape_of
from ckptmigrate.errors import DamagedError, RefusedError
from ckptmigrate.optimizer import hashing, tensors
from ckptmigrate.optimizer.record import KEY, Chained
from ckptmigrate.optimizer.tensors import Numbers, Span, Spans, View
from ckptmigrate.pickles.display import short_repr
from ckptmigrate.pickles.tree import PersistentId, rebuilt
from ckptmigrate.storage.progress import Progress

TYPE: Final = "param_state_sharding_type"
CONTENT_TYPE: Final = "distrib_optim_sharding_type"
# The values of TYPE and of CONTENT_TYPE.
FLATTENED: Final = "fully_sharded_model_space"
FULLY_RESHARDABLE: Final = "fully_reshardable"
DP_RESHARDABLE: Final = "dp_reshardable"
DP_ZERO: Final = "dp_zero_gather_scatter"
BUCKET_SPACE: Final = "fully_sharded_bucket_space"
OPTIMIZER: Final = "optimizer"  # key of the common state
# `param_state` has the steps of torch's own Adam, which are in the param_groups, too.
_STATE_KEYS: Final = (OPTIMIZER, "grad_scaler", "param_state", TYPE)


@dataclass(frozen=True)
class Weight:
    """A parameter, or another tensor of the model.

    Attributes:
        name: its key.
        shape: its global shape.
        dtype: without `torch.`.
        sizes: the sizes of a cell; all cells have the same.
        cells: the offsets of each cell, in order, and the place of its bytes.
    """

    name: str
    shape: Numbers
    dtype: str
    sizes: Numbers
    cells: Mapping[Numbers, Blob]

    @property
    def grid(self) -> Numbers:
        """Return the number of cells per dimension."""
        return tuple(n // size for n, size in zip(self.shape, self.sizes, strict=True))

    @property
    def cell_count(self) -> int:
        """Return the number of elements of a cell."""
        return math.prod(self.sizes)


class _StorageOf(PersistentId):
    """The storage of a tensor in a sharded object."""

    __slots__ = ("key",)

    def __init__(self, key: str, pid: Any) -> None:
        super().__init__(pid)
        self.key = key


@dataclass(frozen=True)
class Source:
    """A checkpoint with a distributed optimizer.

    Attributes:
        manifest: the checkpoint.
        progress: called with each number of bytes of tensors that were read.
    """

    manifest: Manifest
    progress: Progress | None = None

    def error(self, reason: str, fix: str | None = None) -> DamagedError:
        """Return an error about the optimizer of this checkpoint."""
        return DamagedError(
            f"optimizer: {reason}",
            path=self.manifest.path,
            fix=fix or "resume with --no-load-optim, or restore the checkpoint from a copy",
        )

    def refusal(self, reason: str, fix: str | None = None) -> RefusedError:
        """Return the refusal to convert the optimizer of this checkpoint."""
        return RefusedError(
            f"optimizer: {reason}",
            path=self.manifest.path,
            fix=fix or "resume with --no-load-optim",
        )

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Return the keys of the optimizer, in file order."""
        entries = self.manifest.metadata.entries
        # The substring first: there may be a million keys.
        return tuple(key for key in entries if "optimizer." in key and KEY.fullmatch(key))

    @cached_property
    def blobs(self) -> Mapping[str, Mapping[Numbers | None, Blob]]:
        """Return the places of the chunks of each key, by offsets (None: a sharded object)."""
        found: dict[str, dict[Numbers | None, Blob]] = {}
        for chunk in self.manifest.metadata.chunks:
            found.setdefault(chunk.key, {})[chunk.offsets] = chunk.blob
        return found

    def shape(self, key: str) -> TensorDescription:
        """Return the shape of a tensor and of its chunks, each of which is stored.

        Raises:
            DamagedError: the key is not a tensor, or a chunk is not stored.
        """
        if self.manifest.metadata.is_object_entry(key):
            raise self.error(f"{key} is a sharded object, not a tensor")
        shape = shape_of(self.manifest.metadata.entries[key])
        if not all(_is_inside(*box, shape.size) for box in shape.chunks):
            raise self.error(f"{key} has a chunk outside of its shape")
        if sorted(at for at, _ in shape.chunks) != sorted(self.blobs.get(key, {}), key=_order):
            raise self.error(f"{key} has other chunks in storage_data than it describes")
        return shape

    def dtype(self, key: str) -> str:
        """Return the dtype of a tensor without `torch.`."""
        return (self.shape(key).dtype or "").removeprefix("torch.")

    def weight(self, name: str) -> Weight:
        """Return a parameter.

        Raises:
            DamagedError: it is missing, or its chunks differ in size.
        """
        if name not in self._weights:
            self._weights[name] = self._weight(name)
        return self._weights[name]

    @cached_property
    def _weights(self) -> dict[str, Weight]:
        return {}

    def _weight(self, name: str) -> Weight:
        if name not in self.manifest.metadata.entries:
            raise self.error(f"it has states of {name}, which is not in the checkpoint")
        shape = self.shape(name)
        cells = {offsets: self.blobs[name][offsets] for offsets, _ in sorted(shape.chunks)}
        sizes = shape.chunks[0][1] if shape.chunks else ()
        if (
            any(each != sizes for _, each in shape.chunks)
            or not all(sizes)
            or len(cells) * math.prod(sizes) != math.prod(shape.size)
            or any(i % n for at in cells for i, n in zip(at, sizes, strict=True))
        ):
            raise self.error(f"the chunks of {name} do not have one size, or do not tile it")
        dtype = (shape.dtype or "").removeprefix("torch.")
        return Weight(name, shape.size, dtype, sizes, cells)

    def weight_keys(self) -> Iterator[str]:
        """Yield the key of each tensor that is not part of an optimizer."""
        for key in self.manifest.metadata.entries:
            if not KEY.fullmatch(key) and not self.manifest.metadata.is_object_entry(key):
                yield key

    def view(self, key: str, blob: Blob, sizes: Numbers | None = None) -> View:
        """Return the tensor of a chunk.

        Args:
            sizes: the sizes that the chunk should have.

        Raises:
            DamagedError: the bytes are not this tensor.
        """
        try:
            view = tensors.read_view(self.manifest.directory, blob)
        except DamagedError as error:
            raise self.error(f"a chunk of {key} {error.reason}") from error
        if sizes is not None and view.shape != sizes:
            raise self.error(f"a chunk of {key} has the shape {view.shape}, not {sizes}")
        return view

    def span(self, key: str, blob: Blob, sizes: Numbers) -> Span:
        """Return all elements of a chunk; see `view`."""
        view = self.view(key, blob, sizes)
        return Span(view, 0, view.count)

    def digest(self, spans: Spans, dtype: str | None = None) -> bytes:
        """Return the hash of elements; see `hashing.digest`."""
        found = hashing.digest(self.manifest.directory, spans, dtype)
        if self.progress is not None:
            self.progress(sum(span.size for span in spans))
        return found

    def read_object(self, key: str) -> Any:
        """Return the contents of a sharded object, inert.

        Raises:
            DamagedError: it is missing or cannot be read.
        """
        tree = self.manifest.read_blob(key).tree
        if not isinstance(tree, list) or len(tree) != 1:
            raise self.error(f"sharded object {key!r} is not a list of one value")
        return tree[0]

    def read_settings(self, key: str) -> Any:
        """Return the contents of a sharded object for the common state, inert.

        Its tensors are small and refer to the object; see `with_settings`.

        Raises:
            DamagedError: it is missing or cannot be read.
        """

        def of_object(node: Any) -> Any:
            return _StorageOf(key, node.pid) if isinstance(node, PersistentId) else node

        return rebuilt(self.read_object(key), of_object)

    def storage(self, of: PersistentId) -> bytes:
        """Return the bytes of a tensor of the common state or of `read_settings`.

        Raises:
            DamagedError: they are not there.
        """
        file = self.manifest.common.torch_file
        if isinstance(of, _StorageOf):
            file = self.manifest.read_blob(of.key)
        name = of.pid[2] if isinstance(of.pid, tuple) and len(of.pid) > 2 else None
        found = dict(file.storages).get(f"data/{name}")
        if found is None:
            raise self.error("a tensor of its settings has no storage")
        return found

    def with_settings(self, common: CommonState, value: Any) -> CommonState:
        """Return the common state with a value under OPTIMIZER, and the storages of its tensors.

        Args:
            value: has parts of `read_settings`.

        Raises:
            DamagedError: a tensor has no storage.
        """
        file = common.torch_file
        moved: dict[tuple[str, Any], PersistentId] = {}

        def in_file(node: Any) -> Any:
            nonlocal file
            if not isinstance(node, _StorageOf):
                return node
            kind, cls, name, *rest = node.pid
            if (node.key, name) not in moved:
                file, number = file.with_storage(self.storage(node))
                moved[node.key, name] = PersistentId((kind, cls, number, *rest))
            return moved[node.key, name]

        changed = common.with_value(OPTIMIZER, rebuilt(value, in_file))
        return replace(changed, torch_file=file)

    @cached_property
    def states(self) -> tuple[Mapping[str, Any], ...]:
        """Return the state of each optimizer in the common state; empty if there is no optimizer.

        Several optimizers are stored under 0, 1, ...; a single one is not.
        """
        found = self.manifest.common.values.get(OPTIMIZER)
        if not isinstance(found, dict) or not found:
            return ()
        if set(found) == set(range(len(found))):
            return tuple(each if isinstance(each, dict) else {} for each in found.values())
        return (found,)

    @property
    def is_chained(self) -> bool:
        """Return whether the common state has several optimizers."""
        found = self.manifest.common.values.get(OPTIMIZER)
        return isinstance(found, dict) and 0 in found

    @property
    def types(self) -> frozenset[str | None]:
        """Return the sharding type of each optimizer; None for one that is not distributed."""
        return frozenset(
            each[TYPE] if isinstance(each.get(TYPE), str) else None for each in self.states
        )

    def chained_of_states(self) -> tuple[Chained, ...]:
        """Return the optimizers whose settings are in the common state.

        Raises:
            DamagedError: one has no param_groups.
        """
        return tuple(self.chained(each) for each in self.states)

    def chained(self, state: Mapping[str, Any]) -> Chained:
        """Return the settings of one optimizer.

        Args:
            state: has `optimizer`, and `grad_scaler` for fp16.

        Raises:
            DamagedError: there are no param_groups.
        """
        unknown = sorted(short_repr(key) for key in state if key not in _STATE_KEYS)
        if unknown:
            raise self.error(f"its state has {', '.join(unknown)}, which is unknown")
        inner = state.get(OPTIMIZER)
        groups = inner.get("param_groups") if isinstance(inner, dict) else None
        if not isinstance(groups, list) or not all(isinstance(each, dict) for each in groups):
            raise self.error("it has no param_groups")
        other = sorted(short_repr(key) for key in (inner or {}) if key != "param_groups")
        if other or not groups:
            raise self.error(f"it has {', '.join(other) or 'no param_groups'}, which is unknown")
        return Chained(tuple(groups), state.get("grad_scaler"))


def _order(offsets: Numbers | None) -> Numbers:
    return offsets or ()


def _is_inside(offsets: Numbers, sizes: Numbers, shape: Numbers) -> bool:
    return len(offsets) == len(sizes) == len(shape) and all(
        at + size <= whole for at, size, whole in zip(offsets, sizes, shape, strict=True)
    )


def has_shared_embedding(source: Source) -> bool:
    """Return whether several pipeline stages have a copy of the embedding, in its own bucket.

    Source: core_v0.9.0, core_v0.19.0 megatron/core/distributed/param_and_grad_buffer.py.
    """
    given = source.manifest.common.argument
    tied = given("untie_embeddings_and_output_weights") is False or given("mtp_num_layers")
    return bool(tied) and argument(source, "pipeline_model_parallel_size") > 1


def argument(source: Source, name: str, default: int = 1) -> int:
    """Return a parallel size of args; `default` if it is not a positive number."""
    value = source.manifest.common.argument(name)
    return value if type(value) is int and value > 0 else default
