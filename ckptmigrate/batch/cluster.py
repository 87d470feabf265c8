"""Perform tasks on a Dask cluster that runs: each is a task of the scheduler's.

The workers need this package and the file system of the checkpoints; what is done and what is
written down (running.py, ledger.py) is decided here, never on a worker. Where a worker is lost the
scheduler gives its task to another one, which first makes whole what it finds half-done and takes
what it finds done for done.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from ckptmigrate.access import opener
from ckptmigrate.batch.running import Outcomes, Stop
from ckptmigrate.batch.work import Outcome, Task, died, failed, in_words, perform
from ckptmigrate.errors import RefusedError
from ckptmigrate.text.commands import install

_PAUSE: Final = 0.05  # seconds between two looks at what is done
_TIMEOUT: Final = 30  # seconds for the scheduler to answer
_LARGEST: Final = 1024**2  # bytes of a scheduler file that are read


class TransientError(Exception):
    """Raised on a worker for the scheduler to try once more; its argument is the outcome."""


def attempt(task: Task) -> Outcome:
    """Perform a task on a worker.

    Raises:
        TransientError: it failed for a reason that may be gone the next time.
    """
    outcome = perform(task)
    if outcome.transient:
        raise TransientError(outcome)
    return outcome


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        scheduler: its address, such as tcp://10.0.0.1:8786, or the name of a scheduler file.
        retries: how often a task is tried again that failed for a reason that may be gone.
    """

    scheduler: str
    retries: int

    def __call__(self, tasks: Sequence[Task], stop: Stop) -> Outcomes:
        """Perform tasks (see `running.Executor`).

        Raises:
            RefusedError: `distributed` is not installed, or there is no such scheduler.
        """
        with _client(self.scheduler) as client:
            from distributed import as_completed

            run = uuid4().hex  # the scheduler may remember the keys of another run
            of = {
                client.submit(
                    attempt, task, key=f"ckptmigrate-{run}-{number}", retries=self.retries
                ): task
                for number, task in enumerate(tasks)
            }
            done = as_completed(of, loop=client.loop)
            stopped = False
            # Where the scheduler is lost, so is what it had been told.
            while not done.is_empty() and client.status == "running":
                if stop and not stopped:
                    stopped = True
                    _cancel_waiting(client, list(of))
                batch = done.next_batch(block=False)
                for future in batch:
                    if not future.cancelled():
                        yield of[future], _outcome(of[future], future)
                    of.pop(future)
                if not batch:
                    time.sleep(_PAUSE)


def _client(scheduler: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise RefusedError(
            "--scheduler needs Dask, which is not installed",
            fix=f"run `{install('distributed')}`",
        ) from error
    for name in ("distributed.client", "distributed.core", "distributed.comm"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what it means is told in a sentence
    try:
        address = scheduler if ":" in scheduler else _address(Path(scheduler))
        # A client of what answers to no address would wait for itself to end, for ever.
        asyncio.run(_ask(address))
        return Client(address=address, timeout=_TIMEOUT, set_as_default=False)
    except Exception as error:  # of many kinds, by the scheme of the address
        raise RefusedError(
            f"there is no Dask scheduler at {scheduler} ({error or type(error).__name__})",
            fix="start one with `dask scheduler`, and name the address that it prints",
        ) from error


def _address(file: Path) -> str:
    """The address that a scheduler file tells."""
    if not file.is_file():
        raise FileNotFoundError("there is no such file")
    return str(json.loads(opener.read(file, _LARGEST))["address"])


async def _ask(address: str) -> None:
    """Make sure that something answers there."""
    from distributed import Security
    from distributed.comm.core import connect

    comm = await connect(address, timeout=_TIMEOUT, **Security().get_connection_args("client"))
    await comm.close()


def _cancel_waiting(client: Any, futures: list[Any]) -> None:
    """Have no task begun any more: those that a worker is at are left to it."""
    executing = {key for keys in client.run(_executing).values() for key in keys}
    client.cancel([future for future in futures if future.key not in executing])


def _executing(dask_worker: Any) -> list[str]:
    return [task.key for task in dask_worker.state.executing]


def _outcome(task: Task, future: Any) -> Outcome:
    error = future.exception()
    if error is None:
        outcome = future.result()
        assert isinstance(outcome, Outcome)
        return outcome
    if isinstance(error, TransientError):
        outcome = error.args[0]
        assert isinstance(outcome, Outcome)
        return outcome
    if type(error).__name__ == "KilledWorker":
        return died(task, "was lost, again and again")
    return failed(task, in_words(error, task.path))
