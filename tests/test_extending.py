"""docs/extending.md, done in a copy: its layout works with every other one.

The page's own blocks are what is done; `test_examples.py` holds what its commands print.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CLI, INDEX, LAYOUTS, MAIN, SAMPLES, checkpoint_of, tree_hash
from examples import Page, refreshed
from forked import ForkServer

LAYOUT = "grid-state"
# Each layout, idle, disabled and at a fault, and every topology.
CHOSEN = (
    "0.9.0-idle-w1",
    "0.10.0-idle-tp2",
    "0.10.0-fault-w1",
    "0.12.3-disabled-tp2",
    "0.13.1-fault-cp2",
    "0.16.1-idle-tp2",
    "0.17.1-fault-tp2pp2",
    "0.17.1-idle-dopt",
    "0.18.2-disabled-tp2",
    "0.18.2-idle-tp2",
    "0.19.0-idle-tp2",
    "0.19.0-fault-tp2pp2",
)


@pytest.mark.costly("follows a page whose commands are processes")
def test_the_layout_of_the_page_works(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    refreshed(Page("docs/extending.md").text, copy, copy=True)
    modules = [*CLI.preload, f"ckptmigrate.versions.{LAYOUT.replace('-', '_')}"]
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    program = ForkServer(f"extended{worker}", modules, {"PYTHONPATH": str(copy), "COLUMNS": "100"})

    def shown(*arguments: str) -> str:
        """What a verb of the copy prints."""
        return program.run(arguments, main=MAIN, cwd=tmp_path).stdout

    rows = json.loads(shown("layouts", "--json"))
    assert [row["layout"] for row in rows] == [*LAYOUTS, LAYOUT]
    assert [row["releases"] for row in rows[-2:]] == [">=0.19,<0.21", ">=0.21"]
    for sample in CHOSEN:
        check_there_and_back(sample, shown, tmp_path / sample)
    for sample in ("0.18.2-fault-dp2", "0.19.0-idle-tp2", "0.18.2-idle-tp2"):
        check_without_the_sidecar(sample, shown, tmp_path / f"{sample}-fresh")
    # `detect`, `read` and `take` of a checkpoint of another topology.
    verdict = shown("check", str(SAMPLES / "0.18.2-fault-dp2"), "--reader", "0.21")
    assert "error: KeyError: 'state'" in verdict
    assert "--to 0.21.0" in verdict


def check_there_and_back(sample: str, shown: Callable[..., str], folder: Path) -> None:
    """Migrate a sample to the new layout and back."""
    up, back = f"{folder}.up", f"{folder}.back"
    upgrade = ("upgrade", str(SAMPLES / sample), "--to", LAYOUT, "-o", up)
    assert shown(*upgrade, "--allow-loss", "fault-context")
    found = json.loads(shown("inspect", up, "--json"))
    assert found["layout"]["candidates"] == [LAYOUT]
    # Signs of the old release are still there, and nothing else is odd.
    assert set(found["anomalies"]) <= {
        "the checkpoint has traces of several releases, and no migration history"
    }
    assert re.search(": no (problems found|errors)", shown("verify", up))
    # A job of 0.21 resumes from it, but for an optimizer, which no layout changes.
    verdict = shown("check", up, "--reader", "0.21", "--no-load-optim")
    assert verdict.startswith("Megatron-Core 0.21.0 can resume from "), verdict
    shown("downgrade", up, "--to", INDEX[sample]["layout"], "-o", back)
    assert tree_hash(Path(back)) == tree_hash(SAMPLES / sample)


def check_without_the_sidecar(sample: str, shown: Callable[..., str], folder: Path) -> None:
    """Then the new `read` and the old `write` meet, and all that differs are places."""
    up, back = f"{folder}.up", f"{folder}.back"
    shown("upgrade", str(SAMPLES / sample), "--to", LAYOUT, "-o", up)
    checkpoint = checkpoint_of(Path(up))
    (checkpoint / "ckptmigrate.json").unlink()
    shutil.rmtree(checkpoint / ".ckptmigrate")
    shown("downgrade", up, "--to", INDEX[sample]["layout"], "-o", back)
    lines = shown("diff", str(SAMPLES / sample), back).splitlines()
    assert lines
    assert not [line for line in lines[1:] if not re.match("~ payload ", line)], lines
