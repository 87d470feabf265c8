"""A copy of all keys, loaded and saved by torch.distributed.checkpoint: SOURCE DESTINATION."""

import sys

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

source, destination = sys.argv[1:]
entries = dcp.FileSystemReader(source).read_metadata().state_dict_metadata
state = {
    key: torch.empty(entry.size, dtype=entry.properties.dtype)
    if isinstance(entry, TensorStorageMetadata)
    else None
    for key, entry in entries.items()
}
dcp.load(state, checkpoint_id=source, no_dist=True)
dcp.save(state, checkpoint_id=destination, no_dist=True)
