"""What is asked of the figures, and by how much a run of the benchmarks meets or misses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from benchmarks.table import Row


class Quantity(Enum):
    """What is compared: wall time, or peak memory with the bytes that the other writes."""

    TIME = "time"
    MEMORY = "memory"


@dataclass(frozen=True)
class Goal:
    """At most so many times what another contender of the task takes.

    Attributes:
        task, contender, base: names, as the table has them.
        quantity: what is compared.
        most: how many times at most.
        why: what it takes that long or that much for, told where it is missed.
    """

    task: str
    contender: str
    base: str
    quantity: Quantity
    most: float
    why: str

    def measured(self, rows: Sequence[Row]) -> float | None:
        """How many times it is; None where one of the two was not run."""
        found = {row.contender: row for row in rows if row.task == self.task}
        if self.contender not in found or self.base not in found:
            return None
        mine, base = found[self.contender], found[self.base]
        if self.quantity is Quantity.MEMORY:
            return mine.peak_bytes / base.written_bytes
        return mine.ratio / base.ratio


def render(goals: Sequence[Goal], rows: Sequence[Row]) -> str:
    """A table of the goals that the rows tell of, then why each that is missed is missed."""
    found = [(goal, times) for goal in goals if (times := goal.measured(rows)) is not None]
    if not found:
        return ""
    lines = ["## Goals", "", "| goal | at most | measured | |", "|---|---:|---:|---|"]
    for goal, times in found:
        met = "met" if times <= goal.most else f"missed: {times / goal.most:.2g} times that"
        lines.append(f"| {_what(goal)} | {goal.most:g} x | {times:.2f} x | {met} |")
    missed: dict[str, list[Goal]] = {}  # by why
    for goal, times in found:
        if times > goal.most:
            missed.setdefault(goal.why, []).append(goal)
    if missed:
        lines += ["", "Why they are missed:", ""]
    for why, alike in missed.items():
        lines += [f"- {why}:", *(f"    - {_what(goal)}" for goal in alike)]
    return "\n".join(lines) + "\n"


def _what(goal: Goal) -> str:
    compared = "the bytes of the file" if goal.quantity is Quantity.MEMORY else goal.base
    return f"{goal.task}: {goal.quantity.value} of {goal.contender}, to {compared}"
