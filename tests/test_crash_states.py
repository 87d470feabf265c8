"""The checks of tests/faults can fail: each is given something wrong to find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent / "faults"


def crash(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, FAULTS / "crash.py", *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("scenario", "nth", "word"),
    [
        ("in place", "2", "a reader sees"),  # the bytes of a staged file
        ("in place", "9", "is no journal"),  # the bytes of the journal
        ("in place", "12", "after recover"),  # the names in the checkpoint, before it is swapped
        ("in place", "13", "a reader sees"),  # that metadata.json is gone
        ("out of place", "2", "a reader sees"),  # the bytes of a staged file
        ("out of place", "8", "after recover"),  # the names in .ckptmigrate
        ("out of place", "13", "after recover"),  # the name of the destination
    ],
)
def test_a_forgotten_sync_is_found(scenario: str, nth: str, word: str) -> None:
    result = crash("--scenario", scenario, "--without-sync", nth)
    assert result.returncode == 1, result.stdout
    assert word in result.stderr, result.stderr[:1000]
