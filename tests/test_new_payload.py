"""Migrations that write new data files: out of place, in place, undone, cut short."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import flaky_store
import pytest
from conftest import CLI, SAMPLES, checkpoint_of, tree_hash
from flaky_store import FlakyFileSystem, OnlyAnswered, below

import ckptmigrate
from ckptmigrate import CkptMigrateError, DamagedError, DestinationError
from ckptmigrate.planning.change import NewPayload
from ckptmigrate.storage.urls import place
from ckptmigrate.verbs import changes
from ckptmigrate.verbs.migrate import Migration, MigrationRequest, prepare
from ckptmigrate.writing import swap

SAMPLE = "0.19.0-idle-tp2"
CHECKPOINT = "iter_0000005"
NAME = "__7_0.distcp"
PIECES = [b"first", b"", b"second" * 3]
CONTENT = b"".join(PIECES)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def planned(
    path: str | Path,
    *,
    output: str | Path | None = None,
    size: int = len(CONTENT),
    pieces: Callable[[], Iterator[bytes]] = lambda: iter(PIECES),
) -> Migration:
    """A migration whose checkpoint gets one new data file."""
    to = None if output is None else place(str(output))
    request = MigrationRequest("pre-rerun", in_place=output is None, output=to)
    found = prepare(place(str(path)), request)
    [plan] = found.plans
    change = replace(plan.change, payload={NAME: NewPayload(size, pieces)})
    return replace(found, plans=(replace(plan, change=change),))


def recorded(history: bytes) -> object:
    return json.loads(history)["steps"][-1]["files"][NAME]


def with_digests(root: Path) -> None:
    """Add an integrity.json, as releases from 0.17.1 on write it."""
    checkpoint = checkpoint_of(root)
    digests = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in checkpoint.iterdir()
    }
    content = {"algorithm": "sha256", "files": digests}
    (checkpoint / "integrity.json").write_text(json.dumps(content))


@pytest.mark.parametrize("integrity", [False, True])
def test_in_place_and_undone(copy: Callable[[str], Path], integrity: bool) -> None:
    root = copy(SAMPLE)
    if integrity:
        with_digests(root)
    before, checkpoint = tree_hash(root), checkpoint_of(root)
    mode = (checkpoint / ".metadata").stat().st_mode
    written: list[int] = []
    [plan] = planned(root).plans
    swap.rewrite(plan, progress=written.append)
    assert (checkpoint / NAME).read_bytes() == CONTENT
    assert (checkpoint / NAME).stat().st_mode == mode
    assert sum(written) == len(CONTENT)
    assert recorded((checkpoint / "ckptmigrate.json").read_bytes()) == {
        "before": None,
        "after": DIGEST,
    }
    if integrity:
        content = json.loads((checkpoint / "integrity.json").read_text())
        assert content["files"][NAME] == DIGEST
        found = hashlib.sha256((checkpoint / ".metadata").read_bytes()).hexdigest()
        assert content["files"][".metadata"] == found
    ckptmigrate.undo(root)
    assert tree_hash(root) == before


def test_out_of_place(copy: Callable[[str], Path], tmp_path: Path) -> None:
    root, out = copy(SAMPLE), tmp_path / "out"
    before = tree_hash(root)
    changes.carry_out(planned(root, output=out))
    assert (out / CHECKPOINT / NAME).read_bytes() == CONTENT
    assert recorded((out / CHECKPOINT / "ckptmigrate.json").read_bytes()) == {
        "before": None,
        "after": DIGEST,
    }
    assert tree_hash(root) == before


def failing(after: int) -> Iterator[bytes]:
    yield from PIECES[:after]
    raise DamagedError("was changed while it was read")


@pytest.mark.parametrize("kind", ["local", "store"])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("fault", ["source", "size"])
def test_what_cannot_be_read_or_is_not_as_planned_leaves_nothing(
    kind: str, in_place: bool, fault: str, copy: Callable[[str], Path], tmp_path: Path
) -> None:
    root = copy(SAMPLE)
    path = flaky_store.put(root, "run") if kind == "store" else str(root)
    out = "flaky://bucket/out" if kind == "store" else str(tmp_path / "out")
    before, objects = tree_hash(tmp_path), below("")
    wrong: dict[str, object] = {
        "source": {"pieces": lambda: failing(2)},
        "size": {"size": len(CONTENT) + 1},
    }
    found = planned(path, output=None if in_place else out, **wrong[fault])  # type: ignore[arg-type]
    with pytest.raises(DamagedError, match=r"was changed while|were planned"):
        changes.carry_out(found)
    assert (tree_hash(tmp_path), below("")) == (before, objects)


def test_a_data_file_of_that_name_is_not_replaced(copy: Callable[[str], Path]) -> None:
    root = copy(SAMPLE)
    found = planned(root)
    (checkpoint_of(root) / NAME).write_bytes(b"mine")
    before = tree_hash(root)
    with pytest.raises(DestinationError, match=f"{NAME} changed while"):
        changes.carry_out(found)
    assert tree_hash(root) == before


def test_a_checkpoint_that_changes_while_a_data_file_is_written(
    copy: Callable[[str], Path],
) -> None:
    root = copy(SAMPLE)
    marker = checkpoint_of(root) / "metadata.json"

    def pieces() -> Iterator[bytes]:
        yield from PIECES
        marker.write_bytes(marker.read_bytes() + b" ")

    with pytest.raises(DamagedError, match="changed during the migration"):
        changes.carry_out(planned(root, pieces=pieces))
    assert not (checkpoint_of(root) / NAME).exists()
    assert not (checkpoint_of(root) / ".ckptmigrate").exists()


_KILLED = """
import os, sys
sys.path.insert(0, sys.argv[3])
import test_new_payload as test
calls = []
def dying(real):
    def put(*names, **options):
        calls.append(names)
        if len(calls) == int(sys.argv[2]):
            os.kill(os.getpid(), 9)
        real(*names, **options)
    return put
