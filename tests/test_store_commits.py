"""A store that answers for what it did not do: no migration is reported as done that is not."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import flaky_store
import pytest
from conftest import SAMPLES
from flaky_store import FlakyFileSystem, OnlyAnswered, below

import ckptmigrate
from ckptmigrate import CkptMigrateError, migrate
from ckptmigrate.batch.tasks import Task, perform
from ckptmigrate.errors import DamagedError, StoreError
from ckptmigrate.verbs.migrate import MigrationRequest
from ckptmigrate.verbs.result import Status
from ckptmigrate.writing import journal
from ckptmigrate.writing.local_medium import LocalMedium

SAMPLE = "0.18.2-idle-w1"
TARGET = "pre-rerun"
CHECKPOINT = "iter_0000005"


def whole(url: str) -> bool:
    """Whether the checkpoint there reads as the target."""
    return TARGET in ckptmigrate.inspect(url).layouts


def rewrite(url: str) -> None:
    migrate(url, to=TARGET, in_place=True)


def answered(operation: str, *, stage: bool) -> Callable[[str, str], bool]:
    """Requests of a kind are answered, and not carried out: of the stage, or of what it becomes."""
    return lambda found, key: found == operation and ("/stage/" in key) == stage


EACH = pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.full)])


def one_by_one(work: Callable[[], object], step: int) -> Iterator[tuple[bool, str]]:
    """Do some work on a fresh copy again and again, with one more writing request only answered.

    Yields whether it was reported as done, and which request that was.
    """
    for number in itertools.count(0, step):
        flaky_store.put(SAMPLES / SAMPLE, "run")
        fault = OnlyAnswered(number)
        done = False
        with FlakyFileSystem.disturbed(before=fault), contextlib.suppress(CkptMigrateError):
            work()
            done = True
        if not fault.request:
            assert done
            return
        yield done, fault.request


@pytest.mark.parametrize("stage", [True, False])
@pytest.mark.parametrize("operation", ["COPY", "PUT", "DELETE"])
def test_a_kind_of_request_that_is_only_answered(operation: str, stage: bool) -> None:
    """Done and right, or an error after which the checkpoint is as it was, or not one."""
    url = flaky_store.put(SAMPLES / SAMPLE, "run")
    before = below("run")
    done = False
    fault = answered(operation, stage=stage)
    with FlakyFileSystem.disturbed(before=fault), contextlib.suppress(CkptMigrateError):
        rewrite(url)
        done = True
    assert done == (operation == "DELETE")  # where nothing has to go, all else is as planned
    with contextlib.suppress(CkptMigrateError):
        ckptmigrate.recover(url)
    assert whole(url) if done else below("run") == before


@EACH
def test_each_request_that_is_only_answered(step: int) -> None:
    url = flaky_store.put(SAMPLES / SAMPLE, "run")
    before = below("run")
    outcomes = set()
    for done, request in one_by_one(lambda: rewrite(url), step):
        with contextlib.suppress(CkptMigrateError):
            ckptmigrate.recover(url)
        assert whole(url) if done else below("run") == before, request
        outcomes.add(done)
    assert outcomes == {True, False}


def test_another_writer_between_the_commit_and_the_look_at_it() -> None:
    url = flaky_store.put(SAMPLES / SAMPLE, "run")
    before = below("run")

    marker = f"bucket/run/{CHECKPOINT}/metadata.json"
    turn = itertools.count()

    def other(operation: str, key: str) -> None:
        if (operation, key) == ("COPY", marker) and next(turn) == 0:
            FlakyFileSystem.objects[key] += b" "

    with FlakyFileSystem.disturbed(after=other), pytest.raises(CkptMigrateError) as caught:
        rewrite(url)
    assert "differs from what was written when read back" in str(caught.value)
    assert journal.Recovery.ROLLED_BACK.value in str(caught.value)
    assert below("run") == before


def test_a_batch_and_its_ledger_say_failed() -> None:
    url = flaky_store.put(SAMPLES / SAMPLE, "run")
    task = Task(f"{url}/{CHECKPOINT}", MigrationRequest(TARGET, "downgrade", in_place=True))
    with FlakyFileSystem.disturbed(before=answered("COPY", stage=False)):
        assert perform(task).status is Status.FAILED
    assert perform(task).status is Status.DONE


def test_an_undo_that_is_only_answered_is_not_reported_as_done() -> None:
    url = flaky_store.put(SAMPLES / SAMPLE, "run")
    rewrite(url)
    before = below("run")
    fault = answered("COPY", stage=False)
    with FlakyFileSystem.disturbed(before=fault), pytest.raises(CkptMigrateError):
        ckptmigrate.undo(url)
    ckptmigrate.recover(url)
    assert below("run") == before
    ckptmigrate.undo(url)


# -- out of place


@pytest.mark.parametrize("kind", ["store", "local"])
def test_payload_that_does_not_arrive(kind: str, tmp_path: Path) -> None:
    url = flaky_store.put(SAMPLES / SAMPLE, "run")
    source = url if kind == "store" else SAMPLES / SAMPLE

    def lost(operation: str, key: str) -> bool:
        return operation in ("COPY", "PUT") and key.endswith(".distcp")

    before = below("")
    with FlakyFileSystem.disturbed(before=lost), pytest.raises(StoreError) as caught:
        migrate(source, to=TARGET, output="flaky://bucket/out")
    assert "does not exist after" in str(caught.value)
    assert "the written objects were removed" in str(caught.value)
    assert below("") == before
    migrate(source, to=TARGET, output="flaky://bucket/out")


def test_payload_that_is_cut_short_on_its_way_here(tmp_path: Path) -> None:
    url = flaky_store.put(SAMPLES / SAMPLE, "run")

    def cut(operation: str, key: str) -> None:
        if operation == "DOWNLOAD" and key.endswith(".distcp"):
            FlakyFileSystem.objects[key] = b""

    with FlakyFileSystem.disturbed(before=cut), pytest.raises(StoreError, match="has 0 bytes"):
        migrate(url, to=TARGET, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@EACH
def test_each_request_out_of_place_that_is_only_answered(step: int) -> None:
    url, out = flaky_store.put(SAMPLES / SAMPLE, "run"), "flaky://bucket/out"
    source = below("run")
    migrate(url, to=TARGET, output=out)
    wanted = below("out").keys()
    outcomes = set()
    for done, request in one_by_one(lambda: migrate(url, to=TARGET, output=out), step):
        if not done:
            with contextlib.suppress(CkptMigrateError):
                ckptmigrate.recover(out)
        assert below("out").keys() == (wanted if done else set()), request
        assert below("run") == source
        outcomes.add(done)
    assert outcomes == {True, False}


def test_a_tracker_file_that_is_only_answered() -> None:
    url = flaky_store.put(SAMPLES / SAMPLE, "run")
    tracker = "bucket/run/latest_checkpointed_iteration.txt"
    FlakyFileSystem.objects[tracker] = b"99"

    def fault(operation: str, key: str) -> bool:
        return (operation, key) == ("COPY", tracker)

    with FlakyFileSystem.disturbed(before=fault), pytest.raises(DamagedError, match="read back"):
        ckptmigrate.repair(url, in_place=True)
    ckptmigrate.repair(url, in_place=True)
    assert FlakyFileSystem.objects[tracker] == b"5"


# -- the same on a local file system


def test_a_local_file_that_is_not_as_written(
    copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copy(SAMPLE)
    before = {p.name: p.read_bytes() for p in (root / CHECKPOINT).iterdir() if p.is_file()}
    sync, turn = LocalMedium.sync, itertools.count()

    def other(medium: LocalMedium, names: Collection[str]) -> None:
        sync(medium, names)
        file = root / CHECKPOINT / "metadata.json"
        if [*names] == ["metadata.json"] and file.exists() and next(turn) == 0:
            file.write_bytes(file.read_bytes() + b" ")

    monkeypatch.setattr(LocalMedium, "sync", other)
    with pytest.raises(CkptMigrateError, match="differs from what was written when read back"):
        migrate(root, to=TARGET, in_place=True)
    monkeypatch.undo()
    ckptmigrate.recover(root)
    after = {p.name: p.read_bytes() for p in (root / CHECKPOINT).iterdir() if p.is_file()}
    assert after == before
