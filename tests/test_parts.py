"""New data files are parts: the same command continues after the finished ones.

The data of these tests is made here; tests/test_optimizer_migration.py converts optimizers.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import resource
import shutil
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flaky_store
import pytest
from conftest import SAMPLES, Run, checkpoint_of, tree_hash
from flaky_store import FlakyFileSystem, OnlyAnswered, below
from test_optimizer_migration import OLD, check_elements

import ckptmigrate
from ckptmigrate import CkptMigrateError, DamagedError, DestinationError
from ckptmigrate.batch import phases
from ckptmigrate.batch.phases import Scope
from ckptmigrate.batch.tasks import Task, perform
from ckptmigrate.errors import StoreError
from ckptmigrate.optimizer import new_files, performing
from ckptmigrate.optimizer.new_files import NewBlob, NewRange, NewState
from ckptmigrate.optimizer.target import SMALLEST_PART
from ckptmigrate.optimizer.tensors import BLOCK, Span, View
from ckptmigrate.pickles.torch_zip import Stored
from ckptmigrate.planning.change import NewPayload
from ckptmigrate.storage.directories import LocalDirectory
from ckptmigrate.storage.urls import place
from ckptmigrate.verbs import changes
from ckptmigrate.verbs.migrate import Migration, MigrationRequest, prepare
from ckptmigrate.verbs.result import Status
from ckptmigrate.writing.links import Link
from ckptmigrate.writing.part_files import LocalPartFiles, StorePartFiles
from ckptmigrate.writing.parts import Moving

SAMPLE, CHECKPOINT = "0.19.0-idle-tp2", "iter_0000005"
OPTIMIZERS = Path(__file__).parent / "optimizer"
CONTENTS = {f"__7_{n}.distcp": bytes([n]) * (1000 + n) for n in range(4)}
ONE = Moving(jobs=1)


def planned(
    path: str | Path, output: str | Path | None, moved: Callable[[], object] | None = None
) -> Migration:
    """A migration whose checkpoint gets several new data files, each in pieces."""

    def pieces(content: bytes) -> Iterator[bytes]:
        for start in range(0, len(content), 300):
            if moved is not None:
                moved()
            yield content[start : start + 300]

    to = None if output is None else place(str(output))
    request = MigrationRequest("pre-rerun", in_place=output is None, output=to)
    found = prepare(place(str(path)), request)
    [plan] = found.plans
    payload = {
        name: NewPayload(len(content), partial(pieces, content))
        for name, content in CONTENTS.items()
    }
    return replace(found, plans=(replace(plan, change=replace(plan.change, payload=payload)),))


@pytest.fixture(params=["out of place", "in place"])
def migration(request: pytest.FixtureRequest, tmp_path: Path) -> Migration:
    shutil.copytree(SAMPLES / SAMPLE, tmp_path / "run")
    return planned(tmp_path / "run", tmp_path / "out" if request.param == "out of place" else None)


def result(migration: Migration) -> Path:
    assert isinstance(migration.results[0], Path)
    return migration.results[0]


class Log:
    """Which parts are written, in a file: a process that is killed leaves it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, name: str) -> None:
        with self._path.open("a") as file:
            file.write(f"{name}\n")

    def take(self) -> list[str]:
        names = self._path.read_text().split() if self._path.exists() else []
        self._path.unlink(missing_ok=True)
        return names


