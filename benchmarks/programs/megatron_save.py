"""A checkpoint of a given size, saved by the megatron-core on PYTHONPATH: CHECKPOINT BYTES.

The tensors have sizes of real layers. The common state and the RNG state are those of a job with
one rank.
"""

import argparse
import sys

from single_rank import process_group

LARGEST = 64 * 10**6  # bytes of one tensor
COLUMNS = 4000


def save(checkpoint: str, size: int) -> None:
    # Imported here, because Megatron spawns a process for its queue, which imports this file.
    import torch
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor

    args = argparse.Namespace(
        tensor_model_parallel_size=1,
        pipeline_model_parallel_size=1,
        context_parallel_size=1,
        data_parallel_size=1,
        world_size=1,
        use_tp_pp_dp_mapping=False,
        params_dtype=torch.bfloat16,
        rerun_mode="validate_results",
    )
    random = ShardedObject("rng_state", [{"random": torch.arange(4)}], (1, 1), (0, 0))
    state = {"args": args, "checkpoint_version": 3.0, "iteration": 1, "rng_state": random}
    count = -(-size // LARGEST)
    rows = size // count // COLUMNS // torch.bfloat16.itemsize
    for number in range(count):
        key = f"decoder.layers.{number}.mlp.linear_fc1.weight"
        values = torch.full((rows, COLUMNS), float(number), dtype=torch.bfloat16)
        state[key] = ShardedTensor.from_rank_offsets(key, values)
    dist_checkpointing.save(state, checkpoint, content_metadata={})


if __name__ == "__main__":
    with process_group():
        save(sys.argv[1], int(sys.argv[2]))
