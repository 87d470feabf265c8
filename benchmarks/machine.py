"""A description of the machine of the measurement, without names and paths."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path


def describe(folder: Path) -> str:
    """Return one paragraph about the machine and the file system of a directory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = (
        f"{_cpu()}, {os.cpu_count()} cores, {memory:.0f} GiB of memory",
        f"Linux {platform.release()}, {_file_system(folder)}",
        f"Python {platform.python_version()}",
        f"torch {importlib.metadata.version('torch')}",
        f"load average {os.getloadavg()[0]:.1f} when it began",
    )
    return "; ".join(parts)


def _cpu() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def _file_system(folder: Path) -> str:
    asked = ["df", "--output=fstype", str(folder)]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    return told.split()[-1]
