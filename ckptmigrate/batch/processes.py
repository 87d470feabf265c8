"""The execution of tasks in processes on this host.

A process has one task at a time, so a killed process fails only that task and is replaced. (With a
`ProcessPoolExecutor`, all remaining tasks fail.)
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Final, NoReturn

from ckptmigrate import search_path
from ckptmigrate.batch.executors import Outcomes, Stop
from ckptmigrate.batch.tasks import Task, TaskOutcome, checked, ended, interrupted, perform
from ckptmigrate.verbs.result import Status

# A terminal or a Slurm job step sends these signals to every process, but only the parent decides
# whether to continue. So the processes block them; SIGTERM is unblocked during a task.
_HELD: Final = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@dataclass(frozen=True)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    task: Task


@dataclass(frozen=True)
class Processes:
    """An executor with up to `jobs` processes."""

    jobs: int

    def __call__(self, tasks: Sequence[Task], stop: Stop) -> Outcomes:
        """Perform tasks (see `executors.Executor`)."""
        waiting = deque(tasks)
        busy: dict[Connection, _Worker] = {}
        stop.at_once = lambda: _terminate(busy.values())
        try:
            while True:
                while waiting and not stop and len(busy) < self.jobs:
                    worker = _start(waiting.popleft())
                    busy[worker.connection] = worker
                if not busy:  # `wait` on an empty list would block forever
                    return
                for connection in wait(list(busy)):
                    assert isinstance(connection, Connection)
                    worker = busy.pop(connection)
                    outcome = _received(worker)
                    if outcome is None:
                        yield worker.task, ended(worker.task, _end_of(worker.process))
                        continue
                    if waiting and not stop and outcome.status is not Status.INTERRUPTED:
                        task = waiting.popleft()
                        busy[connection] = _Worker(worker.process, connection, task)
                        _send(connection, task)
                    else:
                        _dismiss(worker)
                    yield worker.task, outcome
        finally:
            _terminate(busy.values())
            for worker in busy.values():
                _dismiss(worker)


def _terminate(workers: Iterable[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()


def _start(task: Task) -> _Worker:
    """Start a process and send it a task; do not fork, because this process may have threads."""
    ours, theirs = Pipe()
    code = f"from {__name__} import serve; serve({theirs.fileno()})"
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)  # a process inherits it
    try:
        process = subprocess.Popen(
            search_path.python(code), stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    theirs.close()
    _send(ours, task)
    return _Worker(process, ours, task)


def _send(connection: Connection, task: Task) -> None:
    with contextlib.suppress(OSError):  # the process has ended; `_received` handles it
        connection.send(task)


def _received(worker: _Worker) -> TaskOutcome | None:
    """Return the outcome that a process sends; None if it has ended."""
    try:
        found = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.wait()
        return None
    return checked(worker.task, found)


def _dismiss(worker: _Worker) -> None:
    worker.connection.close()
    worker.process.wait()


def _end_of(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode or 0
    if code >= 0:
        return f"ended with status {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


# -- in the process


def serve(number: int) -> None:
    """Run tasks until the connection is closed.

    Args:
        number: the file descriptor of the connection.
    """
    signal.signal(signal.SIGTERM, _stop)
    with (
        contextlib.suppress(EOFError, OSError, KeyboardInterrupt),
        Connection(number) as connection,
    ):
        while True:
            task = connection.recv()
            try:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
                outcome = perform(task)
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            except KeyboardInterrupt:
                connection.send(interrupted(task))
                return
            connection.send(outcome)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the rollback
    raise KeyboardInterrupt
