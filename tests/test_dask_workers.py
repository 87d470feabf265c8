"""Dask workers that cannot be used: of another version, without the package, silent, or none."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from distributed import Client, LocalCluster

from ckptmigrate.batch import dask_cluster, processes
from ckptmigrate.batch.dask_cluster import Cluster
from ckptmigrate.batch.executors import Stop
from ckptmigrate.batch.tasks import Done, Task, TaskOutcome, checked
from ckptmigrate.errors import RefusedError
from ckptmigrate.storage import progress
from ckptmigrate.verbs.inspect import InspectRequest
from ckptmigrate.verbs.result import Status
from ckptmigrate.version import __version__

TASKS = [Task(f"/nowhere/{number}", InspectRequest()) for number in range(3)]


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """A scheduler without workers, in this process."""
    with LocalCluster(
        n_workers=0, processes=False, dashboard_address=None, protocol="tcp://", host="127.0.0.1"
    ) as found:
        yield found.scheduler_address


@contextlib.contextmanager
def worker(scheduler: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a process of its own, which imports from another place first."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler, "--no-nanny",
               "--nthreads", "1", "--no-dashboard", "--death-timeout", "60"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(path)}
    with subprocess.Popen(
        command, env=environment, cwd=path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            with Client(scheduler) as client:
                client.wait_for_workers(1, timeout=60)
            yield process
        finally:
            process.kill()


@pytest.fixture(params=["another version", "none"])
def package(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A place with another package of our name, and what is said of it."""
    (tmp_path / "ckptmigrate").mkdir()
    init = tmp_path / "ckptmigrate/__init__.py"
    if request.param == "none":
        init.write_text("raise ImportError('it is not here')")
        return tmp_path, "has no ckptmigrate (it is not here)"
    init.touch()
    (tmp_path / "ckptmigrate/version.py").write_text("__version__ = '0.0.1'")
    return tmp_path, "has ckptmigrate 0.0.1"


@pytest.mark.full
@pytest.mark.costly("a Dask worker in a process of its own")
def test_a_worker_that_cannot_perform_a_task(
    package: tuple[Path, str], scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, said = package
    perform = Cluster(scheduler, retries=0)
    with worker(scheduler, path) as process:
        with pytest.raises(RefusedError) as caught:
            list(perform(TASKS, Stop()))
        assert said in str(caught.value)
        assert f"this is {__version__}" in str(caught.value)
        assert f"pip install ckptmigrate=={__version__}" in str(caught.value)
        # One that joins later is not known before the tasks are sent, and survives them.
        monkeypatch.setattr(dask_cluster, "_check_versions", lambda client: None)
        outcomes = dict(perform(TASKS, Stop()))
        assert process.poll() is None
    assert {outcome.status for outcome in outcomes.values()} == {Status.FAILED}
    assert all("ckptmigrate" in outcome.done.text for outcome in outcomes.values())
    assert set(outcomes) == set(TASKS)


@pytest.mark.full
@pytest.mark.costly("a Dask worker in a process of its own")
def test_a_worker_that_hangs(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_cluster, "_TIMEOUT", 2)
    with worker(scheduler, Path(dask_cluster.__file__).parents[2]) as process:
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(RefusedError, match="does not answer within 2 s"):
            list(Cluster(scheduler, retries=0)(TASKS, Stop()))


def test_a_cluster_without_workers(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[str] = []
    monkeypatch.setattr(progress, "on_wait", lambda what, seconds: reported.append(str(what)))
    monkeypatch.setattr(dask_cluster, "_NO_WORKER", 0.3)
    monkeypatch.setattr(dask_cluster, "_LOOK", 0.1)
    outcomes = dict(Cluster(scheduler, retries=0)(TASKS, Stop()))
    assert set(outcomes) == set(TASKS)
    for outcome in outcomes.values():
        assert "the Dask cluster has had no worker for" in outcome.done.text
        assert "`dask worker ADDRESS`" in outcome.done.text
    assert set(reported) == {"a worker of the Dask cluster"}


def test_a_task_of_another_version_is_refused_on_the_worker() -> None:
    with pytest.raises(RefusedError, match=f"the worker has ckptmigrate {__version__}"):
        dask_cluster.attempt("0.0.1", b"not unpickled")


# -- results


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            TaskOutcome("/elsewhere", Done(Status.DONE, "")),
            "answered with TaskOutcome about /elsewhere",
        ),
        ("done", "answered with str about nothing"),
        (None, "answered with NoneType about nothing"),
    ],
)
def test_a_result_that_is_not_the_tasks_is_refused(found: object, words: str) -> None:
    outcome = checked(TASKS[0], found)
    assert outcome.status is Status.FAILED
    assert outcome.path == TASKS[0].path
    assert words in outcome.done.text
    right = TaskOutcome(TASKS[0].path, Done(Status.DONE, ""))
    assert checked(TASKS[0], right) is right


class Future:
    """A future of Dask, as far as its result is looked at."""

    def __init__(self, error: Exception | None = None, result: object = None) -> None:
        self.exception = lambda: error
        self.result = lambda: result


def test_results_of_a_cluster_are_checked() -> None:
    foreign = TaskOutcome("/elsewhere", Done(Status.DONE, ""))
    for future in (
        Future(result=foreign),
        Future(dask_cluster.TransientError(foreign)),
        Future(dask_cluster.TransientError()),
    ):
        outcome = dask_cluster._outcome(TASKS[0], future)
        assert (outcome.path, outcome.status) == (TASKS[0].path, Status.FAILED)


def test_results_of_processes_are_checked() -> None:
    foreign = TaskOutcome("/elsewhere", Done(Status.DONE, ""))
    worker = SimpleNamespace(task=TASKS[0], connection=SimpleNamespace(recv=lambda: foreign))
    outcome = processes._received(worker)  # type: ignore[arg-type]
    assert outcome is not None
    assert (outcome.path, outcome.status) == (TASKS[0].path, Status.FAILED)
