"""Measure and print one table: `python -m benchmarks [--quick] [--only NAME] [--into FILE]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks import contenders, machine, running, table

TITLE: Final = "# What a migration costs\n"
CONDITIONS: Final = (
    "Medians of whole processes, run in turn; each ratio is to the first row of its task, within "
    "one repetition. The page cache is warm as far as memory allows. Read and written: what "
    "passed through read and write calls of the process and its children (rchar, wchar of "
    "/proc/PID/io), its own program included. Peak memory: resident, of the largest process "
    "(ru_maxrss); 10 MB are the least that shows."
)


def main() -> None:
    """Run what is asked for, tell of it on stderr, and print the table."""
    asked = _arguments()
    folder = Path(asked.folder)
    where = machine.describe(folder)
    scale = contenders.QUICK if asked.quick else contenders.FULL
    if not asked.quick:
        _warm_up(folder)
    rows = []
    for task in contenders.tasks(scale):
        if asked.only in task.name:
            print(task.name, file=sys.stderr)
            rows += running.run(task, folder)
    text = "\n".join((TITLE, f"{where}.\n", f"{CONDITIONS}\n", table.render(rows)))
    print(text, end="")
    if asked.into:
        asked.into.write_text(text, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, once; a minute")
    parser.add_argument("--only", default="", metavar="NAME", help="tasks with this in their name")
    parser.add_argument("--into", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument(
        "--folder", default=tempfile.gettempdir(), help="where to make checkpoints; 20 GB"
    )
    return parser.parse_args()


def _warm_up(folder: Path) -> None:
    """Every process once, on something tiny: what it imports is compiled, and in the cache."""
    for task in contenders.tasks(contenders.QUICK):
        running.run(task, folder)


if __name__ == "__main__":
    main()
