"""The benchmarks at tiny sizes: every row is there, with numbers of any value."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import optimizer_tasks, plot, table, tasks
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
    "`cp` of as many bytes, fsync",
    "move: read, CRC-32, write, fsync",
    "move, with SHA-256 digests",
    "move, with SHA-256 digests, read back",
    "`ckptmigrate upgrade --optimizer convert`",
    "`ckptmigrate downgrade --optimizer convert`",
    "`ckptmigrate downgrade --optimizer convert --jobs 2`",
    "torch DCP: load, save the optimizer",
)
_LIMITS = r"[\d.]+ x \| [\d.e+]+ x|[\d.]+ MB \| [\d.]+ MB"
GOAL = rf"\| .+: (time|(peak )?memory) of .+ \| ({_LIMITS}) \| (met|missed: .+ that) \|"


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
    names = [row[0] for row in rows[2:] if row[0].startswith("**")]
    assert len(names) == len(set(names)) == 10
    measured = [row for row in rows[2:] if not row[0].startswith("**")]
    assert set(CONTENDERS) <= {row[0] for row in measured}
    for row in measured:
        assert len(row) == len(rows[0])
        for cell, number in zip(row[1:], NUMBERS, strict=True):
            assert re.fullmatch(number, cell), row
    asked = [line for line in goals.splitlines() if line.startswith("| ")][1:]
    assert len(asked) == 16
    for line in asked:
        assert re.fullmatch(GOAL, line), line
    assert [panel.axis for panel in plot.panels(table.parse(results))] == [
        "payload",
        "optimizer states",
    ]


def test_the_table_can_be_read_back() -> None:
    rows = [
        Row("task, 2 GB", "mine", 0.185, 1.0, 28_700_000, 4810, 0, 5),
        Row("task, 2 GB", "other", 9.02, 44.4, 2_340_000_000, 2_050_000_000, 512, 3),
        Row("another", "mine", 61.1, 353, 5_990_000_000, 10**12, 382_000_000, 1),
    ]
    assert table.parse(f"text\n\n{table.render(rows)}\n| goal | |\n") == rows


def results(**seconds: tuple[float, ...]) -> list[Row]:
    """Return rows of migrations of 1 GB, 10 GB, ... that took so many seconds."""
    names = {"mine": tasks.OUT_OF_PLACE, "copy": tasks.COPY_AND_SYNC}
    return [
        Row(f"{tasks.MIGRATION}{10**power} GB of payload", names[who], value, 1, 1, 1, 1, 1)
        for who, values in seconds.items()
        for power, value in enumerate(values)
    ]


def test_lines_are_extrapolated_in_proportion_to_the_bytes_that_are_added() -> None:
    [panel] = plot.panels(results(mine=(0.2, 0.2), copy=(1.5, 10.5)))
    mine, copy = panel.series
    assert mine.points == [(1e9, 0.2), (1e10, 0.2)]
    assert {seconds for _, seconds in mine.extrapolated} == {0.2}
    assert copy.extrapolated[0] == (1e10, 10.5)
    assert copy.extrapolated[-1] == pytest.approx((1e13, 10000.5))
    assert plot.Series("one", "copy", [(1.0, 1.0)]).extrapolated == []


def test_positions_in_the_picture_are_logarithmic() -> None:
    drawn = plot.draw(plot.panels(results(copy=(1, 10, 100))))
    places = re.findall(r'<circle class="cost-dot cost-copy" cx="([\d.]+)" cy="([\d.]+)"', drawn)
    (x1, y1), (x2, y2), (x3, y3) = [(float(x), float(y)) for x, y in places]
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert x1 < x2
    assert y1 > y2


def test_labels_do_not_overlap() -> None:
    made = plot.panels(results(mine=(9.9, 99.9), copy=(10, 100)))
    places = re.findall(r'<text class="cost-label" x="[\d.]+" y="([\d.]+)"', plot.draw(made))
    first, second = sorted(float(y) for y in places)
    assert second - first >= 15


def test_the_picture_is_that_of_the_results() -> None:
    """`make bench` draws it."""
    rows = table.parse(plot.RESULTS.read_text(encoding="utf-8"))
    assert plot.PICTURE.read_text(encoding="utf-8") == plot.draw(plot.panels(rows))


def test_every_conversion_is_measured_at_the_smallest_size() -> None:
    found = optimizer_tasks.tasks({1000: 5, 2000: 3})
    assert [task.repetitions for task in found] == [5, 5, 5, 3]
    assert all(task.cold for task in found)
    limits = [goal for goal in optimizer_tasks.goals({1000: 5}) if goal.quantity is Quantity.TIME]
    names = {task.name: {each.name for each in task.contenders} for task in found}
    assert all({goal.contender, goal.base} <= names[goal.task] for goal in limits)


def test_a_goal_that_is_missed_says_by_how_much_and_why() -> None:
    goals = [
        Goal("task", "mine", "floor", Quantity.TIME, 3, "it checks"),
        Goal("task", "mine", "first", Quantity.TIME, 2, "it checks"),
        Goal("task", "mine", "floor", Quantity.MEMORY, 8, "it is whole"),
        Goal("task", "mine", None, Quantity.PEAK, 400, "it is whole"),
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
        "| task: time of mine, to floor | 3 x | 6 x | missed: 2 times that |",
        "| task: time of mine, to first | 2 x | 3 x | missed: 1.5 times that |",
        "| task: memory of mine, to the bytes of the file | 8 x | 7 x | met |",
        "| task: peak memory of mine | 400 MB | 0.0007 MB | met |",
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
