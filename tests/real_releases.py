"""Real Megatron-Core releases, each in a process that has imported it and forks per call."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forked import ForkServer

REPOSITORY = Path(__file__).parent.parent
READERS = Path(os.environ.get("CKPTMIGRATE_READERS", REPOSITORY / ".readers"))
PROGRAM = REPOSITORY / "ckptmigrate" / "measuring" / "training_job"


@functools.cache
def server(release: str) -> ForkServer:
    """Return the process of a release; it imports torch once for a whole test run."""
    folder = READERS / release
    assert (folder / "megatron").is_dir(), f"no reader {release}: run `make readers`"
    path = [folder, PROGRAM.parent, Path(__file__).parent / "readers"]
    environment = {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    modules = ["training_job.__main__", "optimizer_job.__main__", "parts", "models", "forked_queue"]
    return ForkServer(f"release-{release}", modules, environment)


def run_jobs(release: str, jobs: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Run training jobs, as ckptmigrate/measuring/jobs.py does in a new process.

    Returns:
        What the ranks of each job report, in order.
    """
    return _ranks(release, "training_job.__main__:main", jobs)


def run_optimizer_jobs(release: str, jobs: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Run training jobs with the distributed optimizer (measuring/optimizer_job).

    Returns:
        What the ranks of each job report, in order.
    """
    return _ranks(release, "optimizer_job.__main__:main", jobs)


def _ranks(release: str, main: str, jobs: Sequence[Mapping[str, Any]]) -> list[Any]:
    lines = _lines(release, main, jobs)
    assert [line["checkpoint"] for line in lines] == [job["checkpoint"] for job in jobs]
    return [line["ranks"] for line in lines]


def run_parts(release: str, *jobs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Ask a release for parts of checkpoints (readers/parts.py)."""
    return _lines(release, "parts:main", jobs)


def run_models(release: str, *jobs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Load the models of checkpoints with a release (readers/models.py)."""
    return _lines(release, "models:main", jobs)


def run_code(release: str, code: str, input: Any) -> Any:
    """Run a text of Python where the release can be imported; JSON on its stdin and stdout."""
    done = server(release).run([], code=code, input=json.dumps(input))
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def _lines(release: str, main: str, jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    done = server(release).run([], main=main, input=json.dumps(list(jobs)), timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]
