"""Build the shim, run Python under it, and command it from within."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

RECORD, KILL_BEFORE, KILL_AFTER, FAIL_ONCE, FAIL_FROM_THEN_ON = range(5)
_SOURCE = Path(__file__).with_name("shim.c")


def build(folder: Path) -> Path:
    """The shim, compiled into a folder."""
    library = folder / "shim.so"
    compiler = os.environ.get("CC", "cc")
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", library, _SOURCE, "-ldl"], check=True)
    return library


def environment(library: Path) -> dict[str, str]:
    """The environment of a process that runs under the shim."""
    return {**os.environ, "LD_PRELOAD": str(library), "PYTHONDONTWRITEBYTECODE": "1"}


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
