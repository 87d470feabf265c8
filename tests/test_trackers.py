"""The tracker file of Megatron-Bridge, beside that of Megatron-LM: both name one iteration.

cases/bridge-died has both name iteration 10, whose save did not finish.
"""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
from pathlib import Path

import flaky_store
import pytest
import torch
from conftest import Run, refused, tree_hash
from flaky_store import FlakyFileSystem
from object_stores import url
from s3_server import Bucket

import ckptmigrate
from ckptmigrate.checkpoint import trackers
from ckptmigrate.errors import DamagedError

pytest_plugins = ["store_fixtures"]

CASE = Path(__file__).parent / "cases" / "bridge-died" / "run"
TEXT = "latest_checkpointed_iteration.txt"
STATE = "latest_train_state.pt"


@pytest.fixture
def died(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CASE, tmp_path / "run"))


@pytest.fixture
def good(died: Path) -> Path:
    """The same before iteration 10 was begun."""
    shutil.rmtree(died / "iter_0000010")
    shutil.copy(died / "iter_0000005" / "train_state.pt", died / STATE)
    (died / TEXT).write_text("5")
    return died


def named(root: Path) -> tuple[str, int | None]:
    """What each of the two names, the second as real torch reads it."""
    text, state = root / TEXT, root / STATE
    step = int(torch.load(state, weights_only=True)["step"]) if state.exists() else None
    return text.read_text() if text.exists() else "", step


def codes(root: Path) -> list[str]:
    return [finding.code for finding in ckptmigrate.verify(root).findings]


# -- repair


def test_a_pair_is_pointed_to_the_good_iteration_and_back(died: Path, run: Run) -> None:
    before = tree_hash(died)
    made = ckptmigrate.repair(died, in_place=True)
    assert named(died) == ("5", 5)
    assert (died / STATE).read_bytes() == (died / "iter_0000005/train_state.pt").read_bytes()
    assert codes(died) == []
    assert made.tracker is not None
    assert list(made.tracker.files) == [STATE, TEXT]
    for command in made.undo():
        subprocess.run(shlex.split(command), check=True)
    shutil.rmtree(died / ".ckptmigrate")
    (died / "ckptmigrate.json").unlink()
    assert tree_hash(died) == before


def test_a_pair_in_a_new_root(died: Path, tmp_path: Path) -> None:
    before = tree_hash(died)
    ckptmigrate.repair(died, output=tmp_path / "out")
    assert named(tmp_path / "out") == ("5", 5)
    assert codes(tmp_path / "out") == []
    assert tree_hash(died) == before


def test_only_the_one_of_megatron_lm(died: Path) -> None:
    (died / STATE).unlink()
    ckptmigrate.repair(died, in_place=True)
    assert named(died) == ("5", None)


def test_only_the_one_of_megatron_bridge(died: Path) -> None:
    (died / TEXT).unlink()
    assert "tracker-half-written" in codes(died)
    ckptmigrate.repair(died, in_place=True)
    assert named(died) == ("5", 5)


def test_a_good_iteration_that_bridge_names_is_preferred(died: Path) -> None:
    """Not the newest one, which Megatron-Bridge would not have resumed from."""
    for name in (".metadata", "metadata.json", "common.pt"):
        shutil.copy(died / "iter_0000005" / name, died / "iter_0000010" / name)
    (died / TEXT).unlink()
    shutil.copy(died / "iter_0000005" / "train_state.pt", died / STATE)
    ckptmigrate.repair(died, in_place=True)
    assert named(died) == ("5", 5)


@pytest.mark.parametrize("content", [None, b"", b"no torch file"])
def test_a_pair_that_disagrees(content: bytes | None, died: Path, run: Run) -> None:
    (died / TEXT).write_text("5")
    if content is not None:
        (died / STATE).write_bytes(content)
    said = run("verify", died)
    assert said.returncode == 1
    assert "tracker-pair" in said.stdout
    command = f"ckptmigrate repair {died} --in-place"
    assert f"run `{command}`" in said.stdout
    assert run(*shlex.split(command)[1:]).returncode == 0
    assert named(died) == ("5", 5)
    assert codes(died) == []


def test_a_pair_where_the_iteration_has_no_train_state(died: Path, run: Run) -> None:
    (died / "iter_0000005" / "train_state.pt").unlink()
    said = run("repair", died, "--in-place")
    assert said.returncode == 0, said.stderr
    assert named(died) == ("5", 10)
    removal = f"rm {died / STATE}"
    flat = " ".join(said.stdout.split())
    assert f"{STATE} is not changed: iter_0000005 has no train_state.pt" in flat
    assert removal in flat
    # Then nothing is left to do but what it says.
    refused(run("repair", died, "--in-place"), "cannot be repaired", removal)
    assert codes(died) == ["tracker-pair"]
    subprocess.run(shlex.split(removal), check=True)
    assert codes(died) == []


