"""The tasks that convert a distributed optimizer between sharding types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks import commands
from benchmarks.contenders import Contender, Task
from benchmarks.goals import Goal, Quantity
from benchmarks.payloads import SavedOptimizer
from benchmarks.table import amount

_FLATTENED: Final = "fully_sharded_model_space"
_RESHARDABLE: Final = "fully_reshardable"
_BUCKETS: Final = "dp_reshardable"
COPY: Final = "`cp` of as many bytes, fsync"
MOVE: Final = "move: read, CRC-32, write, fsync"
DIGESTS: Final = "move, with SHA-256 digests"
READ_BACK: Final = "move, with SHA-256 digests, read back"
DCP: Final = "torch DCP: load, save the optimizer"
_SERIAL: Final = "reading, checksums and writing follow each other, and `cp` has no checksums"
MOST_MEMORY: Final = 400  # MB
JOBS: Final = (1, 2)  # data files that are written at once; 2 is the default


@dataclass(frozen=True)
class Conversion:
    """A conversion that is measured.

    Attributes:
        before, after: the sharding types.
        writer: the release that saves the checkpoint.
        verb, to: the command and the release that it converts for.
        slowest: the largest allowed ratio of the move to `cp`.
    """

    before: str
    after: str
    writer: str
    verb: str
    to: str
    slowest: float

    @property
    def name(self) -> str:
        """Return the start of the names of its tasks."""
        return f"optimizer: {self.before} to {self.after}, "

    def task(self, size: int) -> str:
        """Return the name of the task in the table."""
        return f"{self.name}{amount(size)} of states, cold page cache"

    @property
    def command(self) -> str:
        """Return the name of the command in the table."""
        return f"`ckptmigrate {self.verb} --optimizer convert`"


CONVERSIONS: Final = (
    Conversion(_FLATTENED, _RESHARDABLE, "0.14.0", "upgrade", "0.16.1", 2),
    Conversion(_RESHARDABLE, _FLATTENED, "0.16.1", "downgrade", "0.14.0", 2),
    Conversion(_BUCKETS, _FLATTENED, "0.16.1", "downgrade", "0.14.0", 1 / 0.35),
)


def tasks(states: Mapping[int, int]) -> list[Task]:
    """Return the tasks: every conversion of the smallest size, and the first of the others.

    Args:
        states: bytes of optimizer states -> repetitions.
    """
    return [_converting(each, size, states[size]) for each, size in _measured(states)]


def _measured(states: Mapping[int, int]) -> list[tuple[Conversion, int]]:
    first, *larger = states
    return [(each, first) for each in CONVERSIONS] + [(CONVERSIONS[0], size) for size in larger]


def _converting(each: Conversion, size: int, repetitions: int) -> Task:
    payload = SavedOptimizer(size, each.writer, each.before)
    ways = (
        (COPY, commands.copy_as_many_bytes),
        (MOVE, commands.program("move_optimizer", each.to)),
        (DIGESTS, commands.program("move_optimizer", each.to, "digests")),
        (READ_BACK, commands.program("move_optimizer", each.to, "digests", "read-back")),
        (each.command, commands.convert_optimizer(each.verb, each.to)),
        *(
            (
                f"{each.command.rstrip('`')} --jobs {jobs}`",
                commands.convert_optimizer(each.verb, each.to, "--jobs", str(jobs)),
            )
            for jobs in JOBS
        ),
        (DCP, commands.program("dcp_copy", "optimizer.")),
    )
    contenders = tuple(Contender(name, payload, command) for name, command in ways)
    return Task(each.task(size), contenders, repetitions, bytes_needed=4 * size, cold=True)


def goals(states: Mapping[int, int]) -> list[Goal]:
    """Return the goals of the measured conversions."""
    found = []
    for each, size in _measured(states):
        task = each.task(size)
        found.append(Goal(task, MOVE, COPY, Quantity.TIME, each.slowest, _SERIAL))
        found.append(Goal(task, MOVE, DCP, Quantity.TIME, 1 / 3, _SERIAL))
        found.append(Goal(task, each.command, None, Quantity.PEAK, MOST_MEMORY, _SERIAL))
    return found
