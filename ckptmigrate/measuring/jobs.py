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

# The program of the processes, a package that does not import ckptmigrate.
_PROGRAM: Final = "training_job"
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
        example = "0.16.1"
        install = shell(
            "pip",
            "install",
            "--no-deps",
            "--target",
            readers / example,
            f"megatron-core=={example}",
        )
        raise RefusedError("contains no release", path=readers, fix=f"run `{install}`")
    return [str(version) for version in sorted(found)]


def run(release: str, readers: Path, jobs: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Run jobs in one process of a release.

    Args:
        release: a name in `readers`.
        jobs: the jobs, with the fields of training_job/release.py.

    Returns:
        The outcomes of the ranks of each job, in the order of the jobs.

    Raises:
        RefusedError: the process failed; the message contains the last line of its stderr.
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
    answered = [(line["release"], line["checkpoint"]) for line in lines]
    if answered != [(release, job["checkpoint"]) for job in jobs]:
        raise RefusedError(f"release {release} answered other jobs than it was given")
    return [line["ranks"] for line in lines]
