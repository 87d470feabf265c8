"""Every refusal ends with a command, and the command works: each is run here, as printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch_side
from conftest import Run, checkpoint_of, refused, tree_hash

TRACKER = "latest_checkpointed_iteration.txt"
Change = Callable[[Path], object]


def nothing(root: Path) -> None:
    pass


def tracker(text: str) -> Change:
    return lambda root: (root / TRACKER).write_text(text)


def written(name: str, text: str) -> Change:
    return lambda root: (checkpoint_of(root) / name).write_text(text)


def non_persistent(root: Path) -> None:
    shutil.copytree(checkpoint_of(root), root / "non_persistent/iter_0000007")


def nested(root: Path) -> None:
    shutil.copytree(checkpoint_of(root), root / "x")
    (root / "x").rename(checkpoint_of(root) / "modelopt_state")


def two_worlds(root: Path) -> None:
    torch_side.edit_common(root, lambda state: setattr(state["args"], "world_size", 7))


@dataclass(frozen=True)
class Refusal:
    """A command line that is refused, and what the command that it prints is good for.

    Attributes:
        sample: becomes `run` in an empty folder.
        change: what is done to it first.
        arguments: the command line; it runs in that folder.
        told: how the printed command begins.
        status: its exit status.
        then: whether the command line that was refused works after it.
    """

    sample: str
    change: Change
    arguments: str
    told: str
    status: int = 0
    then: bool = False


IDLE, FAULT, CORRUPT = "0.18.2-idle-tp2", "0.17.1-fault-w1", "0.17.1-corrupt-tp2"
SHM = f"/dev/shm/ckptmigrate-test-{os.getpid()}"
CASES = {
    "no such path": Refusal(IDLE, nothing, "inspect runn", "find "),
    "no checkpoint": Refusal(IDLE, nothing, "verify .", "find "),
    "no match": Refusal(IDLE, nothing, "inspect 'runs/*'", "find "),
    "no such iteration": Refusal(IDLE, nothing, "inspect run --iteration 9", "ckptmigrate inspect"),
    "no tracker": Refusal(
        IDLE, lambda root: (root / TRACKER).unlink(), "inspect run", "ckptmigrate inspect run --it"
    ),
    "a tracker to nowhere": Refusal(
        IDLE, tracker("9"), "upgrade run -o out", "ckptmigrate upgrade run -o out --iteration 5"
    ),
    "a tracker to nowhere, --all": Refusal(
        IDLE, tracker("9"), "upgrade run --all", "ckptmigrate verify", status=1
    ),
    "an unreadable tracker": Refusal(IDLE, tracker("five"), "inspect run", "ckptmigrate inspect"),
    "--iteration of a checkpoint": Refusal(
        IDLE, nothing, "inspect run/iter_0000005 --iteration 5", "ckptmigrate inspect run/iter"
    ),
    "a newer non-persistent one": Refusal(IDLE, non_persistent, "inspect run", "ckptmigrate ins"),
    "a nested checkpoint": Refusal(
        IDLE, nested, "inspect run/iter_0000005/modelopt_state", "ckptmigrate inspect"
    ),
    "a destination that exists": Refusal(
        IDLE, nothing, "upgrade run --output=run", "ckptmigrate upgrade run --output"
    ),
    "a destination in the source": Refusal(
        IDLE, nothing, "upgrade run -o run/out", "ckptmigrate upgrade run --output"
    ),
    "a destination without a parent": Refusal(
        IDLE, nothing, "upgrade run -o a/b/out", "mkdir -p", then=True
    ),
    "a link across file systems": Refusal(
        IDLE, nothing, f"upgrade run -o {SHM} --link hardlink", "ckptmigrate upgrade run -o"
    ),
    "the other direction": Refusal(
        IDLE, nothing, "upgrade run --to pre-rerun", "ckptmigrate downgrade"
    ),
    "a layout that is misspelt": Refusal(
        IDLE, nothing, "downgrade run --to splitrerun -o out", "ckptmigrate downgrade run -o out"
    ),
    "a layout that nobody knows": Refusal(
        IDLE, nothing, "upgrade run --to xyzzy", "ckptmigrate layouts"
    ),
    "a release that is none": Refusal(
        IDLE, nothing, "check run --reader 0.x", "ckptmigrate explain"
    ),
    "a fault that would be lost": Refusal(
        FAULT, nothing, "downgrade run --to 0.13", "ckptmigrate downgrade"
    ),
    "an optimizer that would be lost": Refusal(
        "0.17.1-idle-dopt", nothing, "downgrade run --to 0.13", "ckptmigrate downgrade"
    ),
    "another digest": Refusal(
        IDLE,
        written("integrity.json", json.dumps({"files": {"common.pt": "0" * 64}})),
        "upgrade run -o out",
        "ckptmigrate upgrade run -o out --allow-loss integrity",
    ),
    "no hashes": Refusal(IDLE, written("integrity.json", "[]"), "upgrade run", "rm ", then=True),
    "no migration history": Refusal(
        IDLE, written("ckptmigrate.json", "{}"), "upgrade run -o out", "rm -rf ", then=True
    ),
    "a pipe in the checkpoint": Refusal(
        IDLE,
        lambda root: os.mkfifo(checkpoint_of(root) / "pipe"),
        "upgrade run",
        "rm ",
        then=True,
    ),
    "missing shards": Refusal(
        CORRUPT, nothing, "downgrade run --to 0.16", "ckptmigrate repair"
    ),
    "a fault to rebuild": Refusal(
        FAULT, nothing, "repair run --rebuild-sentinel", "ckptmigrate repair"
    ),
    "nothing to undo": Refusal(IDLE, nothing, "undo run", "ckptmigrate inspect"),
    "a stated size that is wrong": Refusal(
        IDLE, nothing, "upgrade run --world-size 7", "ckptmigrate upgrade run"
    ),
    "args that are wrong": Refusal(
        "0.17.1-idle-w1", two_worlds, "upgrade run -o out", "ckptmigrate upgrade run -o out --world"
    ),
    "a damaged file": Refusal(
        IDLE, written(".metadata", "x"), "check run", "ckptmigrate verify", status=1
    ),
    "a damaged file, to be repaired": Refusal(
        IDLE, written("common.pt", "x"), "repair run", "ckptmigrate verify", status=1
    ),
    "a scenario that is none": Refusal(
        IDLE, nothing, "matrix --scenario x", "ckptmigrate matrix"
    ),
    "a report that is there": Refusal(
        IDLE,
        lambda root: (root.parent / "r.md").write_text("precious"),
        "upgrade run -o out --report r.md",
        "ckptmigrate upgrade run -o out --report r.2.md",
    ),
    "a schema of no verb": Refusal(IDLE, nothing, "schema inspekt", "ckptmigrate schema inspect"),
    "a word that is misspelt": Refusal(
        IDLE, nothing, "explain split-rerunn", "ckptmigrate explain split-rerun"
    ),
    "a word that nobody knows": Refusal(IDLE, nothing, "explain xyzzy", "ckptmigrate explain"),
}  # fmt: skip


@pytest.fixture
def clean_shm() -> Iterator[None]:
    yield
    shutil.rmtree(SHM, ignore_errors=True)


@pytest.mark.parametrize("name", CASES)
def test_the_command_that_a_refusal_prints_works(
    name: str, run: Run, copy: Callable[[str], Path], tmp_path: Path, clean_shm: None
) -> None:
    case = CASES[name]
    root = copy(case.sample).rename(tmp_path / "run")
    case.change(root)
    before = tree_hash(tmp_path)
    result = run(*shlex.split(case.arguments))
    refused(result)
    assert tree_hash(tmp_path) == before
    command = re.findall(r"`([^`]*)`", result.stderr)[-1]
    assert result.stderr.rstrip("\n").endswith(f"`{command}`"), result.stderr
    assert command.startswith(case.told)
    words = shlex.split(command)
    if words[0] == "ckptmigrate":
        after = run(*words[1:])
    else:
        after = subprocess.run(
            words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
    assert after.returncode == case.status, (command, after.stdout, after.stderr)
    if words[0] == "find":
        assert f"{root}/{TRACKER}" in after.stdout.splitlines()
    if words[:2] == ["ckptmigrate", "verify"]:
        assert re.search(r"^  error [\w-]+: ", after.stdout, re.MULTILINE)
    if case.then:
        again = run(*shlex.split(case.arguments))
        assert again.returncode == 0, again.stderr


def test_json_has_the_command_too(run: Run, copy: Callable[[str], Path]) -> None:
    root = copy(IDLE)
    result = run("inspect", root, "--iteration", 9, "--json")
    error = json.loads(result.stdout)["error"]
    assert error["fix"].endswith(f"`ckptmigrate inspect {root} --json --iteration 5`")
    assert set(error) == {"kind", "message", "reason", "path", "fix"}
