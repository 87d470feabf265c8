"""The checks of tests/faults can fail: each finds a sync that is left out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CRASH = Path(__file__).parent / "faults" / "crash.py"


@pytest.mark.parametrize(
    ("scenario", "every", "syncs"),
    [
        ("in place", 10, {4: "a reader sees"}),  # the bytes of a staged file
        (
            "in place",
            1,
            {
                21: "is not a journal",  # the bytes of the journal
                22: "after recover",  # the name of the journal
                26: "a reader sees",  # that metadata.json is gone
            },
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