@pytest.mark.costly("starts an S3 server")
def test_a_pair_in_a_store(died: Path, bucket: Bucket) -> None:
    bucket.put(died, "run")
    ckptmigrate.repair(url("run"), output=url("out"))
    ckptmigrate.repair(url("run"), in_place=True)
    state = (died / "iter_0000005/train_state.pt").read_bytes()
    for name in ("run", "out"):
        tree = bucket.tree(name)
        assert (tree[TEXT], tree[STATE]) == (b"5", state)


def test_of_many_newer_iterations_only_the_newest_is_looked_at(good: Path) -> None:
    run = flaky_store.put(good, "run")
    objects = FlakyFileSystem.objects
    files = {key: content for key, content in objects.items() if "/iter_0000005/" in key}
    for number in range(6, 300):
        for key, content in files.items():
            objects[key.replace("0000005", f"{number:07}")] = content
    del objects["bucket/run/iter_0000299/.metadata"]
    FlakyFileSystem.requests.clear()
    [only] = ckptmigrate.verify(run).findings
    assert (only.code, only.items) == ("tracker-behind", ())
    assert only.what == f"{TEXT} names iter_0000005, and iter_0000298 is newer"
    assert len(FlakyFileSystem.requests) < 60


@pytest.mark.parametrize(
    ("where", "found"), [(STATE, ["tracker-pair"]), ("iter_0000005/train_state.pt", [])]
)
def test_a_huge_train_state_is_not_read(where: str, found: list[str], good: Path, run: Run) -> None:
    os.truncate(good / where, 3 * 1024**3)
    before = (good / TEXT).read_text()
    for words in (("inspect",), ("verify",), ("repair", "--in-place"), ("check",)):
        said = run(words[0], good, *words[1:])
        assert "internal error" not in said.stderr
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert codes(good) == found
    ckptmigrate.migrate(good, to="none-emitting", output=good.parent / "out")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 512 * 1024  # kB
    assert (good / TEXT).read_text() == before


def test_a_repair_refuses_a_huge_train_state(good: Path, run: Run) -> None:
    """It could not keep the file to undo the repair."""
    (good / TEXT).unlink()
    os.truncate(good / STATE, 3 * 1024**3)
    refused(run("repair", good, "--in-place"), f"{STATE}: is larger than 1048576 bytes")
    assert not (good / TEXT).exists()


# -- new roots


def test_a_migrated_root_has_both(good: Path, tmp_path: Path, run: Run) -> None:
    ckptmigrate.migrate(good, to="none-emitting", output=tmp_path / "out")
    assert named(tmp_path / "out") == ("5", 5)
    said = run("upgrade", "run", "--to", "none-emitting", "--all", "-o", "all")
    assert said.returncode == 0, said.stderr
    assert named(tmp_path / "all") == ("5", 5)
    # From the iteration alone, too.
    ckptmigrate.migrate(good / "iter_0000005", to="none-emitting", output=tmp_path / "one")
    assert named(tmp_path / "one") == ("5", 5)


def test_a_root_without_a_train_state_in_its_iteration(good: Path, tmp_path: Path) -> None:
    """The one of the root is used, if it is of that iteration."""
    (good / "iter_0000005" / "train_state.pt").unlink()
    ckptmigrate.migrate(good, to="none-emitting", output=tmp_path / "out")
    assert named(tmp_path / "out") == ("5", 5)
    (good / STATE).unlink()
    ckptmigrate.migrate(good, to="none-emitting", output=tmp_path / "second")
    assert named(tmp_path / "second") == ("5", None)


def test_in_place_leaves_both(good: Path) -> None:
    ckptmigrate.migrate(good, to="none-emitting", in_place=True)
    assert named(good) == ("5", 5)


# -- the step, against real torch


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("number", [0, 7, 100_000, 2**31 - 1])
def test_the_step_is_what_torch_saved(dtype: torch.dtype, number: int, tmp_path: Path) -> None:
    torch.save({"step": torch.tensor(number, dtype=dtype)}, tmp_path / "x.pt")
    assert trackers.step((tmp_path / "x.pt").read_bytes()) == number


@pytest.mark.parametrize("value", [torch.tensor(1.5), torch.tensor([1, 2]), 5, None])
def test_what_is_no_step_is_refused(value: object, tmp_path: Path) -> None:
    torch.save({"step": value}, tmp_path / "x.pt")
    with pytest.raises(DamagedError):
        trackers.step((tmp_path / "x.pt").read_bytes())
