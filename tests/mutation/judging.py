"""Run the tests that reach a mutant, in a copy of the repository that has the mutant."""

from __future__ import annotations

import compileall
import contextlib
import itertools
import os
import py_compile
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contexts import Contexts, environment, logged, pytest_command
from points import Mutant

_IGNORED = (".git", ".venv", ".readers", "__pycache__", "build", "dist", ".*_cache", ".hypothesis")
_CHUNKS = (30, 200)  # most mutants are killed by the first tests, and pytest collects all it gets
_PATIENCE = 120.0  # seconds until a test counts as hung, besides 20 times its CPU time
_MEMORY = 8 << 30  # bytes of data, of each process


@dataclass(frozen=True)
class Verdict:
    """The outcome of a mutant.

    Attributes:
        status: `killed`, `survived`, `unfinished` (as survived, but not every test was run) or
            `unreached` (no test executes it).
        test: the test that failed, or the test module that could not be imported.
        tests: how many tests reach the mutant.
        left_out: how many of these were not run, because of the limit.
        seconds: how long the others took.
    """

    status: str
    tests: int = 0
    left_out: int = 0
    seconds: float = 0.0
    test: str | None = None


@dataclass
class Bench:
    """A private copy of the repository in which mutants are tested one after another."""

    repository: Path
    folder: Path
    contexts: Contexts
    trusted: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.copy, self.log = self.folder / "copy", self.folder / "log"
        ignored = shutil.ignore_patterns(*_IGNORED)
        shutil.copytree(self.repository, self.copy, symlinks=True, ignore=ignored)
        for name in (".venv", ".readers"):
            if (self.repository / name).exists():
                (self.copy / name).symlink_to((self.repository / name).resolve())
        # Valid as long as the source has the same hash, whatever its time.
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(self.copy / "ckptmigrate", quiet=1, invalidation_mode=mode)
        self._start([*self.contexts.seconds], "--collect-only", PYTHONDONTWRITEBYTECODE="").wait()

    def judge(self, mutant: Mutant, limit: float) -> Verdict:
        """Return whether the tests that reach a mutant kill it.

        Args:
            limit: CPU seconds that these tests may take without the mutant.
        """
        started = time.monotonic()
        while True:
            reaching = [t for t in self.contexts.reaching(mutant) if t not in self.broken]
            if not reaching:
                return Verdict("unreached")
            ends = itertools.accumulate(self.contexts.seconds[test] for test in reaching)
            tests = reaching[: max(1, sum(end <= limit for end in ends))]
            left_out = len(reaching) - len(tests)
            test = self._killer(mutant, tests)
            # A test that fails without the mutant, too, proves nothing.
            if test is None or test in self.trusted or "::" not in test or self._passes(test):
                status = "killed" if test else "unfinished" if left_out else "survived"
                took = round(time.monotonic() - started, 1)
                return Verdict(status, len(reaching), left_out, took, test)
            self.broken.add(test)

    def _killer(self, mutant: Mutant, tests: list[str]) -> str | None:
        path = self.copy / mutant.file
        source = path.read_bytes()
        path.write_bytes(mutant.apply(source))
        try:
            first = 0
            for size in (*_CHUNKS, len(tests)):
                chunk = tests[first : first + size]
                if chunk and (test := self._failing(chunk)) is not None:
                    return test
                first += size
            return None
        finally:
            path.write_bytes(source)

    def _passes(self, test: str) -> bool:
        passes = self._failing([test]) is None
        self.trusted |= {test} if passes else set()
        return passes

    def _failing(self, tests: Sequence[str]) -> str | None:
        """Run tests and return the first that fails or hangs."""
        process = self._start(tests, "-x")
        current, since = "collection", time.monotonic()
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)
                started = [each["start"] for each in logged(self.log) if "start" in each]
                if started and started[-1] != current:
                    current, since = started[-1], time.monotonic()
                patience = _PATIENCE + 20 * self.contexts.seconds.get(current, 0)
                if time.monotonic() - since > patience:
                    return current
        finally:
            self._end(process)
        failed = [each["failed"] for each in logged(self.log) if "failed" in each]
        return failed[0] if failed else current if process.returncode else None

    def _start(
        self, tests: Sequence[str], *options: str, **variables: str
    ) -> subprocess.Popen[bytes]:
        shutil.rmtree(self.log, ignore_errors=True)
        self.log.mkdir()
        chosen = self.folder / "chosen"
        chosen.write_text("\n".join(tests))
        variables = {"PYTHONDONTWRITEBYTECODE": "1", **variables}
        process = subprocess.Popen(
            pytest_command("-n", "0", *options, f"@{chosen}"),
            cwd=self.copy, env=environment(self.copy, self.log, **variables),
            stdout=(self.folder / "output").open("wb"), stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill what is left of a run: every process that has its log in its environment."""
        mark = f"MUTATION_LOG={self.log}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    os.kill(int(path.parent.name), signal.SIGKILL)
        process.wait()
        shutil.rmtree(f"/tmp/ckptmigrate-forks-{process.pid}", ignore_errors=True)  # see forked.py
        shutil.rmtree(self.copy / ".hypothesis", ignore_errors=True)
