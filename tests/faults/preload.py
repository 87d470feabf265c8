"""Build the shim, run Python with it preloaded, and control it from within."""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import ckptmigrate

RECORD, KILL_BEFORE, KILL_AFTER, FAIL_ONCE, FAIL_FROM_THEN_ON = range(5)
_SOURCE = Path(__file__).with_name("shim.c")
# What needs an extra; importing the rest once is cheaper than in each child.
_NOT_IMPORTED = (
    "ckptmigrate.measuring.",
    "ckptmigrate.batch.dask_cluster",
    "ckptmigrate.__main__",
)


def restart_under_shim() -> None:
    """Unless this process has the shim, build it, run this program with it, and exit."""
    if "LD_PRELOAD" in os.environ:
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "LD_PRELOAD": str(_build(Path(folder)))}
        status = subprocess.run([sys.executable, *sys.argv], env=environment, check=False)
    sys.exit(status.returncode)


def in_processes(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """Call a function in forks of this process, as many at a time as there are cores.

    Yields:
        The results, in order.
    """
    for module in pkgutil.walk_packages(ckptmigrate.__path__, "ckptmigrate."):
        if not module.name.startswith(_NOT_IMPORTED):
            importlib.import_module(module.name)
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(jobs)), fork) as pool:
        yield from pool.map(function, *zip(*jobs, strict=True))


@contextmanager
def work_folder(name: str) -> Iterator[Path]:
    """A temporary folder, in memory where that is possible."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=f"ckptmigrate-{name}-", dir=memory) as folder:
        yield Path(folder).resolve()


def _build(folder: Path) -> Path:
    """Compile the shim into a folder."""
    library = folder / "shim.so"
    compiler = os.environ.get("CC", "cc")
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", library, _SOURCE, "-ldl"], check=True)
    return library


def command_line(arguments: list[str]) -> None:
    """Run the command line in this process; ends with SystemExit."""
    from ckptmigrate.cli import main

    sys.argv = ["ckptmigrate", *arguments]
    main()
    raise SystemExit(0)


def forked(
    what: Callable[[], None],
    place: Path,
    told: Path,
    *,
    at: int = 0,
    how: int = RECORD,
    error: int = 0,
    log: int = -1,
) -> tuple[int, int]:
    """Run something in a child with the shim armed for a place.

    Args:
        what: the function.
        place: under which writing calls count.
        told: a file for what it prints.
        at: which call, from 1, is hit.
        how, error: what happens to it.
        log: a file handle for the record of calls, or -1.

    Returns:
        The exit status (negative for a signal), and how many calls were counted (0 if killed).
    """
    shim = ctypes.CDLL(None)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 70
        try:
            with told.open("w") as out, redirect_stdout(out), redirect_stderr(out):
                shim.arm(os.fsencode(place), ctypes.c_long(at), how, error, log)
                try:
                    what()
                    status = 0
                except SystemExit as stop:
                    status = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
                os.write(writing, str(shim.disarm()).encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        counted = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), int(counted or 0)
