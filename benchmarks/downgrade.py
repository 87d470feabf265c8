"""How long `ckptmigrate downgrade SAMPLE --to pre-rerun` takes, beside Python's own start.

    python benchmarks/downgrade.py [RUNS]

Prints medians of whole processes, wall time in seconds. Machines are noisy: the runs of the
rows alternate, and the ratio is what to compare.
"""

from __future__ import annotations

import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAMPLE = Path(__file__).parent.parent / "tests" / "samples" / "0.19.0-idle-tp2"


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(runs: int) -> None:
    """Run both rows alternately and print a table."""
    ours, python = [], []
    with tempfile.TemporaryDirectory() as place:
        # Beside the destination, as a user's checkpoint is: payload is linked, not copied.
        source, out = Path(place) / "run", Path(place) / "out"
        shutil.copytree(SAMPLE, source)
        command = [sys.executable, "-m", "ckptmigrate", "downgrade", str(source)]
        for _ in range(runs):
            ours.append(seconds([*command, "--to", "pre-rerun", "-o", str(out)]))
            shutil.rmtree(out)
            python.append(seconds([sys.executable, "-c", "import click"]))
    one, other = statistics.median(ours), statistics.median(python)
    print(f"Python {platform.python_version()} on {platform.machine()}, {runs} runs, medians")
    print(f"ckptmigrate downgrade --to pre-rerun  {one:6.3f} s")
    print(f"python -c 'import click'              {other:6.3f} s")
    print(f"ratio                                 {one / other:6.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