@pytest.fixture
def log(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Log:
    found = Log(tmp_path_factory.mktemp("log") / "log")
    for files in (LocalPartFiles, StorePartFiles):
        monkeypatch.setattr(files, "write", logged(files.write, found))
    return found


def logged(write: Any, log: Log) -> Any:
    def wrapped(files: Any, name: str, *arguments: Any) -> None:
        log.add(name)
        write(files, name, *arguments)

    return wrapped


def finished_in(parent: Path) -> set[str]:
    """The data files that have a record, below a directory."""
    return {path.stem for path in parent.rglob("__*.distcp.json")}


def killed(migration: Migration, at: int) -> bool:
    """Carry out a migration in a process that kills itself at a moment; return whether it did.

    The moments are before and after each call that writes a data file or a record.
    """
    child = os.fork()
    if not child:
        turn = itertools.count(1)

        def dying(real: Any) -> Any:
            def wrapped(*arguments: Any) -> None:
                for do in (lambda: None, lambda: real(*arguments)):
                    do()
                    if next(turn) == at:
                        os.kill(os.getpid(), signal.SIGKILL)

            return wrapped

        for name in ("write", "record"):
            setattr(LocalPartFiles, name, dying(getattr(LocalPartFiles, name)))
        status = 1
        with contextlib.suppress(BaseException):
            changes.carry_out(migration, moving=ONE)
            status = 0
        os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


def test_killed_and_run_again(migration: Migration, log: Log, tmp_path: Path) -> None:
    """The same command finishes; nothing that was finished is written again."""
    template = tmp_path.with_name(f"{tmp_path.name}-template")
    shutil.copytree(tmp_path, template)
    changes.carry_out(migration, moving=ONE)
    whole = tree_hash(tmp_path)
    assert sorted(log.take()) == sorted(CONTENTS)
    for at in itertools.count(1):
        shutil.rmtree(tmp_path)
        shutil.copytree(template, tmp_path)
        if not killed(migration, at):
            break
        log.take()
        finished = finished_in(tmp_path)
        if migration.destination is None:  # as the command does
            ckptmigrate.verbs.recover.in_place(place(str(tmp_path / "run")))
        changes.carry_out(migration)
        assert sorted(log.take()) == sorted(CONTENTS.keys() - finished), at
        assert tree_hash(tmp_path) == whole, at
        assert not [*tmp_path.rglob("*ckptmigrate-*"), *tmp_path.rglob("parts")], at
    assert at == 2 * 2 * len(CONTENTS) + 3
    assert len(finished) == len(CONTENTS)


def failing(files: Any, nth: int, error: BaseException) -> Any:
    """A method that fails at its n-th call."""
    turn, real = itertools.count(1), files.write

    def wrapped(*arguments: Any) -> None:
        if next(turn) == nth:
            raise error
        real(*arguments)

    return wrapped


@pytest.mark.parametrize(
    ("number", "text"),
    [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk quota is used up")],
)
def test_no_space_for_one_part(
    migration: Migration, log: Log, number: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        error = OSError(number, os.strerror(number))
        patch.setattr(LocalPartFiles, "write", failing(LocalPartFiles, 3, error))
        with pytest.raises(DestinationError) as caught:
            changes.carry_out(migration, moving=ONE)
    assert text in str(caught.value)
    assert "2 of 4 data files (2.0 kB of 4.0 kB) are finished and kept" in caught.value.reason
    assert "nothing was changed" not in caught.value.reason
    assert "run the command again" in str(caught.value.fix)
    assert log.take() == list(CONTENTS)[:2]
    changes.carry_out(migration)
    assert sorted(log.take()) == list(CONTENTS)[2:]
    for name, content in CONTENTS.items():
        assert (result(migration) / name).read_bytes() == content


def test_no_space_for_the_first_part_leaves_nothing(
    migration: Migration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree_hash(tmp_path)
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(LocalPartFiles, "write", failing(LocalPartFiles, 1, error))
    with pytest.raises(DestinationError, match="the disk is full; nothing was changed"):
        changes.carry_out(migration, moving=ONE)
    assert tree_hash(tmp_path) == before


@pytest.mark.parametrize(("link", "refused"), [(Link.AUTO, False), (Link.COPY, True)])
def test_copies_need_space_before_the_first_part(
    link: Link, refused: bool, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(SAMPLES / SAMPLE, tmp_path / "run")
    before = tree_hash(tmp_path)
    found = planned(tmp_path / "run", tmp_path / "out")
    [plan] = found.plans
    free = sum(map(len, CONTENTS.values())) + plan.payload[1] - 1

    def statvfs(path: Any) -> Any:
        return SimpleNamespace(f_bavail=free, f_frsize=1, f_blocks=free)

    monkeypatch.setattr(os, "statvfs", statvfs)
    if not refused:
        changes.carry_out(found, link=link)
        return
    with pytest.raises(DestinationError, match=r"the disk is full .* nothing was changed"):
        changes.carry_out(found, link=link)
    assert log.take() == []
    assert tree_hash(tmp_path) == before


def interrupted(migration: Migration, after: int = 2) -> None:
    """Carry out a migration that fails after some parts, and keeps them."""
    with pytest.MonkeyPatch.context() as patch:
        for files, kind in ((LocalPartFiles, OSError), (StorePartFiles, StoreError)):
            patch.setattr(files, "write", failing(files, after + 1, kind("it fails")))
        with pytest.raises(CkptMigrateError):
            changes.carry_out(migration, moving=ONE)


def test_recover_removes_or_keeps_the_finished_parts(
    migration: Migration, log: Log, tmp_path: Path, run: Run
) -> None:
    before = tree_hash(tmp_path)
    interrupted(migration)
    about = migration.destination or tmp_path / "run"
    kept = run("recover", about, "--keep")
    assert kept.returncode == 0
    assert ("kept 2 of 4 data files (2.0 kB of 4.0 kB)" in kept.stdout) or (
        migration.destination is None and "nothing to recover" in kept.stdout
    )
    removed = run("recover", about)
    assert "2 of 4 data files (2.0 kB of 4.0 kB) that were finished" in removed.stdout
    assert tree_hash(tmp_path) == before
    assert "nothing to recover" in run("recover", tmp_path / "run").stdout
    log.take()
    changes.carry_out(migration)
    assert len(log.take()) == len(CONTENTS)


@pytest.mark.parametrize("change", ["source", "part", "record", "plan"])
def test_parts_of_another_plan_are_written_again(
    migration: Migration, log: Log, change: str, tmp_path: Path
) -> None:
    interrupted(migration)
    log.take()
    again = len(CONTENTS)
    if change == "source":
        data = tmp_path / "run" / CHECKPOINT / "__0_0.distcp"
        os.utime(data, ns=(1, 1))
    elif change == "part":  # of one that is finished
        [path] = tmp_path.rglob("__7_0.distcp")
        path.write_bytes(b"other")
        again = 3
    elif change == "record":
        [path] = tmp_path.rglob("__7_0.distcp.json")
        path.write_text(path.read_text().replace('"sha256": "', '"sha256": "not-'))
        again = 3
    else:
        [path] = tmp_path.rglob("plan.json")
        path.write_text("{}")
    changes.carry_out(migration)
    assert len(log.take()) == again
    for name, content in CONTENTS.items():
        assert (result(migration) / name).read_bytes() == content


def test_a_part_that_does_not_read_back_is_written_again(
    migration: Migration, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LocalPartFiles.read_back

    def wrong(files: LocalPartFiles, name: str) -> str:
        return "0" * 64 if name == "__7_2.distcp" else real(files, name)

    with monkeypatch.context() as patch:
        patch.setattr(LocalPartFiles, "read_back", wrong)
        with pytest.raises(DamagedError, match=r"read back.*2 of 4 data files"):
            changes.carry_out(migration, moving=ONE)
    log.take()
    changes.carry_out(migration)
    assert sorted(log.take()) == ["__7_2.distcp", "__7_3.distcp"]


def test_verify_source_reads_it_again(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / SAMPLE, tmp_path / "run")
    turn = itertools.count()
    found = planned(tmp_path / "run", tmp_path / "out", lambda: next(turn))
    changes.carry_out(found, moving=Moving(verify_source=True))
    assert next(turn) == 2 * sum(-(-len(content) // 300) for content in CONTENTS.values())


def test_a_source_that_differs_when_read_again(migration: Migration, tmp_path: Path) -> None:
    before = tree_hash(tmp_path)
    [plan] = migration.plans
    turn = itertools.count()
    payload = {
        **plan.change.payload,
        "__7_1.distcp": NewPayload(4, lambda: iter([b"%04d" % next(turn)])),
    }
    changed = replace(plan, change=replace(plan.change, payload=payload))
    with pytest.raises(DamagedError, match="differs from the source when that is read again"):
        changes.carry_out(replace(migration, plans=(changed,)), moving=Moving(verify_source=True))
    assert tree_hash(tmp_path) == before


def test_what_is_read_back_is_on_disk(
    migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cached pages are dropped first, after the file was synced."""
    calls: list[str] = []
    for name in ("posix_fadvise", "fsync"):
        real = getattr(os, name)

        def noted(*arguments: Any, name: str = name, real: Any = real) -> Any:
            if "__7_0" in os.readlink(f"/proc/self/fd/{arguments[0]}"):
                calls.append(name)
            return real(*arguments)

        monkeypatch.setattr(os, name, noted)
    changes.carry_out(migration, moving=ONE)
    assert calls[:2] == ["fsync", "posix_fadvise"]


@pytest.mark.parametrize("jobs", [1, 3])
def test_several_at_a_time(migration: Migration, jobs: int) -> None:
    changes.carry_out(migration, moving=Moving(jobs))
    history = json.loads((result(migration) / "ckptmigrate.json").read_text())
    for name, content in CONTENTS.items():
        assert (result(migration) / name).read_bytes() == content
        recorded = history["steps"][-1]["files"][name]
        assert recorded == {"before": None, "after": hashlib.sha256(content).hexdigest()}


def test_a_link_in_place_of_the_parts_is_refused(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / SAMPLE, tmp_path / "run")
    found = planned(tmp_path / "run", None)
    (tmp_path / "elsewhere").mkdir()
    own = checkpoint_of(tmp_path / "run") / ".ckptmigrate"
    own.mkdir()
    (own / "parts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="is a link"):
        changes.carry_out(found)
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_a_link_beside_the_destination_is_refused(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / SAMPLE, tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".out.ckptmigrate-parts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DestinationError, match="is a link"):
        changes.carry_out(planned(tmp_path / "run", tmp_path / "out"))
    assert not [*(tmp_path / "elsewhere").iterdir()]
    assert not (tmp_path / "out").exists()


def test_a_link_with_a_record_is_not_a_part(migration: Migration, tmp_path: Path) -> None:
    interrupted(migration)
    [part] = tmp_path.rglob("__7_0.distcp")
    moved = part.rename(tmp_path / "elsewhere")
    part.symlink_to(moved)
    changes.carry_out(migration)
    assert not (result(migration) / "__7_0.distcp").is_symlink()
    assert moved.read_bytes() == CONTENTS["__7_0.distcp"]


def test_an_interrupt_names_what_is_finished(
    migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalPartFiles, "write", failing(LocalPartFiles, 3, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt, match="2 of 4 data files") as caught:
        changes.carry_out(migration, moving=ONE)
    assert "run the command again" in str(caught.value)


# -- stores


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_lost_request_and_run_again(in_place: bool, step: int, log: Log) -> None:
    """At each request that writes, answered and not carried out; no `recover` between."""
    out, folder = (None, "run") if in_place else ("flaky://bucket/out", "out")
    url = flaky_store.put(SAMPLES / SAMPLE, "run")
    found = planned(url, out)
    changes.carry_out(found, moving=ONE)
    whole = below("")
    outcomes = set()
    for number in itertools.count(0, step):
        flaky_store.put(SAMPLES / SAMPLE, "run")
        log.take()
        fault, done = OnlyAnswered(number), False
        with FlakyFileSystem.disturbed(before=fault), contextlib.suppress(CkptMigrateError):
            changes.carry_out(found, moving=ONE)
            done = True
        outcomes.add(done)
        if not fault.request:
            break
        if done and below("") == whole:
            continue
        kept = {key.rpartition("/")[2] for key in below("") if ".distcp.json" in key}
        log.take()
        ckptmigrate.verbs.recover.in_place(place(url))
        if not done:
            changes.carry_out(found, moving=ONE)
            again = CONTENTS.keys() - {name.removesuffix(".json") for name in kept}
            assert sorted(log.take()) == sorted(again), fault.request
        else:
            with contextlib.suppress(CkptMigrateError):
                ckptmigrate.recover(f"flaky://bucket/{folder}")
        left = below("")
        left.pop(".out.ckptmigrate-journal", None)  # its removal was only answered
        assert left == whole, fault.request
    assert outcomes == {True, False}


@pytest.mark.parametrize("in_place", [False, True])
def test_recover_in_a_store(in_place: bool, log: Log, run: Run) -> None:
    out = None if in_place else "flaky://bucket/out"
    url = flaky_store.put(SAMPLES / SAMPLE, "run")
    before = below("")
    found = planned(url, out)
    interrupted(found)
    assert below("") != before
    done = ckptmigrate.recover(out or url)
    assert "2 of 4 data files" in "".join(done.values())
    assert below("") == before


def test_recover_never_removes_what_was_published() -> None:
    """A record that is left beside a complete root is removed, and no data file."""
    url = flaky_store.put(SAMPLES / SAMPLE, "run")
    changes.carry_out(planned(url, "flaky://bucket/out"))
    before = below("out")
    for name in CONTENTS:
        key = f"bucket/.out.ckptmigrate-parts/{CHECKPOINT}/{name}.json"
        FlakyFileSystem.objects[key] = b"{}"
    FlakyFileSystem.objects[f"bucket/.out.ckptmigrate-parts/{CHECKPOINT}/plan.json"] = b"{}"
    ckptmigrate.recover("flaky://bucket/out")
    assert below("out") == before
    assert not [key for key in below("") if "ckptmigrate-parts" in key]


# -- conversions


def view_of(size: int) -> View:
    """A one-dimensional tensor that is a whole data file."""
    return View("data", 0, Stored(size), "float32", 0, (size // 4,), (1,))


def test_a_large_cell_moves_through_fixed_buffers(tmp_path: Path) -> None:
    size = 512 * 1024**2
    with (tmp_path / "data").open("wb") as file:
        file.truncate(size)
    blob = NewBlob((size // 4,), (Span(view_of(size), 0, size // 4),))
    tracemalloc.start()
    moved = sum(map(len, performing._parts(LocalDirectory(tmp_path), blob)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert moved == blob.length
    assert peak < 10 * BLOCK


def test_a_plan_of_many_cells_is_compact() -> None:
    """Without what is read of `.metadata`: the rows of the new tensors and their bytes."""
    count, view = 20_000, view_of(256)
    cells = {
        f"key.{n}": NewState((64,), None, (NewRange((0,), (64,), (Span(view, 0, 64),)),))
        for n in range(count)
    }
    tracemalloc.start()
    planned_files = new_files.plan(cells, (f"__0_{n}.distcp" for n in itertools.count()), 2**20)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(planned_files[0]) == count
    assert size < 800 * count


def test_a_conversion_that_hits_a_limit_and_is_run_again(tmp_path: Path) -> None:
    """The parts fit into the limit of the shell, and `.metadata` does not."""
    shutil.copytree(OPTIMIZERS / OLD, tmp_path / "run")
    convert = partial(
        ckptmigrate.migrate,
        tmp_path / "run",
        to="0.16",
        optimizer="convert",
        part_size=SMALLEST_PART,
        output=tmp_path / "out",
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(DestinationError, match=r"ulimit -f.*13 of 13 data files"):
            convert()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "out").exists()
    before = {path.stat().st_ino for path in tmp_path.rglob(".out*/**/*.distcp")}
    assert len(before) == 13
    convert(verify_source=True)
    assert before <= {path.stat().st_ino for path in (tmp_path / "out").rglob("*.distcp")}
    check_elements(tmp_path / "out", OLD)


@pytest.mark.parametrize(("paths", "jobs", "expected"), [(1, 4, 4), (2, 5, 2), (3, 2, 1)])
def test_a_batch_shares_one_budget_of_processes(
    tmp_path: Path, paths: int, jobs: int, expected: int
) -> None:
    given = [shutil.copytree(SAMPLES / SAMPLE, tmp_path / f"run{n}") for n in range(paths)]
    scope = Scope(tuple(map(str, given)), jobs=jobs)
    request = MigrationRequest("pre-rerun", output=tmp_path / "out")
    [phase] = phases.phases(request, scope)
    requests = [task.request for found in phase for task in found.tasks]
    assert [each.jobs for each in requests if isinstance(each, MigrationRequest)] == (
        [expected] * paths
    )


def test_a_task_of_a_batch_that_fails_and_is_run_again(tmp_path: Path, log: Log) -> None:
    shutil.copytree(OPTIMIZERS / OLD, tmp_path / "run")
    request = MigrationRequest("0.16", optimizer="convert", part_size=65536, jobs=1)
    path = str(tmp_path / "run" / CHECKPOINT)
    task = Task(path, request, root=str(tmp_path / "out"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalPartFiles, "write", failing(LocalPartFiles, 3, OSError("it fails")))
        failed = perform(task)
    assert failed.status is Status.FAILED
    assert "2 of 3 data files" in failed.done.text
    first = log.take()
    done = perform(task)
    assert done.status is Status.DONE, done
    assert (len(first), len(log.take())) == (2, 1)
    assert not [*tmp_path.rglob("*ckptmigrate-*")]


def test_one_checkpoint_in_several_jobs(tmp_path: Path, run: Run) -> None:
    shutil.copytree(OPTIMIZERS / OLD, tmp_path / "run")
    words = ("migrate", tmp_path / "run", "--to", "0.16", "--optimizer", "convert")
    done = run(*words, "--part-size", "64k", "--jobs", 3, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    check_elements(tmp_path / "out", OLD)
    assert not [*tmp_path.rglob("*ckptmigrate-*")]


def test_the_smallest_part_size(tmp_path: Path, run: Run) -> None:
    failed = run("migrate", tmp_path, "--to", "0.16", "--part-size", "1k")
    assert failed.returncode == 2
    assert "must be a size" in failed.stderr
