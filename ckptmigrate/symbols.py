"""Which symbols a checkpoint may name: an allow-list, and all else is unknown.

A job executes what `.metadata` and the blobs name (`pickle.load`, and `torch.load` without
`weights_only`), so a symbol that no release writes is worth a look before a job is let near it.
A list of bad symbols would always lack one; this is a list of those that are known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ckptmigrate.releases import Compat

_DCP: Final = "torch.distributed.checkpoint"
_KNOWN: Final = frozenset(
    {
        # `.metadata`: torch 2.5.1 and 2.13.0 distributed/checkpoint, samples.
        *(
            f"{_DCP}.metadata.{name}"
            for name in (
                "BytesStorageMetadata",
                "ChunkStorageMetadata",
                "Metadata",
                "MetadataIndex",
                "StorageMeta",
                "TensorProperties",
                "TensorStorageMetadata",
                "_MEM_FORMAT_ENCODING",
            )
        ),
        *(
            f"{_DCP}.planner.{name}"
            for name in ("SavePlan", "TensorWriteData", "WriteItem", "WriteItemType")
        ),
        f"{_DCP}.filesystem._StorageInfo",
        f"{_DCP}.filesystem._StoragePrefix",
        # Paths, as Python up to 3.12 and 3.13 name them.
        "pathlib.PosixPath",
        "pathlib._local.PosixPath",
        # RerunStateMachine, core_v0.10.0 and core_v0.19.0.
        "megatron.core.rerun_state_machine.Call",
        "megatron.core.rerun_state_machine.Caller",
    }
)
# What stands for `torch.*` in torch's own allow-list, which would let torch.load through.
_TORCH: Final = re.compile(
    r"torch\.(Size|device|strided|(u?int|float|bfloat|complex|q?u?int)\d+\w*|bool|\w+Storage)",
    re.ASCII,
)


def unknown(named: Iterable[str], compat: Compat) -> list[str]:
    """Those of the symbols that no known writer puts into a checkpoint, in order, each once.

    Args:
        named: what a pickle names (`Metadata.named`, `TorchFile.named`).
        compat: names what releases and torch itself allow.
    """
    known = _KNOWN.union(
        (row.symbol for row in compat.symbols),
        *(row.symbols for row in compat.allow_lists),
        (name for name in compat.torch_allows if "*" not in name),
    )
    patterns = [
        re.compile(re.escape(name).replace(r"\*", r"\w*"), re.ASCII)
        for name in compat.torch_allows
        if "*" in name and name != "torch.*"
    ]
    return [
        path
        for path in dict.fromkeys(named)
        if path not in known
        and not _TORCH.fullmatch(path)
        and not any(pattern.fullmatch(path) for pattern in patterns)
    ]
