"""Processes that mutate and judge, each under the limits that are promised.

A case that runs for more than SECONDS of processor time, or asks for more than MEMORY, ends its
process; the parent sees which case it was, writes it down as a failure, and starts another.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from fuzz import large, mutations, oracle
from hostile.guard import Guard

from ckptmigrate.checkpoint import differences, material, metadata
from ckptmigrate.cli import diff as differing
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.report import terminal
from ckptmigrate.storage.directories import LocalDirectory
from ckptmigrate.text.lines import Line, fitted
from ckptmigrate.verbs.check import CheckRequest
from ckptmigrate.verbs.inspect import InspectRequest
from ckptmigrate.verbs.migrate import MigrationRequest, prepare
from ckptmigrate.versions.detection import read

KINDS = ("metadata", "common", "blob", "large")
SECONDS = 5
MEMORY = 1024**3  # bytes of address space
_STALLED = 60  # seconds of the wall clock
_TOLD_EVERY = 60  # seconds between lines of progress


@dataclass(frozen=True)
class Original:
    """A file of a sample: what is mutated, and where it goes for the verbs."""

    sample: str
    checkpoint: Path
    content: Any  # mutations.Pickle or mutations.Archive
    key: str = ""  # of a blob


_CHANGES: dict[str, Callable[..., bytes]] = {"metadata": mutations.pickle, "large": large.mutate}


def originals(samples: Path, kind: str) -> list[Original]:
    """The files of one kind of every sample, in a fixed order."""
    found = []
    paths = sorted(samples.glob("*/iter_*"))
    if kind == "large":
        contents = [*large.originals(), *((path / ".metadata").read_bytes() for path in paths[::9])]
        found = [Original(f"rows {n}", paths[0], large.Rows(c)) for n, c in enumerate(contents)]
    for path in paths:
        name = f"{path.parent.name}/{path.name}"
        if kind == "metadata":
            found.append(Original(name, path, mutations.Pickle((path / ".metadata").read_bytes())))
        elif kind == "common" and (path / "common.pt").exists():
            content = mutations.Archive((path / "common.pt").read_bytes())
            found.append(Original(name, path, content))
        elif kind == "blob":
            whole = material.load(LocalDirectory(path))
            found += [
                Original(name, path, mutations.Archive(whole.read_blob_bytes(key)), key)
                for key in whole.metadata.blobs
            ]
    for original in found:  # looked at once, before the workers share it
        random = Random(0)
        for _ in range(20):
            change = _CHANGES.get(kind, mutations.archive)
            change(original.content, original.content, random)
    return found


def mutant(kind: str, files: list[Original], seed: int, number: int) -> tuple[Original, bytes]:
    """Case `number` of a seed."""
    random = Random(f"{seed}/{kind}/{number}")
    original, other = random.choice(files), random.choice(files)
    if kind == "large" and random.random() < 0.8:
        original = files[number % 2]  # the samples are small
    change = _CHANGES.get(kind, mutations.archive)
    return original, change(original.content, other.content, random)


@dataclass
class Failure:
    """A case that came to neither a clear error nor a right result."""

    kind: str
    number: int
    sample: str
    what: str
    data: bytes = field(repr=False)


class Verbs:
    """inspect, check, diff and a planned downgrade and upgrade, on a checkpoint with a mutant."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, kind: str, original: Original, data: bytes, turn: int | None = None) -> None:
        """Run them, or the one whose turn it is; a `CkptMigrateError` is fine, all else a crash."""
        place = self.folder / "iter_0000005"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for item in original.checkpoint.iterdir():
            if item.is_file():
                os.symlink(item.resolve(), place / item.name)
        name = {"common": "common.pt", "blob": None}.get(kind, ".metadata")
        if name is None:
            blob = metadata.load((place / ".metadata").read_bytes()).blobs[original.key]
            name = blob.file
            content = bytearray((place / name).read_bytes())
            content[blob.offset : blob.offset + blob.length] = data[: blob.length].ljust(
                blob.length, b"\0"
            )
            data = bytes(content)
        (place / name).unlink()
        (place / name).write_bytes(data)
        verbs = (self._inspect, self._check, self._diff, self._plan)
        for verb in verbs if turn is None else (verbs[turn % len(verbs)],):
            try:
                for line in verb(place, original.checkpoint):
                    for text in fitted(line, None):
                        if not text.isprintable():
                            raise oracle.Wrong(f"would print {text!r}")
            except CkptMigrateError as error:
                oracle._check_clear(error)

    @staticmethod
    def _inspect(place: Path, _: Path) -> list[Line]:
        return terminal.lines(InspectRequest().run(place).document(), facts=True)

    @staticmethod
    def _check(place: Path, _: Path) -> list[Line]:
        return terminal.lines(CheckRequest().run(place).document())

    @staticmethod
    def _diff(place: Path, other: Path) -> list[Line]:
        a, b = (read(LocalDirectory(path)).manifest for path in (place, other))
        return differing.lines(differences.diff(a, b))

    @staticmethod
    def _plan(place: Path, _: Path) -> Iterator[Line]:
        for to in ("sharded-rerun", "common-state", "0.13.1", "0.18.2"):
            try:
                made = prepare(place, MigrationRequest(to, output=place.parent / "out"))
            except CkptMigrateError as error:
                oracle._check_clear(error)
            else:
                yield from terminal.lines(made.document())


