"""The benchmarks at tiny sizes: every row is there, with numbers of any value."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.goals import Goal, Quantity, render
from benchmarks.measure import measure
from benchmarks.table import Row

REPOSITORY = Path(__file__).parent.parent
NUMBERS = (
    r"\d[\d.]* m?s",
    r"\d[\d.]*(e\+\d+)?",
    *[r"\d[\d.]* (B|kB|MB|GB)"] * 3,
    r"1",
)
CONTENDERS = (
    "`ckptmigrate downgrade`",
    "`ckptmigrate downgrade --in-place`",
    "`cp -r`",
    "`cp -r --reflink=auto`",
    "`cp -r`, then `sync -f`",
    "torch DCP: load, save",
    "megatron-core 0.16.1: `load_plain_tensors`, `save`",
    "torch: `read_metadata`, `pickle.dump`, fsync",
    "floor: read, write, fsync what it changes",
    "`ckptmigrate inspect`",
    '`python -c "import torch"`',
    "`ckptmigrate downgrade --all --in-place`",
    "inert load: the C unpickler alone",
    "floor: read, write, fsync `.metadata`",
    "read, change, verify, write, fsync `.metadata`",
)

GOAL = r"\| .+: (time|memory) of .+, to .+ \| [\d.]+ x \| [\d.]+ x \| (met|missed: .+ that) \|"


@pytest.mark.full
def test_every_row_has_numbers(tmp_path: Path) -> None:
    """One run of everything, each process a real one."""
    place, page = tmp_path / "place", tmp_path / "RESULTS.md"
    place.mkdir()
    command = [sys.executable, "-m", "benchmarks", "--quick"]
    done = subprocess.run(
        [*command, "--folder", str(place), "--into", str(page)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == page.read_text(encoding="utf-8")
    assert not list(place.iterdir())
    assert str(tmp_path) not in done.stdout

    results, _, goals = done.stdout.partition("\n## Goals\n")
    table = [line for line in results.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert rows[0] == ["", "time", "ratio", "peak memory", "read", "written", "runs"]
    tasks = [row[0] for row in rows[2:] if row[0].startswith("**")]
    assert len(tasks) == len(set(tasks)) == 7
    measured = [row for row in rows[2:] if not row[0].startswith("**")]
    assert set(CONTENDERS) <= {row[0] for row in measured}
    for row in measured:
        assert len(row) == len(rows[0])
        for cell, number in zip(row[1:], NUMBERS, strict=True):
            assert re.fullmatch(number, cell), row
    asked = [line for line in goals.splitlines() if line.startswith("| ")][1:]
    assert len(asked) == 7
    for line in asked:
        assert re.fullmatch(GOAL, line), line


def test_a_goal_that_is_missed_says_by_how_much_and_why() -> None:
    goals = [
        Goal("task", "mine", "floor", Quantity.TIME, 3, "it checks"),
        Goal("task", "mine", "first", Quantity.TIME, 2, "it checks"),
        Goal("task", "mine", "floor", Quantity.MEMORY, 8, "it is whole"),
        Goal("task", "not run", "floor", Quantity.TIME, 1, "nobody knows"),
    ]
    rows = [
        Row("task", "first", 1.0, 1.0, 1, 1, 1, 1),
        Row("task", "floor", 0.5, 0.5, 1, 1, 100, 1),
        Row("task", "mine", 3.0, 3.0, 700, 1, 1, 1),
        Row("another", "mine", 9.0, 9.0, 9, 9, 9, 9),
    ]
    assert render(goals, rows).splitlines()[2:] == [
        "| goal | at most | measured | |",
        "|---|---:|---:|---|",
        "| task: time of mine, to floor | 3 x | 6.00 x | missed: 2 times that |",
        "| task: time of mine, to first | 2 x | 3.00 x | missed: 1.5 times that |",
        "| task: memory of mine, to the bytes of the file | 8 x | 7.00 x | met |",
        "",
        "Why they are missed:",
        "",
        "- it checks:",
        "    - task: time of mine, to floor",
        "    - task: time of mine, to first",
    ]
    assert render(goals, rows[:1]) == ""


def test_a_process_that_fails_ends_it(tmp_path: Path) -> None:
    """No row is made of a process that did not do its task."""
    for command in ([sys.executable, "-c", "raise SystemExit(3)"], [str(tmp_path / "nothing")]):
        with pytest.raises(RuntimeError, match=re.escape(command[0])):
            measure(command)


def test_what_a_process_and_its_children_take_is_counted(tmp_path: Path) -> None:
    """A child of a child writes and holds a known number of bytes."""
    size = 50_000_000
    write = f"open({str(tmp_path / 'file')!r}, 'wb').write(b'x' * {size})"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {write!r}], check=True)"
    found = measure([sys.executable, "-c", child])
    assert size <= found.written_bytes < size + 1_000_000
    assert size <= found.peak_bytes < 3 * size
    nothing = measure(["true"])
    assert nothing.written_bytes == 0
    assert nothing.peak_bytes < 20_000_000
