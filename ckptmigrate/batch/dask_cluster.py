"""The execution of tasks on a running Dask cluster, one Dask task each.

The workers need this package and the file system of the checkpoints. This process, never a worker,
selects the tasks and writes the ledger (drive.py, ledger.py). If a worker is lost, the scheduler
gives its task to another worker, which first recovers an interrupted migration and then skips
finished work.
"""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from ckptmigrate.batch.executors import Outcomes, Stop
from ckptmigrate.batch.tasks import Task, TaskOutcome, checked, ended, failed, perform
from ckptmigrate.errors import CkptMigrateError, RefusedError, wrapped
from ckptmigrate.storage import local_files, progress
from ckptmigrate.text.commands import install
from ckptmigrate.text.secrets import masked
from ckptmigrate.version import __version__

_PAUSE: Final = 0.05  # seconds between two polls for finished tasks
_TIMEOUT: Final = 30  # seconds for the scheduler to answer
_LOOK: Final = 1.0  # seconds between two polls for workers
_ANSWER: Final = 5.0  # seconds for the scheduler to list its workers
_NO_WORKER: Final = 300.0  # seconds without any worker; a cluster may start workers on demand
_LARGEST: Final = 1024**2  # bytes to read of a scheduler file


# The code that workers evaluate. A worker that fails to unpickle a value of this package (missing,
# or of another version there) would end, so the task itself unpickles its arguments.
_VERSION: Final = "__import__('ckptmigrate.version', fromlist=['_']).__version__"
_ATTEMPT: Final = (
    "__import__('ckptmigrate.batch.dask_cluster', fromlist=['_']).attempt(version, task)"
)


class TransientError(Exception):
    """A transient failure on a worker, which makes Dask retry the task; carries the outcome."""


def attempt(version: str, task: bytes) -> TaskOutcome:
    """Perform a task on a worker.

    Args:
        version: the version of this package on the host that created the task.
        task: the pickled task.

    Raises:
        RefusedError: the worker has another version.
        TransientError: the task failed for a reason that a retry may not hit.
    """
    if version != __version__:
        raise _other_version("the worker", __version__, version)
    outcome = perform(pickle.loads(task))
    if outcome.transient:
        raise TransientError(outcome)
    return outcome


def _other_version(worker: str, found: object, wanted: str) -> RefusedError:
    has = f"has ckptmigrate {found}" if isinstance(found, str) else f"has no ckptmigrate ({found})"
    return RefusedError(
        f"{worker} {has}, and this is {wanted}",
        fix=f"install it on every worker with `pip install ckptmigrate=={wanted}`",
    )


@dataclass(frozen=True)
class Cluster:
    """A running Dask cluster.

    Attributes:
        scheduler: the address, for example tcp://10.0.0.1:8786, or the name of a scheduler file.
        retries: the maximum number of retries after a transient failure of a task.
    """

    scheduler: str
    retries: int

    def __call__(self, tasks: Sequence[Task], stop: Stop) -> Outcomes:
        """Perform tasks (see `executors.Executor`).

        Raises:
            RefusedError: `distributed` is not installed, or the scheduler does not answer.
        """
        with _client(self.scheduler) as client:
            from distributed import as_completed

            _check_versions(client)
            run = uuid4().hex  # the scheduler may still hold the keys of another run
            of = {
                client.submit(
                    eval,
                    _ATTEMPT,
                    {"version": __version__, "task": pickle.dumps(task)},
                    key=f"ckptmigrate-{run}-{number}",
                    retries=self.retries,
                ): task
                for number, task in enumerate(tasks)
            }
            done = as_completed(of, loop=client.loop)
            watch = _Watch(client)
            stopped = False
            # If the scheduler is lost, the unfinished tasks are lost too.
            while not done.is_empty() and client.status == "running":
                if stop and not stopped:
                    stopped = True
                    _cancel_waiting(client, list(of))
                batch = done.next_batch(block=False)
                for future in batch:
                    if not future.cancelled():
                        yield of[future], _outcome(of[future], future)
                    of.pop(future)
                if batch:
                    continue
                time.sleep(_PAUSE)
                if watch.is_deserted():
                    client.cancel(list(of))
                    yield from ((task, failed(task, _no_worker(task))) for task in of.values())
                    return


