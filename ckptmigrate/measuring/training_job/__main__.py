"""A training job of one Megatron-Core release that resumes from checkpoints or saves them.

A program for a separate process, with the release on PYTHONPATH. It imports nothing from this
package:

    PYTHONPATH=.readers/0.12.3:ckptmigrate/measuring python -m training_job < jobs.json

stdin is a JSON list of jobs (see release.TrainingJob). The program prints a JSON line for each job:

    {"checkpoint": ..., "release": "0.12.3", "ranks": [{"rank": 0, "error": null, ...}, ...]}

`loading.take` or `saving.save` fills the outcome of a rank. Each job has its own processes, one
per rank, as a real job has. They are forked, so that torch is imported only once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron.core import package_info
from torch.distributed.checkpoint.api import CheckpointException

from .loading import take
from .output import told_error
from .release import RELEASE, TrainingJob
from .saving import save

SECONDS_PER_JOB = 120


# What a rank does: (job, rank, file where the ranks meet, outcome to fill).
RankMain = Callable[[Any, int, str, dict[str, Any]], None]


def run_rank(main: RankMain, job: TrainingJob, rank: int, folder: Path) -> None:
    """Run one rank, and write its outcome to a file."""
    os.dup2(2, 1)  # Megatron prints to stdout, which is for the JSON lines of the parent
    outcome: dict[str, Any] = {"rank": rank, "stage": "start", "error": None}
    try:
        main(job, rank, str(folder / "store"), outcome)
    except (Exception, CheckpointException) as error:  # the latter is a bare BaseException
        outcome["error"] = told_error(error)
    result = folder / f"rank{rank}.tmp"
    result.write_text(json.dumps(outcome))
    result.rename(folder / f"rank{rank}.json")


def run(job: TrainingJob, main: RankMain, seconds: int = SECONDS_PER_JOB) -> dict[str, Any]:
    """Run a job until it ends or reaches its time limit."""
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        ranks = [
            fork.Process(target=run_rank, args=(main, job, rank, place))
            for rank in range(job.world_size)
        ]
        for process in ranks:
            process.start()
        limit = time.monotonic() + seconds
        for process in ranks:
            process.join(max(0.0, limit - time.monotonic()))
        for process in ranks:
            process.kill()
            process.join()
        return {
            "checkpoint": job.checkpoint,
            "release": package_info.__version__,
            "ranks": [
                outcome_of(place, rank, ranks[rank], seconds) for rank in range(job.world_size)
            ],
        }


def outcome_of(folder: Path, rank: int, process: Any, limit: int) -> dict[str, Any]:
    """Return the outcome of a rank, or its exit code if it wrote no outcome in `limit` seconds."""
    result = folder / f"rank{rank}.json"
    if result.exists():
        outcome: dict[str, Any] = json.loads(result.read_text())
        return outcome
    ending = f"ended with {process.exitcode} and wrote no result (limit {limit} s)"
    return {"rank": rank, "stage": "unknown", "error": ending}


def main() -> None:
    """Run the jobs of stdin."""
    if RELEASE < (0, 11):
        # These releases require torch before 2.6, which loaded common.pt without weights_only.
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    for fields in json.load(sys.stdin):
        job = TrainingJob(**fields)
        print(json.dumps(run(job, save if job.save else take)), flush=True)


if __name__ == "__main__":
    main()
