"""What one process took: time, memory, bytes."""

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
    """What a process and its children took.

    Attributes:
        seconds: wall time from before its start to its end.
        peak_bytes: resident memory of the largest of them (ru_maxrss).
        read_bytes: what passed through read calls (rchar of /proc/PID/io): its own program, and
            what the page cache serves, count; what is mapped does not.
        written_bytes: what passed through write calls (wchar).
    """

    seconds: float
    peak_bytes: int
    read_bytes: int
    written_bytes: int


def measure(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Measurement:
    """Run a command to its end.

    Args:
        environment: what it finds beyond that of this process.

    Raises:
        RuntimeError: it fails; with what it said.
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
    """As a user has it: compiled modules are kept."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