class _Watch:
    """A watch on the number of workers."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._seen = self._looked = time.monotonic()

    def is_deserted(self) -> bool:
        """Return whether no worker existed for _NO_WORKER seconds; report the wait."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return False
        self._looked = now
        try:
            workers = self._client.sync(self._client.scheduler.ncores, callback_timeout=_ANSWER)
        except Exception:  # many types; if the scheduler is lost, the client notices it too
            return False
        if workers:
            self._seen = now
            return False
        progress.on_wait("a worker of the Dask cluster", now - self._seen)
        return now - self._seen > _NO_WORKER


def _no_worker(task: Task) -> CkptMigrateError:
    return CkptMigrateError(
        f"the Dask cluster has had no worker for {_NO_WORKER:.0f} s",
        path=task.path,
        fix="start workers with `dask worker ADDRESS`, and run it again",
    )


def _check_versions(client: Any) -> None:
    """Raise if a connected worker cannot perform a task.

    Raises:
        RefusedError: a worker has another version of this package, or none, or does not answer.
    """
    try:
        found = client.sync(
            client._run, eval, _VERSION, on_error="return", callback_timeout=_TIMEOUT
        )
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise RefusedError(
            f"a worker of the Dask cluster does not answer within {_TIMEOUT} s",
            fix="end or restart the workers that hang",
        ) from error
    for worker, version in sorted(found.items()):
        if version != __version__:
            raise _other_version(f"the worker {worker}", version, __version__)


def _client(scheduler: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise RefusedError(
            "--scheduler needs Dask, which is not installed",
            fix=f"run `{install('distributed')}`",
        ) from error
    for name in ("distributed.client", "distributed.core", "distributed.comm"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # an error message replaces the log
    try:
        address = scheduler if ":" in scheduler else _address(Path(scheduler))
        # Without this check, a client of an address that does not answer would hang on exit.
        asyncio.run(_ask(address))
        return Client(address=address, timeout=_TIMEOUT, set_as_default=False)
    except Exception as error:  # the type depends on the scheme of the address
        # The message of Dask may repeat a part of the address, which may contain a secret.
        said = f" ({error or type(error).__name__})" if masked(scheduler) == scheduler else ""
        raise RefusedError(
            f"there is no Dask scheduler at {scheduler}{said}",
            fix="start one with `dask scheduler`, and name the address that it prints",
        ) from error


def _address(file: Path) -> str:
    """Return the address in a scheduler file."""
    if not file.is_file():
        raise FileNotFoundError("there is no such file")
    return str(json.loads(local_files.read(file, _LARGEST))["address"])


async def _ask(address: str) -> None:
    """Raise if an address does not answer."""
    from distributed import Security
    from distributed.comm.core import connect

    comm = await connect(address, timeout=_TIMEOUT, **Security().get_connection_args("client"))
    await comm.close()


def _cancel_waiting(client: Any, futures: list[Any]) -> None:
    """Cancel the tasks that no worker is executing."""
    found = client.run(_executing, on_error="ignore")
    executing = {key for keys in found.values() for key in keys}
    client.cancel([future for future in futures if future.key not in executing])


def _executing(dask_worker: Any) -> list[str]:
    return [task.key for task in dask_worker.state.executing]


def _outcome(task: Task, future: Any) -> TaskOutcome:
    error = future.exception()
    if error is None:
        return checked(task, future.result())
    if isinstance(error, TransientError):
        return checked(task, error.args[0] if error.args else None)
    if type(error).__name__ == "KilledWorker":
        return ended(task, "was lost repeatedly")
    if isinstance(error, ImportError):
        return failed(task, _other_version("the worker", error, __version__))
    return failed(task, wrapped(error, task.path))
