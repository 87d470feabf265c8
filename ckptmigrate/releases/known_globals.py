"""Allow-list of the globals that the pickles of a checkpoint may name.

A job imports and may call every global that `.metadata` and the sharded objects name
(`pickle.load`, and `torch.load` without `weights_only`), so every global that is not listed here or
in compat_matrix.yaml is reported. Being importable is not sufficient: os.system is importable too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Final

_DCP: Final = "torch.distributed.checkpoint"

# Globals that are on no allow-list of torch or of a release (both lists are in compat_matrix.yaml).
# `*` matches a part without dots.
_KNOWN: Final = (
    # In `.metadata` of every sample; `_StoragePrefix` only in the samples of torch 2.5.
    f"{_DCP}.metadata.Metadata",
    f"{_DCP}.metadata.MetadataIndex",
    f"{_DCP}.metadata.StorageMeta",
    f"{_DCP}.metadata.TensorStorageMetadata",
    f"{_DCP}.metadata.BytesStorageMetadata",
    f"{_DCP}.metadata.ChunkStorageMetadata",
    f"{_DCP}.metadata.TensorProperties",
    f"{_DCP}.metadata._MEM_FORMAT_ENCODING",
    f"{_DCP}.filesystem._StorageInfo",
    f"{_DCP}.filesystem._StoragePrefix",
    f"{_DCP}.planner.SavePlan",
    f"{_DCP}.planner.WriteItem",
    f"{_DCP}.planner.WriteItemType",
    f"{_DCP}.planner.TensorWriteData",
    # The rerun shards of a fault: samples *-fault-*.
    "megatron.core.rerun_state_machine.Call",
    "megatron.core.rerun_state_machine.Caller",
    # Data types of torch, which torch_allows of compat_matrix.yaml lists as `torch.*`.
    "torch.Size",
    "torch.device",
    "torch.*Storage",
    "torch.*Tensor",
    "torch.Tensor",
    "torch.strided",
    # Data types of numpy: the RNG state of every sample, and scalars.
    "numpy.dtypes.*DType",
    "numpy.core.multiarray.scalar",
    # Data types of the standard library in args; their constructors have no side effects.
    "pathlib.PurePosixPath",
    "collections.deque",
    "collections.defaultdict",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "signal.SIG*",  # Python up to 3.10, for signal.Signals
    "builtins.frozenset",
    "builtins.range",
    "builtins.slice",
    "__builtin__.frozenset",
    "__builtin__.xrange",
    "__builtin__.slice",
    "__builtin__.list",
    "__builtin__.dict",
)
_DTYPES: Final = (
    r"torch\.(?:uint|int)\d{1,2}|torch\.float\d{1,2}\w*|torch\.(?:bfloat16|half|float|double|bool"
    r"|short|int|long)|torch\.complex\d{2,3}|torch\.q(?:u?int8|int32|uint4x2|uint2x4)"
)


def unknown(named: Iterable[str], also_known: Collection[str] = ()) -> list[str]:
    """Return the unknown globals among the given ones, in order, without duplicates.

    Args:
        named: the globals that a pickle names (`Metadata.named`, `TorchFile.named`).
        also_known: globals that the user trusts.
    """
    names = dict.fromkeys(named)
    return [name for name in names if name not in also_known and not _is_known(name)]


def _is_known(name: str) -> bool:
    """Return whether a name is listed, also under another name of its module."""
    from ckptmigrate.releases.facts import compat

    return any(map(_pattern().fullmatch, compat().names(name)))


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    from ckptmigrate.releases.facts import compat

    facts = compat()
    names: Iterable[str] = (
        *_KNOWN,
        *(row.symbol for row in facts.symbols),
        *(name for row in facts.allow_lists for name in row.symbols),
        *(name for name in facts.torch_allows if name != "torch.*"),
    )
    parts = (re.escape(name).replace(r"\*", r"[^.]*") for name in names)
    return re.compile("|".join([_DTYPES, *parts]))
