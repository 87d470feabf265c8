"""Runs of the contenders of a task in turn, and the rows of their results."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders import Contender, Place, Task
from benchmarks.measure import Measurement, measure
from benchmarks.payloads import Payload, cool, warm, working_copy
from benchmarks.table import Row


def run(task: Task, folder: Path, *, at_most: int | None = None) -> list[Row]:
    """Run every contender of a task in turn, and return a row for each.

    Args:
        folder: a directory; payloads are created in a subdirectory, which is removed.
        at_most: the largest number of repetitions.

    Raises:
        RuntimeError: there is not enough space, or a contender fails.
    """
    free = shutil.disk_usage(folder).free
    if free < task.bytes_needed:
        raise RuntimeError(f"{task.name}: needs {task.bytes_needed} bytes of disk, {free} are free")
    runs: list[list[Measurement]] = [[] for _ in task.contenders]
    with tempfile.TemporaryDirectory(prefix="ckptmigrate-bench-", dir=folder) as made:
        roots: dict[Payload, Path] = {}
        for contender in task.contenders:
            if contender.payload not in roots:
                roots[contender.payload] = Path(made) / f"payload-{len(roots)}"
                contender.payload.make(roots[contender.payload])
        for _ in range(min(task.repetitions, at_most or task.repetitions)):
            for contender, measured in zip(task.contenders, runs, strict=True):
                measured.append(_once(task, contender, roots[contender.payload], Path(made)))
    return [
        _row(task, contender.name, measured, runs[0])
        for contender, measured in zip(task.contenders, runs, strict=True)
    ]


def _once(task: Task, contender: Contender, root: Path, folder: Path) -> Measurement:
    place = Place(folder / "run", folder / "out")
    working_copy(root, place.root)
    command = contender.command(place)
    if not task.cold:
        warm(place.root)
    os.sync()  # keep writes of the copy out of the measurement
    if task.cold:
        cool(place.root)
    try:
        return measure(command, contender.environment)
    finally:
        shutil.rmtree(place.root)
        if place.out.is_file():
            place.out.unlink()
        shutil.rmtree(place.out, ignore_errors=True)  # not all contenders create it


def _row(task: Task, name: str, runs: Sequence[Measurement], first: Sequence[Measurement]) -> Row:
    """Return the medians; a ratio compares runs of the same repetition, as machine speed varies."""
    return Row(
        task=task.name,
        contender=name,
        seconds=statistics.median(run.seconds for run in runs) / task.per,
        ratio=statistics.median(
            run.seconds / other.seconds for run, other in zip(runs, first, strict=True)
        ),
        peak_bytes=statistics.median(run.peak_bytes for run in runs),
        read_bytes=statistics.median(run.read_bytes for run in runs) / task.per,
        written_bytes=statistics.median(run.written_bytes for run in runs) / task.per,
        runs=len(runs),
    )
