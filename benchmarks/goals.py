"""Goals for the results, and how far a run of the benchmarks meets or misses each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from benchmarks.table import Row


class Quantity(Enum):
    """The compared quantity: wall time, or peak memory per byte that the base writes."""

    TIME = "time"
    MEMORY = "memory"


@dataclass(frozen=True)
class Goal:
    """A limit for the ratio of a contender to another one of the same task.

    Attributes:
        task, contender, base: names in the table.
        quantity: the compared quantity.
        most: the largest allowed ratio.
        why: the reason for the time or memory, printed if the goal is missed.
    """

    task: str
    contender: str
    base: str
    quantity: Quantity
    most: float
    why: str

    def measured(self, rows: Sequence[Row]) -> float | None:
        """Return the measured ratio; None if one of the two was not run."""
        found = {row.contender: row for row in rows if row.task == self.task}
        if self.contender not in found or self.base not in found:
            return None
        mine, base = found[self.contender], found[self.base]
        if self.quantity is Quantity.MEMORY:
            return mine.peak_bytes / base.written_bytes
        return mine.ratio / base.ratio


def render(goals: Sequence[Goal], rows: Sequence[Row]) -> str:
    """Return a table of the goals that have results, then the reasons of missed goals."""
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
