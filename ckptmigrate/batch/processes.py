"""Perform tasks in processes of this machine.

A process has one task at a time, so that one which is killed takes that one with it and no other
(of a `ProcessPoolExecutor`, all that is left fails). Another one takes its place.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Final, NoReturn

from ckptmigrate.batch.running import Outcomes, Stop
from ckptmigrate.batch.work import Outcome, Status, Task, checked, died, interrupted, perform

# Not forked from this process, which may have threads; imported once, for all of them.
_START: Final = "forkserver"
_PRELOADED: Final = ["ckptmigrate.batch.changing"]


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    task: Task


@dataclass(frozen=True)
class Processes:
    """So many of them."""

    jobs: int

    def __call__(self, tasks: Sequence[Task], stop: Stop) -> Outcomes:
        """Perform tasks (see `running.Executor`)."""
        context = multiprocessing.get_context(_START)
        context.set_forkserver_preload(_PRELOADED)
        _start_server()
        waiting = deque(tasks)
        busy: dict[Connection, _Worker] = {}
        stop.at_once = lambda: _terminate(busy.values())
        try:
            while True:
                while waiting and not stop and len(busy) < self.jobs:
                    worker = _start(context, waiting.popleft())
                    busy[worker.connection] = worker
                if not busy:  # to wait for none would have no end
                    return
                for connection in wait(list(busy)):
                    assert isinstance(connection, Connection)
                    worker = busy.pop(connection)
                    outcome = _received(worker)
                    if outcome is None:
                        yield worker.task, died(worker.task, _end_of(worker.process))
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


def _start_server() -> None:
    """Start what forks the processes; it ends with this one, and not by a signal to all."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        forkserver.ensure_running()  # what is ignored here is ignored there from the beginning
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(workers: Iterable[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()


def _start(context: multiprocessing.context.ForkServerContext, task: Task) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,))
    process.start()
    theirs.close()
    _send(ours, task)
    return _Worker(process, ours, task)


def _send(connection: Connection, task: Task) -> None:
    with contextlib.suppress(OSError):  # it is gone, as reading will tell
        connection.send(task)


def _received(worker: _Worker) -> Outcome | None:
    """What a process says; None where it is gone."""
    try:
        found = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join()
        return None
    return checked(worker.task, found)


def _dismiss(worker: _Worker) -> None:
    worker.connection.close()
    worker.process.join()


def _end_of(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code >= 0:
        return f"ended with status {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


# -- in the process


def _serve(connection: Connection) -> None:
    """Perform one task after the other, until nobody is there to send one."""
    # Of a terminal these go to all; whether to go on is decided where tasks are given out.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            task = connection.recv()
            try:
                outcome = perform(task)
            except KeyboardInterrupt:
                connection.send(interrupted(task))
                return
            connection.send(outcome)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one does not disturb the way back
    raise KeyboardInterrupt
