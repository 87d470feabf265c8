"""What CONTRIBUTING.md names is there: commands, targets, files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
LINES = [line.partition("#")[0].split() for block in BLOCKS for line in block.splitlines()]
SPANS = re.findall(r"`([^`\n]+)`", TEXT)
TARGETS = sorted({word for words in (*LINES, *map(str.split, SPANS)) if words[0] == "make"
                  for word in words[1:]})  # fmt: skip


def test_its_targets_are_there() -> None:
    assert {"test", "lint", "types", "facts", "pyz"} <= set(TARGETS)
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in TARGETS:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("words", [words for words in LINES if words[0] != "make"], ids=" ".join)
def test_its_programs_are_installed_by_the_dev_extra(words: list[str]) -> None:
    result = subprocess.run(
        [REPOSITORY / words[0], *words[1:3], "--help"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert not [w for w in words[1:] if w.endswith(".py") and not (REPOSITORY / w).exists()]


def test_its_files_are_there() -> None:
    named = [span for span in SPANS if re.fullmatch(r"[\w./]+(\.(py|md|json|yaml|yml)|/)", span)]
    assert len(named) >= 8
    made = (".venv", ".readers")  # by make
    for name in named:
        found = [REPOSITORY / name, REPOSITORY / "ckptmigrate" / name]
        assert name in made or any(path.exists() for path in found), name