os.rename, os.link = dying(os.rename), dying(os.link)
test.changes.carry_out(test.planned(sys.argv[1]))
"""


def test_killed_at_every_file(tmp_path: Path) -> None:
    """The data file is there with the rest of the change, or not at all."""
    for nth in itertools.count(1):
        root = tmp_path / "run"
        shutil.copytree(SAMPLES / SAMPLE, root)
        before = tree_hash(root)
        status = CLI.run([str(root), str(nth), str(Path(__file__).parent)], code=_KILLED)
        if status.returncode == 0:
            assert (checkpoint_of(root) / NAME).exists()
            break
        assert status.returncode == -9, status.stderr
        ckptmigrate.recover(root)
        assert tree_hash(root) == before, nth
        shutil.rmtree(root)
    assert nth > 15


def test_a_full_disk(copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = copy(SAMPLE)
    before = tree_hash(root)
    found = planned(root, size=1 << 62)
    with pytest.raises(
        DestinationError, match=r"the disk is full \(.* are needed, .*\); nothing was changed"
    ):
        changes.carry_out(found)
    assert tree_hash(root) == before


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("in_place", [False, True])
def test_each_request_to_a_store_that_is_only_answered(in_place: bool, step: int) -> None:
    out = None if in_place else "flaky://bucket/out"
    folder = "run" if in_place else "out"
    outcomes = set()
    for number in itertools.count(0, step):
        url = flaky_store.put(SAMPLES / SAMPLE, "run")
        before = below("")
        found = planned(url, output=out)
        fault, done = OnlyAnswered(number), False
        with FlakyFileSystem.disturbed(before=fault), contextlib.suppress(CkptMigrateError):
            changes.carry_out(found)
            done = True
        with contextlib.suppress(CkptMigrateError):
            ckptmigrate.recover(f"flaky://bucket/{folder}")
        if done:
            assert below(f"{folder}/{CHECKPOINT}")[NAME] == CONTENT, fault.request
        else:
            assert below("") == before, fault.request
        outcomes.add(done)
        if not fault.request:
            break
    assert outcomes == {True, False}


def test_undone_in_a_store() -> None:
    url = flaky_store.put(SAMPLES / SAMPLE, "run")
    before = below("run")
    changes.carry_out(planned(url))
    assert below("run")[f"{CHECKPOINT}/{NAME}"] == CONTENT
    ckptmigrate.undo(url)
    assert below("run") == before
