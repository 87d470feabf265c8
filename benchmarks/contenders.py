"""What is measured: tasks, and the ways to do each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.payloads import Payload


@dataclass(frozen=True)
class Place:
    """The paths of one run of a contender.

    Attributes:
        root: a copy of the payload, which the contender can change.
        out: the path for its output, which does not exist.
    """

    root: Path
    out: Path

    @property
    def checkpoint(self) -> Path:
        """Return the newest checkpoint of the root."""
        return max(self.root.glob("iter_*"))


Command = Callable[[Place], list[str]]


@dataclass(frozen=True)
class Contender:
    """One way to do a task: a process.

    Attributes:
        name: its name in the table.
        payload: the root that it works on.
        command: returns the command line for a place.
        environment: additional environment variables.
    """

    name: str
    payload: Payload
    command: Command
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A task with its contenders; each is compared with the first.

    Attributes:
        name: its name in the table.
        repetitions: how often the contenders run, in turn.
        bytes_needed: the largest disk space that the task uses.
        per: the number of checkpoints, by which time and bytes are divided.
        cold: whether the page cache has no data of the root, and not as much as fits.
    """

    name: str
    contenders: tuple[Contender, ...]
    repetitions: int
    bytes_needed: int = 10**9
    per: int = 1
    cold: bool = False
