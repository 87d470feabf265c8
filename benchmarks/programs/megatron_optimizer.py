"""A checkpoint with a distributed optimizer, saved by the megatron-core on PYTHONPATH.

Arguments: CHECKPOINT BYTES TYPE: the size of the optimizer states and their sharding type. A GPT
model in bf16 on two data parallel ranks. ckptmigrate/measuring is on PYTHONPATH, too.
"""

import sys

from optimizer_job import checkpoints
from optimizer_job.stand_ins import fit_in
from optimizer_job.training import OptimizerJob, Training
from training_job.__main__ import run
from training_job.release import start_machine, start_ranks
from training_job.saving import ITERATION, rerun

BYTES = 12  # of the states of one parameter
LARGE, SMALL = 1000, 60  # hidden sizes; the values of the formula repeat after 2**23 elements
SECONDS = 3600


def layer(hidden: int) -> int:
    """Return the bytes of the optimizer states of a layer, without biases and norms."""
    return 12 * hidden**2 * BYTES


def save(job: OptimizerJob, rank: int, store: str, outcome: dict) -> None:
    """Save the checkpoint as one rank."""
    fit_in()
    start_ranks(job, rank, store)
    training = Training(job)
    training.fill()
    rerun_state = rerun(start_machine(), None)
    checkpoints.save(job, rank, training, rerun_state, job.checkpoint, ITERATION)


def main() -> None:
    checkpoint, size, sharding_type = sys.argv[1:]
    hidden = LARGE if int(size) >= layer(LARGE) else SMALL
    layers = max(1, round(int(size) / layer(hidden)))
    job = OptimizerJob(
        checkpoint, data_parallel=2, bf16=True, sharding_type=sharding_type, layers=layers,
        hidden=hidden,
    )  # fmt: skip
    failed = [each for each in run(job, save, SECONDS)["ranks"] if each["error"]]
    if failed:
        sys.exit(f"the save failed: {failed}")


if __name__ == "__main__":
    main()
