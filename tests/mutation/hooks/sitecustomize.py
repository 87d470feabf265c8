"""Record the lines that a process executes, if MUTATION_RECORD names a folder for the records.

Python imports this module at its start from PYTHONPATH, so every Python process that a test
starts with the environment of the test is recorded, and its forks as well. A process that is
killed leaves no record.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import NoReturn

FOLDER = os.environ.get("MUTATION_RECORD")
SOURCES = os.environ.get("MUTATION_SOURCES", "").split(os.pathsep)


def test_of_environment() -> str:
    """Return the test (or fixture) that pytest runs in this process or started it for."""
    return os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]


class Recorder:
    """A running coverage measurement, written to a file when the process ends."""

    def __init__(self, folder: str) -> None:
        import coverage

        self._folder = folder
        self._started_by = test_of_environment()
        self._written_by = 0
        self._coverage = coverage.Coverage(
            data_file=None, config_file=False, include=[f"{each}/*" for each in SOURCES]
        )
        self._coverage.set_option("run:disable_warnings", ["no-data-collected"])
        self._coverage.start()
        self._exit = os._exit
        atexit.register(self.write)
        os._exit = self._write_and_exit  # forks of multiprocessing end with it

    def switch(self, test: str) -> None:
        """Record what follows as executed by another test of this process."""
        self._coverage.switch_context(test)

    def write(self) -> None:
        """Write {test: {file: lines}}; lines of no test belong to the test that started it."""
        if self._written_by == os.getpid():
            return
        self._written_by = os.getpid()
        with contextlib.suppress(Exception):  # e.g. a file size limit that a test sets
            data = self._coverage.get_data()
            owner = test_of_environment() or self._started_by
            found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
            for file in data.measured_files():
                for line, tests in data.contexts_by_lineno(file).items():
                    for test in {each or owner for each in tests}:
                        found[test][file].append(line)
            path = Path(self._folder, f"lines-{os.getpid()}-{time.time_ns()}.json")
            part = path.with_suffix(".part")
            part.write_text(json.dumps(found))
            part.replace(path)

    def _write_and_exit(self, status: int) -> NoReturn:
        self.write()
        self._exit(status)


recorder = None
if FOLDER is not None:
    with contextlib.suppress(ImportError):  # another Python, without coverage
        recorder = Recorder(FOLDER)
