"""Which of many tasks one of several runs is to take: `--shard I/N`, or from a Slurm array."""

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
class Shard:
    """The part `index`, counted from 0, of `count` parts."""

    index: int
    count: int

    def of(self, tasks: Sequence[T]) -> list[T]:
        """Every `count`-th: parts differ by one task at most, and together have each once."""
        return list(tasks[self.index :: self.count])

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse(text: str, environment: Mapping[str, str]) -> Shard:
    """What `--shard` says: `I/N`, or `slurm` for what the variables of an array say.

    Raises:
        ValueError: neither.
        RefusedError: `slurm`, and the variables do not tell.
    """
    if text == SLURM:
        return _of_array(environment)
    match = re.fullmatch(rf"({_NUMBER})/({_NUMBER})", text, re.ASCII)
    if not match or not int(match[1]) < int(match[2]):
        raise ValueError(f"{text!r} must be I/N, with I from 0 to N-1, or {SLURM}.")
    return Shard(int(match[1]), int(match[2]))


def _of_array(environment: Mapping[str, str]) -> Shard:
    """From the ids of an array that may start anywhere and take steps: 10, 15, 20."""
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
            f"the ids of this Slurm array ({count} from {first} to {last}) are no range, and which "
            f"part is that of {task} cannot be told"
        )
        raise RefusedError(reason, fix=fix)
    return Shard((task - first) // step, count)
