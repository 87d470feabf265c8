"""Measurements of one process: time, memory, bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROGRAMS: Final = Path(__file__).parent / "programs"


@dataclass(frozen=True)
class Measurement:
    """The resources that a process and its children used.

    Attributes:
        seconds: wall time from before its start to its end.
        peak_bytes: resident memory of the largest process (ru_maxrss).
        read_bytes: bytes of read calls (rchar of /proc/PID/io), including the program itself and
            reads from the page cache, without memory-mapped files.
        written_bytes: bytes of write calls (wchar).
    """

    seconds: float
    peak_bytes: int
    read_bytes: int
    written_bytes: int


def measure(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Measurement:
    """Run a command and return the resources that it used.

    Args:
        environment: environment variables in addition to those of this process.

    Raises:
        RuntimeError: the command fails; the message contains its stderr.
    """
    launched = subprocess.run(
        [sys.executable, "-I", "-S", str(PROGRAMS / "launcher.py"), *command],
        env={**_environment(), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    told = json.loads(launched.stdout) if launched.returncode == 0 else {"status": "none"}
    if told.pop("status") != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {launched.stderr}")
    return Measurement(**told)


def _environment() -> dict[str, str]:
    """Return the environment of a user, in which Python writes compiled modules."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
