"""Tasks in, outcomes out as they come: the interface of what performs tasks, and the simplest one.

The others are `processes.Processes` and `cluster.Cluster`.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from types import FrameType
from typing import NoReturn, Protocol

from ckptmigrate.batch.work import Outcome, Task, interrupted, perform

# As they come; closed early, what is under way is taken back.
Outcomes = Generator[tuple[Task, Outcome], None, None]


class Stop:
    """Whether somebody asked to stop, by a signal.

    The first one lets finish what is under way, the second one has it taken back, and more do
    nothing.

    Attributes:
        number: of the first signal; None before it.
        at_once: what the second one calls.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.at_once: Callable[[], object] = _nothing
        self._asked = 0

    def __bool__(self) -> bool:
        return self.number is not None

    def ask(self, number: int, frame: FrameType | None = None) -> None:
        """A signal, or what acts like one."""
        self._asked += 1
        if self._asked == 1:
            self.number = number
        elif self._asked == 2:
            self.at_once()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Have SIGINT, SIGTERM and SIGHUP ask for it, but for those that are ignored (`nohup`)."""
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
    """What performs tasks."""

    def __call__(self, tasks: Sequence[Task], stop: Stop) -> Outcomes:
        """Perform them, in any order. Once `stop` is true none is begun any more."""


def here(tasks: Sequence[Task], stop: Stop) -> Outcomes:
    """Perform them one after the other in this process."""
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
