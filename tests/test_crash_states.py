"""The checks of tests/faults can fail: each finds a sync that is left out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

CRASH = Path(__file__).parent / "faults" / "crash.py"


@pytest.mark.parametrize(
    ("scenario", "every", "syncs"),
    [
        (
            "in place",
            1,
            {
                8: "is not a journal",  # the bytes of the journal
                9: "after recover",  # the names of the journal and of the new files
                13: "a reader sees",  # that metadata.json is gone
            },
        ),
        pytest.param(
            "in place",
            1,
            {
                0: "after recover",
                1: "after recover",
                **dict.fromkeys((2, 3, 4), "a reader sees"),
                **dict.fromkeys((5, 6, 7), "after recover"),
                10: "cannot be rolled back",
                11: "after recover",
                12: "after recover",
                14: "a reader sees",
                15: "after recover",
            },
            marks=pytest.mark.full,
        ),
        ("out of place", 10, {2: "a reader sees"}),  # the bytes of a staged file
        (
            "out of place",
            1,
            {
                8: "after recover",  # the names in .ckptmigrate
                13: "after recover",  # the name of the destination
            },
        ),
    ],
)
def test_an_omitted_sync_is_found(scenario: str, every: int, syncs: dict[int, str]) -> None:
    omitted = [word for sync in syncs for word in ("--without-sync", str(sync))]
    result = subprocess.run(
        [sys.executable, CRASH, "--scenario", scenario, "--every", str(every), *omitted],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stdout
    violations = result.stderr.splitlines()
    assert len(violations) == len(syncs), result.stderr[:3000]
    for violation, (sync, text) in zip(violations, syncs.items(), strict=True):
        assert violation.startswith(f"{scenario} without sync {sync}: ")
        assert text in violation


def test_the_page_states_how_often_a_migration_syncs() -> None:
    page = (CRASH.parent.parent.parent / "docs" / "safety.md").read_text(encoding="utf-8")
    found = re.search(r"`fsync` (\d+) times per checkpoint, .* (\d+) times", " ".join(page.split()))
    assert found
    states = json.loads(CRASH.with_name("figures.json").read_text())["crash states"]
    assert found.groups() == tuple(str(states[n]["syncs"]) for n in ("in place", "out of place"))
    rows = re.findall(r"^\| (\d+)(?:(?:, | to )(\d+))? \|", page, re.MULTILINE)
    numbers = [n for first, last in rows for n in range(int(first), int(last or first) + 1)]
    assert numbers == list(range(states["in place"]["syncs"]))
