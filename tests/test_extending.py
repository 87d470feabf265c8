"""docs/extending.md, done in a copy: its layout works with every other one.

The page's own blocks are what is done; `test_examples.py` holds what its commands print.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import INDEX, LAYOUTS, SAMPLES, checkpoint_of
from examples import Page, copied, refreshed, run

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


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The copy of the package after the page was followed."""
    folder = tmp_path_factory.mktemp("copy")
    refreshed(Page("docs/extending.md").text, folder, copy=True)
    return folder


def shown(command: str, folder: Path, copy: Path) -> str:
    """What a command of the copy prints."""
    return run(command, folder, copied(copy))


def test_the_layout_is_the_newest(copy: Path, tmp_path: Path) -> None:
    rows = json.loads(shown("ckptmigrate layouts --json", tmp_path, copy))
    assert [row["layout"] for row in rows] == [*LAYOUTS, LAYOUT]
    assert [row["releases"] for row in rows[-2:]] == [">=0.19,<0.21", ">=0.21"]


@pytest.mark.parametrize("sample", CHOSEN)
def test_every_sample_goes_there_and_back(sample: str, copy: Path, tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / sample, tmp_path / "run")
    source = INDEX[sample]["layout"]
    up = f"ckptmigrate upgrade run --to {LAYOUT} --allow-loss fault-context -o up"
    assert "\nwrote " in shown(up, tmp_path, copy)
    found = json.loads(shown("ckptmigrate inspect up --json", tmp_path, copy))
    assert found["layout"]["candidates"] == [LAYOUT]
    # Signs of the old release are still there, and nothing else is odd.
    assert set(found["anomalies"]) <= {"the signs of the writing release contradict each other"}
    assert ": clean" in shown("ckptmigrate verify up", tmp_path, copy)
    # A job of 0.21 resumes from it, but for an optimizer, which no layout changes.
    verdict = shown("ckptmigrate check up --reader 0.21 --no-load-optim", tmp_path, copy)
    assert verdict.startswith("yes: "), verdict
    shown(f"ckptmigrate downgrade up --to {source} -o back", tmp_path, copy)
    assert shown("diff -r run back", tmp_path, copy) == ""


@pytest.mark.parametrize("sample", ["0.18.2-fault-dp2", "0.19.0-idle-tp2", "0.18.2-idle-tp2"])
def test_without_what_is_kept_for_the_way_back(sample: str, copy: Path, tmp_path: Path) -> None:
    """Then the new `read` and the old `write` meet, and all that differs are places."""
    shutil.copytree(SAMPLES / sample, tmp_path / "run")
    shown(f"ckptmigrate upgrade run --to {LAYOUT} -o up", tmp_path, copy)
    checkpoint = checkpoint_of(tmp_path / "up")
    (checkpoint / "ckptmigrate.json").unlink()
    shutil.rmtree(checkpoint / ".ckptmigrate")
    source = INDEX[sample]["layout"]
    shown(f"ckptmigrate downgrade up --to {source} -o back", tmp_path, copy)
    lines = shown("ckptmigrate diff run back", tmp_path, copy).splitlines()
    assert not [line for line in lines[1:] if not re.match("~ payload ", line)], lines


def test_a_missing_shard_is_told(copy: Path, tmp_path: Path) -> None:
    """`detect`, `read` and `take` of a checkpoint of another topology."""
    shutil.copytree(SAMPLES / "0.18.2-fault-dp2", tmp_path / "run")
    shown(f"ckptmigrate upgrade run --to {LAYOUT} -o up", tmp_path, copy)
    verdict = shown("ckptmigrate check run --reader 0.21", tmp_path, copy)
    assert "error  KeyError: 'state'" in verdict
    assert "--to 0.21.0" in verdict