class Worker:
    """Judges every `stride`-th case, in a process of its own."""

    def __init__(
        self,
        kind: str,
        files: list[Original],
        seed: int,
        count: int,
        share: Any,
        guard: Guard,
        verbs_every: int,
    ) -> None:
        self.kind, self.files, self.seed, self.count = kind, files, seed, count
        self.verbs_every = verbs_every
        self.share = share  # [case under way, judged, accepted, through a verb, kB of memory]
        self.guard = guard

    def run(self, first: int, stride: int, failures: Any) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        verbs = Verbs(folder)
        verbs.run(self.kind, self.files[0], self.files[0].content.data)  # imports what it needs
        self.guard.learn()
        self.guard.allow(read=[folder, *(f.checkpoint for f in self.files)], write=[])
        try:
            for number in range(first, self.count, stride):
                self.share[0] = number
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
                signal.setitimer(signal.ITIMER_REAL, _STALLED)
                failure = self.case(number, verbs)
                if failure is not None:
                    failures.put(failure)
                self.share[1] += 1
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.share[4] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            shutil.rmtree(folder, ignore_errors=True)

    def case(self, number: int, verbs: Verbs | None) -> Failure | None:
        original, data = mutant(self.kind, self.files, self.seed, number)
        try:
            self.guard.armed = True
            try:
                judge = large.judge if self.kind == "large" else partial(oracle.judge, self.kind)
                accepted = judge(data)
            finally:
                self.guard.armed = False
            self.share[2] += accepted
            # What the lexer refuses every verb refuses with the same words.
            if verbs is not None and accepted and number % self.verbs_every == 0:
                self.share[3] += 1
                verbs.run(self.kind, original, data, number // self.verbs_every)
            if self.guard.violations:
                raise oracle.Wrong("; ".join(self.guard.violations))
        except Exception:
            self.guard.violations.clear()
            return Failure(self.kind, number, original.sample, traceback.format_exc(), data)
        return None


@dataclass
class Outcome:
    """What came of the mutations of one kind."""

    kind: str
    judged: int
    accepted: int
    through_verbs: int
    seconds: float
    memory: int
    failures: list[Failure]


def fuzz(
    kind: str,
    samples: Path,
    *,
    seed: int,
    count: int,
    processes: int,
    until: float | None,
    verbs_every: int,
) -> Outcome:
    """Judge `count` mutants of one kind; fewer where the clock reaches `until` before."""
    context = multiprocessing.get_context("fork")
    files = originals(samples, kind)
    guard = Guard()
    start = time.monotonic()
    failures: Any = context.SimpleQueue()
    found: list[Failure] = []
    running: dict[int, tuple[Any, Any]] = {}
    totals = [0, 0, 0, 0, 0]
    told = start

    def launch(lane: int, first: int) -> None:
        share = context.RawArray("q", 5)
        worker = Worker(kind, files, seed, count, share, guard, verbs_every)
        process = context.Process(target=worker.run, args=(first, processes, failures))
        process.start()
        running[lane] = (process, share)

    for lane in range(processes):
        launch(lane, lane)
    while running:
        time.sleep(0.05)
        if time.monotonic() > told + _TOLD_EVERY:
            told = time.monotonic()
            judged = totals[1] + sum(share[1] for _, share in running.values())
            print(f"{kind}: {judged} of {count} so far, {len(found)} failures", file=sys.stderr)
        while not failures.empty():
            found.append(failures.get())
        for lane, (process, share) in list(running.items()):
            if until is not None and time.monotonic() > until and process.is_alive():
                process.terminate()
            elif process.is_alive():
                continue
            process.join()
            del running[lane]
            for at in (1, 2, 3):
                totals[at] += share[at]
            totals[4] = max(totals[4], share[4])
            if process.exitcode == 1:
                raise RuntimeError("the fuzzer itself failed, see above")
            if process.exitcode not in (0, -signal.SIGTERM):
                original, data = mutant(kind, files, seed, share[0])
                what = f"the process ended with {process.exitcode} ({_why(process.exitcode)})"
                found.append(Failure(kind, share[0], original.sample, what, data))
                totals[1] += 1
                if share[0] + processes < count:
                    launch(lane, share[0] + processes)
    while not failures.empty():
        found.append(failures.get())
    seconds = time.monotonic() - start
    return Outcome(kind, totals[1], totals[2], totals[3], seconds, totals[4], found)


def _why(code: int) -> str:
    if code == -signal.SIGPROF:
        return f"more than {SECONDS} s of processor time"
    if code == -signal.SIGALRM:
        return f"it stood still for {_STALLED} s"
    return signal.Signals(-code).name if code < 0 else "it left"


def replay(kind: str, samples: Path, *, seed: int, number: int, verbs_every: int) -> Failure | None:
    """Run one case again, in this process."""
    files = originals(samples, kind)
    worker = Worker(kind, files, seed, number + 1, [0] * 5, Guard(), verbs_every)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        return worker.case(number, Verbs(folder))
    finally:
        shutil.rmtree(folder)


assert sys.platform == "linux"
