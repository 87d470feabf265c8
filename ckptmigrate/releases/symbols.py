"""Which symbols a checkpoint is known to name: an allow-list, never a deny-list.

A job executes what `.metadata` and the blobs name (`pickle.load`, and `torch.load` without
`weights_only`), so whatever is not listed here or in compat_matrix.yaml is told by name. That a
symbol can be imported (os.system can) says nothing for it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Final

_DCP: Final = "torch.distributed.checkpoint"

# What neither torch nor a release allows by list (both are in compat_matrix.yaml). `*` stands for a
# part without dots.
_KNOWN: Final = (
    # `.metadata` of every sample; `_StoragePrefix` in those of torch 2.5.
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
    # The rerun payload of a fault: samples *-fault-*.
    "megatron.core.rerun_state_machine.Call",
    "megatron.core.rerun_state_machine.Caller",
    # Data of torch: what torch_allows of compat_matrix.yaml sums up as `torch.*`.
    "torch.Size",
    "torch.device",
    "torch.*Storage",
    "torch.*Tensor",
    "torch.Tensor",
    "torch.strided",
    # Data of numpy: the RNG state of every sample, and scalars.
    "numpy.dtypes.*DType",
    "numpy.core.multiarray.scalar",
    # Data of the standard library that args hold: building it does nothing else.
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
    """Those of the symbols that no known writer puts into a checkpoint, in order, each once.

    Args:
        named: what a pickle names (`Metadata.named`, `TorchFile.named`).
        also_known: names that the user vouches for.
    """
    names = dict.fromkeys(named)
    return [name for name in names if name not in also_known and not _is_known(name)]


def _is_known(name: str) -> bool:
    """Whether a name is listed, it or the other one that its module has had."""
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
