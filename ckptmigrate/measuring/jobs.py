"""Training jobs of real releases: one process per release, with its megatron-core on the path."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ckptmigrate import search_path
from ckptmigrate.errors import RefusedError
from ckptmigrate.text.commands import shell

# The programs of the processes, packages that do not import ckptmigrate.
TRAINING: Final = "training_job"
OPTIMIZER: Final = "optimizer_job"
_FOLDER: Final = str(Path(__file__).parent)
_SECONDS: Final = 3600


def installed(readers: Path) -> list[str]:
    """Return the releases installed in a directory (see `make readers`), oldest first.

    Raises:
        RefusedError: there is none.
    """
    from packaging.version import InvalidVersion, Version

    found = []
    for folder in readers.glob("*/megatron/core"):
        try:
            found.append(Version(folder.parent.parent.name))
        except InvalidVersion:
            continue
    if not found:
        raise RefusedError("contains no release", path=readers, fix=_install("0.16.1", readers))
    return [str(version) for version in sorted(found)]


def require_installed(releases: Sequence[str], readers: Path) -> None:
    """Raise if a release is not installed in a directory.

    Raises:
        RefusedError: the first one that is not; names the command that installs it.
    """
    there = installed(readers)
    for release in releases:
        if release not in there:
            raise RefusedError(
                f"does not contain release {release} (it contains {', '.join(there)})",
                path=readers,
                fix=_install(release, readers),
            )


def _install(release: str, readers: Path) -> str:
    target = ("--target", readers / release)
    command = shell("pip", "install", "--no-deps", *target, f"megatron-core=={release}")
    return f"run `{command}`"


def run(
    release: str, readers: Path, jobs: Sequence[Mapping[str, Any]], program: str = TRAINING
) -> list[Any]:
    """Run jobs in one process of a release.

    Args:
        release: a name in `readers`.
        jobs: the jobs, with the fields of TrainingJob (training_job/release.py), or for OPTIMIZER
            of OptimizerJob (optimizer_job/training.py).

    Returns:
        The outcomes of the ranks of each job, in the order of the jobs.

    Raises:
        RefusedError: the process failed; the message contains the last line of its stderr.
    """
    process = subprocess.run(
        search_path.module(program, first=[str(readers.absolute() / release), _FOLDER]),
        input=json.dumps(list(jobs)),
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )
    if process.returncode:
        words = (process.stderr.strip().splitlines() or ["nothing"])[-1]
        raise RefusedError(f"release {release} does not run: {words}", path=readers / release)
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    answered = [(line["release"], line["checkpoint"]) for line in lines]
    if answered != [(release, job["checkpoint"]) for job in jobs]:
        raise RefusedError(f"release {release} answered other jobs than it was given")
    return [line["ranks"] for line in lines]
