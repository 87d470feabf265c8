"""The program of the benchmarks: `python -m benchmarks [--quick] [--only NAME] ...`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks import goals, machine, running, table, tasks

TITLE: Final = "# What a migration costs\n"
CONDITIONS: Final = (
    "Medians of whole processes, run in turn; each ratio is to the first row of its task, within "
    "one repetition. The page cache is warm as far as memory allows, except where a task says that "
    "it is cold. Read and written: what passed through read and write calls of the process and its "
    "children (rchar, wchar of /proc/PID/io), its own program included. Peak memory: resident, of "
    "the largest process (ru_maxrss); 10 MB are the least that shows."
)


def main() -> None:
    """Run the selected tasks, print their names to stderr, and print the table."""
    asked = _arguments()
    folder = Path(asked.folder)
    head = "\n".join((TITLE, f"{machine.describe(folder)}.\n", f"{CONDITIONS}\n"))
    scale = tasks.QUICK if asked.quick else tasks.FULL
    if not asked.quick:
        # Run every process once on tiny data, to compile its imports and fill the page cache.
        for task in tasks.tasks(tasks.QUICK):
            running.run(task, folder)
    rows: list[table.Row] = []
    for task in tasks.tasks(scale):
        if asked.only in task.name:
            print(task.name, file=sys.stderr)
            rows += running.run(task, folder, at_most=asked.runs)
            if asked.into:  # after each task, so that an interrupted run keeps its results
                asked.into.write_text(_page(head, rows, scale), encoding="utf-8")
    print(_page(head, rows, scale), end="")


def _page(head: str, rows: list[table.Row], scale: tasks.Scale) -> str:
    parts = (head, table.render(rows), goals.render(tasks.goals(scale), rows))
    return "\n".join(part for part in parts if part)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, once; a minute")
    parser.add_argument("--only", default="", metavar="NAME", help="tasks with this in their name")
    parser.add_argument("--runs", type=int, metavar="N", help="at most so many of each")
    parser.add_argument("--into", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument(
        "--folder", default=tempfile.gettempdir(), help="where to make checkpoints; 35 GB"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
