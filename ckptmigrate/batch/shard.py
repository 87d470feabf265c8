"""The partition of the tasks for this run: `--shard I/N`, or from a Slurm array."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from ckptmigrate.errors import RefusedError

SLURM: Final = "slurm"
_VARIABLES: Final = tuple(
    f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "COUNT", "MIN", "MAX", "STEP")
)
_NUMBER: Final = r"\d{1,18}"
T = TypeVar("T")


@dataclass(frozen=True)
class Partition:
    """The partition `index`, counted from 0, of `count` partitions."""

    index: int
    count: int

    def of(self, tasks: Sequence[T]) -> list[T]:
        """Return every `count`-th task; the sizes of the partitions differ by at most one."""
        return list(tasks[self.index :: self.count])

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse(text: str, environment: Mapping[str, str]) -> Partition:
    """Parse `--shard`: `I/N`, or `slurm` to use the variables of a Slurm array.

    Raises:
        ValueError: `text` is neither.
        RefusedError: `text` is `slurm`, and the variables are missing or irregular.
    """
    if text == SLURM:
        return _of_array(environment)
    match = re.fullmatch(rf"({_NUMBER})/({_NUMBER})", text, re.ASCII)
    if not match or not int(match[1]) < int(match[2]):
        raise ValueError(f"{text!r} must be I/N, with I from 0 to N-1, or {SLURM}.")
    return Partition(int(match[1]), int(match[2]))


def _of_array(environment: Mapping[str, str]) -> Partition:
    """Return the partition of a Slurm array task; ids may have any start and step: 10, 15, 20."""
    fix = "start it with `sbatch --array=0-9`, or say --shard I/N"
    values = {name: environment.get(name, "") for name in _VARIABLES}
    wrong = [name for name, value in values.items() if not re.fullmatch(_NUMBER, value, re.ASCII)]
    if wrong:
        reason = f"--shard {SLURM} needs {', '.join(wrong)}, which only a Slurm array has"
        raise RefusedError(reason, fix=fix)
    task, count, first, last, step = map(int, values.values())
    regular = step > 0 and (last - first) % step == 0 and (last - first) // step + 1 == count
    if not regular or not first <= task <= last or (task - first) % step:
        reason = (
            f"the ids of this Slurm array ({count} from {first} to {last}) are not a range with "
            f"a fixed step, so the part of task {task} is unknown"
        )
        raise RefusedError(reason, fix=fix)
    return Partition((task - first) // step, count)
