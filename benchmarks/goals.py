"""Goals for the results, and how far a run of the benchmarks meets or misses each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from benchmarks.table import Row


class Quantity(Enum):
    """The limited quantity: wall time, or peak memory per byte that the base writes, or in MB."""

    TIME = "time"
    MEMORY = "memory"
    PEAK = "peak memory"

    @property
    def unit(self) -> str:
        """Return the unit of the limit."""
        return "MB" if self is Quantity.PEAK else "x"


@dataclass(frozen=True)
class Goal:
    """A limit for a contender, mostly for its ratio to another one of the same task.

    Attributes:
        task, contender, base: names in the table; base is None if there is no ratio.
        quantity: the limited quantity.
        most: the largest allowed ratio or number of units.
        why: the reason for the time or memory, printed if the goal is missed.
    """

    task: str
    contender: str
    base: str | None
    quantity: Quantity
    most: float
    why: str

    def measured(self, rows: Sequence[Row]) -> float | None:
        """Return the measured ratio or number of units; None if a contender was not run."""
        found = {row.contender: row for row in rows if row.task == self.task}
        if not {self.contender, self.base or self.contender} <= found.keys():
            return None
        mine = found[self.contender]
        if self.base is None:
            return mine.peak_bytes / 10**6
        base = found[self.base]
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
        unit = goal.quantity.unit
        lines.append(f"| {_what(goal)} | {goal.most:.3g} {unit} | {times:.3g} {unit} | {met} |")
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
    what = f"{goal.task}: {goal.quantity.value} of {goal.contender}"
    if goal.base is None:
        return what
    compared = "the bytes of the file" if goal.quantity is Quantity.MEMORY else goal.base
    return f"{what}, to {compared}"
