"""Every example of the README is run, in order, and prints what the README says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SAMPLES

README = (Path(__file__).parent.parent / "README.md").read_text()
NAMED = {
    "run": "0.17.1-idle-w1",
    "new": "0.19.0-idle-tp2",
    "old": "0.12.3-idle-w1",
    "fault": "0.17.1-fault-tp2pp2",
    "broken": "0.17.1-corrupt-tp2",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, sample in NAMED.items():
        assert f"`{name}` is" in README
        assert f"`{sample}`" in README
        shutil.copytree(SAMPLES / sample, tmp_path / name)
    return tmp_path


def shown(command: list[str], place: Path) -> str:
    result = subprocess.run(
        command,
        cwd=place,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    text = (result.stdout + result.stderr).replace(str(place), "/checkpoints")
    # Whether payload is hard-linked or cloned depends on the file system that the test runs on.
    text = re.sub(r"payload by \w+:", "payload by hardlink:", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", "TIME", text)
    lines = (line.rstrip() for line in text.splitlines())
    return "\n".join(line for line in lines if not line.startswith("caution: "))


def test_console_examples(place: Path) -> None:
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    runs = [part for block in blocks for part in block.split("$ ") if part]
    assert len(runs) >= 10
    for part in runs:
        command, _, expected = part.partition("\n")
        program, *arguments = command.split()
        assert program == "ckptmigrate"
        found = shown([sys.executable, "-m", "ckptmigrate", *arguments], place)
        stated = [line for line in expected.splitlines() if not line.startswith("caution: ")]
        assert found.splitlines() == stated, command


def test_library_example(place: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    lines = shown([sys.executable, "-c", code], place).splitlines()
    assert lines[0] == "('common-state',) idle ('0.19',)"
    # The plan's differences and how many the two checkpoints have, which is as many.
    assert int(lines[-1]) == len(lines) - 2
    assert (place / "new-for-0.13" / "iter_0000005" / "common.pt").exists()
