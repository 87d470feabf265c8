"""Run training jobs of real releases: a process per release, its megatron-core on the path."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ckptmigrate import search_path
from ckptmigrate.errors import RefusedError

# The program of the processes: a package that knows nothing of this one.
_PROGRAM: Final = "training_job"
_FOLDER: Final = str(Path(__file__).parent)
_SECONDS: Final = 3600


def installed(readers: Path) -> list[str]:
    """The releases in a directory of theirs, oldest first; see `make readers`.

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
        raise RefusedError(f"there is no release in {readers}", fix="run `make readers`")
    return [str(version) for version in sorted(found)]


def run(release: str, readers: Path, jobs: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Run jobs in one process of a release.

    Args:
        release: a name in `readers`.
        jobs: as training_job/release.py has them.

    Returns:
        What each job's ranks tell, in order.

    Raises:
        RefusedError: the process did not come to its end; with its last words.
    """
    process = subprocess.run(
        search_path.module(_PROGRAM, first=[str(readers.absolute() / release), _FOLDER]),
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
    told = [(line["release"], line["checkpoint"]) for line in lines]
    if told != [(release, job["checkpoint"]) for job in jobs]:
        raise RefusedError(f"release {release} told of other jobs than it was given")
    return [line["ranks"] for line in lines]
