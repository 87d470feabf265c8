"""What every verb prints, held against files that somebody looked at (golden.py)."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import golden
import pytest
from conftest import SAMPLES


@pytest.mark.parametrize("case", golden.CASES)
def test_golden(case: str, request: pytest.FixtureRequest) -> None:
    found = "".join(
        f"{'=' * 20} {f'{width} columns' if width else 'a pipe'} {'=' * 20}\n"
        f"{golden.printed(case, width)}\n"
        for width in golden.WIDTHS
    )
    file = golden.FOLDER / f"{case}.txt"
    if request.config.getoption("--update-golden"):
        file.write_text(found, encoding="utf-8")
    assert found == file.read_text(encoding="utf-8")


def test_every_golden_file_has_its_case() -> None:
    assert {path.stem for path in golden.FOLDER.glob("*.txt")} == set(golden.CASES)


def test_no_line_is_wider_than_the_terminal() -> None:
    """But for what must not be broken: a command, a path, a key."""
    for case, width in product(golden.CASES, (60, 100, 200)):
        text = (golden.FOLDER / f"{case}.txt").read_text(encoding="utf-8")
        part = text.split(f" {width} columns ")[1].split("\n====")[0]
        for line in part.splitlines()[1:]:
            if len(line) <= width or line.startswith("$ "):
                continue
            words = re.findall(r"(?:`[^`]*`|\S)+", line.strip())
            label = len(words) > 1 and re.fullmatch(r"[-+~]|[\w-]+:?", words[0]) is not None
            command = re.match(r"\s*(to undo: |to redo: |next: |fix: |run +)", line) is not None
            kept = command or len(words) == 1 or (label and len(words) == 2)
            assert kept, (case, width, line)


def test_columns_outweighs_the_terminal(tmp_path: Path) -> None:
    root = str(SAMPLES / "0.17.1-fault-tp2pp2")
    narrow = golden.run(["inspect", root], tmp_path, 200, COLUMNS="60")
    assert narrow == golden.run(["inspect", root], tmp_path, 60)
    assert narrow != golden.run(["inspect", root], tmp_path, 200)
    # A pipe is read by programs, line by line.
    piped = golden.run(["inspect", root], tmp_path, None, COLUMNS="60")
    assert piped == golden.run(["inspect", root], tmp_path, None)


def test_signs_are_coloured_on_a_terminal_only(tmp_path: Path) -> None:
    roots = [str(SAMPLES / name) for name in ("0.19.0-idle-w1", "0.17.1-idle-w1")]
    pair = ["diff", *roots, "--full"]
    shown = golden.run(pair, tmp_path, 100, NO_COLOR="")
    assert re.search(r"^\x1b\[32m\+ ", shown, re.MULTILINE)
    assert re.search(r"^\x1b\[31m- ", shown, re.MULTILINE)
    for plain in (
        golden.run(pair, tmp_path, 100),
        golden.run([*pair, "--no-color"], tmp_path, 100, NO_COLOR=""),
        golden.run(pair, tmp_path, None, NO_COLOR=""),
    ):
        assert "\x1b" not in plain
