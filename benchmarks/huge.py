"""`ckptmigrate` on a `.metadata` of a hundred thousand entries, and of a million.

    python -m benchmarks.huge [ENTRIES...]

Every row is one process of its own, so that its peak memory is its own. Processor time stands
beside wall time: on a machine that others use, compare that.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import synthetic

_TARGET = "0.13.1"  # what the rerun shards and the class of the plans have to change for

_FLOOR = """
import os, sys
content = open(sys.argv[1], "rb").read()
with open(sys.argv[1] + ".copy", "wb") as file:
    file.write(content); file.flush(); os.fsync(file.fileno())
os.unlink(sys.argv[1] + ".copy")
"""
_INERT = """
import io, sys
from ckptmigrate.inert import reader
unpickler = reader.InertUnpickler(open(sys.argv[1], "rb"), fix_imports=False)
unpickler.named = {}
with reader.uncollected():
    unpickler.load()
__import__("os")._exit(0)  # without the time to take the tree down
"""
_READ = """
import sys
from ckptmigrate import bulk
bulk.read(open(sys.argv[1], "rb").read())
__import__("os")._exit(0)
"""
_CHANGE = """
import os, sys
from ckptmigrate import bulk
found = bulk.read(open(sys.argv[1], "rb").read())
keys = [key for key in found.entries if key.startswith("rerun_state_machine_state/")]
content = found.without(keys).dump()
with open(sys.argv[1] + ".copy", "wb") as file:
    file.write(content); file.flush(); os.fsync(file.fileno())
os.unlink(sys.argv[1] + ".copy")
os._exit(0)
"""


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        entries: how many the checkpoint has.
        plans: whether it keeps `all_local_plans`.
        size: of `.metadata`, in bytes.
        what: what was done.
        wall, processor: seconds.
        memory: peak, in bytes.
    """

    entries: int
    plans: bool
    size: int
    what: str
    wall: float
    processor: float
    memory: int

    def __str__(self) -> str:
        plans = "plans" if self.plans else "no plans"
        return (
            f"{self.entries:9,d}  {plans:8s}  {self.size / 1e6:6.0f} MB  {self.what:34s}"
            f"{self.wall:8.2f} s {self.processor:8.2f} s {self.memory / 1e6:7.0f} MB"
            f" {self.memory / self.size:5.1f}x"
        )


def measured(command: list[str]) -> tuple[float, float, int]:
    """Wall time, processor time and peak memory of a process that succeeds."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def rows(sizes: tuple[int, ...] = (100_000, 1_000_000), *, told: bool = False) -> list[Row]:
    """Measure; `told` prints each row as it comes."""
    found: list[Row] = []
    for entries in sizes:
        for plans in (False, True):
            with tempfile.TemporaryDirectory() as place:
                path = _made(Path(place) / "run", entries, plans=plans)
                for what, command in _commands(path).items():
                    size = (path / ".metadata").stat().st_size
                    found.append(Row(entries, plans, size, what, *measured(command)))
                    if told:
                        print(found[-1], flush=True)
    for label, row_bytes in (("1 MB", 1), ("1 TB", 10**6)):
        with tempfile.TemporaryDirectory() as place:
            path = _made(Path(place) / "run", 500_000, plans=False, row_bytes=2 * row_bytes)
            size = (path / ".metadata").stat().st_size
            what = f"downgrade, {label} of payload"
            times = measured(_verb("downgrade", path, "--to", _TARGET, "--in-place"))
            found.append(Row(500_000, False, size, what, *times))
            if told:
                print(found[-1], flush=True)
    return found


def _made(root: Path, entries: int, *, plans: bool, row_bytes: int = synthetic.ROW_BYTES) -> Path:
    """In a process of its own: what it takes is not for the benchmark to hold."""
    words = [str(root), str(entries), str(row_bytes), *(["plans"] if plans else [])]
    subprocess.run([sys.executable, synthetic.__file__, *words], check=True)
    [path] = root.glob("iter_*")
    return path


def _commands(path: Path) -> dict[str, list[str]]:
    def script(text: str) -> list[str]:
        return [sys.executable, "-c", text, str(path / ".metadata")]

    return {
        "read, write, fsync the bytes": script(_FLOOR),
        "inert load (C unpickler alone)": script(_INERT),
        "read": script(_READ),
        "read, change, verify, write, fsync": script(_CHANGE),
        "inspect": _verb("inspect", path),
        "downgrade -o": _verb("downgrade", path, "--to", _TARGET, "-o", f"{path.parent}.out"),
        "downgrade --in-place": _verb("downgrade", path, "--to", _TARGET, "--in-place"),
        "undo": _verb("undo", path),
    }


def _verb(verb: str, path: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "ckptmigrate", verb, str(path), *words]


if __name__ == "__main__":
    rows(tuple(map(int, sys.argv[1:])) or (100_000, 1_000_000), told=True)
