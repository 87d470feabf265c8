"""A copy of keys, loaded and saved by torch.distributed.checkpoint: SOURCE DESTINATION [PREFIX]."""

import sys
import types

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan

# Some releases of Megatron pickle their subclass of SavePlan. A stand-in saves its slow import.
MODULE = "megatron.core.dist_checkpointing.strategies.torch"
for name in ("megatron", MODULE):
    sys.modules[name] = types.ModuleType(name)
sys.modules[MODULE].MCoreSavePlan = type("MCoreSavePlan", (SavePlan,), {})

source, destination, *prefix = sys.argv[1:]
entries = dcp.FileSystemReader(source).read_metadata().state_dict_metadata
state = {
    key: torch.empty(entry.size, dtype=entry.properties.dtype)
    if isinstance(entry, TensorStorageMetadata)
    else None
    for key, entry in entries.items()
    if key.startswith(*(prefix or [""]))
}
dcp.load(state, checkpoint_id=source, no_dist=True)
dcp.save(state, checkpoint_id=destination, no_dist=True)
