"""The interface of task executors, and the executor that runs tasks in this process.

The other executors are `processes.Processes` and `dask_cluster.Cluster`.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from types import FrameType
from typing import NoReturn, Protocol

from ckptmigrate.batch.tasks import Task, TaskOutcome, interrupted, perform

# In the order of completion. Closing it early rolls back the running tasks.
Outcomes = Generator[tuple[Task, TaskOutcome], None, None]


class Stop:
    """The request to stop, by signals.

    After the first signal, running tasks finish and no others start. The second signal rolls back
    the running tasks. Further signals have no effect.

    Attributes:
        number: the number of the first signal; None before it.
        at_once: the function that the second signal calls.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.at_once: Callable[[], object] = _nothing
        self._asked = 0

    def __bool__(self) -> bool:
        return self.number is not None

    def ask(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal, or an equivalent request."""
        self._asked += 1
        if self._asked == 1:
            self.number = number
        elif self._asked == 2:
            self.at_once()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM and SIGHUP in a block, except ignored ones (`nohup`)."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in numbers}
        heard = {n: handler for n, handler in before.items() if handler is not signal.SIG_IGN}
        for number in heard:
            signal.signal(number, self.ask)
        try:
            yield
        finally:
            for number, handler in heard.items():
                signal.signal(number, handler)


def _nothing() -> None:
    pass


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


class Executor(Protocol):
    """The interface of an executor."""

    def __call__(self, tasks: Sequence[Task], stop: Stop) -> Outcomes:
        """Run tasks in any order; start no others once `stop` is true."""


def here(tasks: Sequence[Task], stop: Stop) -> Outcomes:
    """Run tasks one after the other in this process."""
    for task in tasks:
        if stop:
            return
        try:
            stop.at_once = _interrupt
            outcome = perform(task)
        except KeyboardInterrupt:
            outcome = interrupted(task)
        finally:
            stop.at_once = _nothing
        yield task, outcome
