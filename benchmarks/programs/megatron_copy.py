"""A copy of all tensors by the megatron-core on PYTHONPATH: SOURCE DESTINATION."""

import os
import sys

from single_rank import process_group


def copy(source: str, destination: str) -> None:
    # Imported here, because Megatron spawns a process for its queue, which imports this file.
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.mapping import ShardedTensor

    common = dist_checkpointing.load_common_state_dict(source)
    loaded = dist_checkpointing.load_plain_tensors(source)
    tensors = {
        key: ShardedTensor.from_rank_offsets(key, value)
        for key, value in loaded.items()
        if key not in common
    }
    os.makedirs(destination)
    dist_checkpointing.save({**common, **tensors}, destination)


if __name__ == "__main__":
    with process_group():
        copy(*sys.argv[1:])
