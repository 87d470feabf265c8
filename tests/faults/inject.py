"""Hit every writing system call of every scenario with every fault, and check the result.

    python tests/faults/inject.py [--every N] [--scenario NAME]

Prints how many points were covered; exit status 1 and each violation where there is one. The points
are found by counting a run that is left alone.
"""

from __future__ import annotations

import argparse
import errno
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from figures import record
from preload import (
    FAIL_FROM_THEN_ON,
    FAIL_ONCE,
    KILL_AFTER,
    KILL_BEFORE,
    RECORD,
    command_line,
    forked,
    in_processes,
    restart_under_shim,
    work_folder,
)
from scenarios import SCENARIOS, Scenario, Snapshot, differences, make, snapshot


@dataclass(frozen=True)
class Fault:
    """What happens at a call."""

    name: str
    how: int
    error: int = 0


FAULTS = (
    Fault("kill -9 before", KILL_BEFORE),
    Fault("kill -9 after", KILL_AFTER),
    Fault("ENOSPC (half of a write gets there)", FAIL_ONCE, errno.ENOSPC),
    Fault("EIO", FAIL_ONCE, errno.EIO),
    Fault("EACCES", FAIL_ONCE, errno.EACCES),
    Fault("EIO from then on", FAIL_FROM_THEN_ON, errno.EIO),
)


class Bench:
    """One scenario, made once and copied for every fault."""

    def __init__(self, scenario: Scenario, work: Path) -> None:
        self.scenario = scenario
        self.template = work / "template"
        self.place = work / "place"  # always the same, as errors and links name it
        self.told = work / "told"
        make(scenario, self.place)
        whole = snapshot(self.place)
        if scenario.cut is not None:
            self._cut(scenario.cut)
        shutil.copytree(self.place, self.template, symlinks=True)
        status, self.points = self._run(scenario.command)
        assert status == 0, (scenario.name, self.told.read_text())
        self.after = snapshot(self.place)
        # What was cut before may be finished or taken back by the command, or be as it was made.
        self.good = [self.after, whole]

    def _cut(self, share: float) -> None:
        cut = self.scenario.cut_command
        shutil.copytree(self.place, self.template, symlinks=True)
        _, points = self._run(cut)
        self._fresh()
        shutil.rmtree(self.template)
        status, _ = self._run(cut, Fault("", KILL_BEFORE), max(1, round(points * share)))
        assert status == -9, (self.scenario.name, self.told.read_text())

    def _fresh(self) -> None:
        shutil.rmtree(self.place)
        shutil.copytree(self.template, self.place, symlinks=True)

    def _run(self, command: str, fault: Fault | None = None, at: int = 0) -> tuple[int, int]:
        arguments = command.format(place=self.place).split()
        how, error = (fault.how, fault.error) if fault else (RECORD, 0)
        return forked(
            lambda: command_line(arguments), self.place, self.told, at=at, how=how, error=error
        )

    def hit(self, at: int, fault: Fault) -> str | None:
        """One fault at one call; what is wrong with what it left, or None."""
        self._fresh()
        status, _ = self._run(self.scenario.command, fault, at)
        said, found = self.told.read_text(), snapshot(self.place)
        if status == 0:
            return None if found == self.after else "status 0, but " + self._off(found)
        if self.scenario.goes_on:
            return self._gone_on(status)
        if status == 1:
            if len(said.splitlines()) != 1 or not said.startswith("ckptmigrate: "):
                return f"no clear sentence: {said!r}"
            if "internal error" in said:
                return said
            if "nothing was changed" in said and found != self.good[1]:
                return f"said {said!r}, but {self._off(found)}"
            if found in self.good:
                return None
            if "ckptmigrate recover" not in said:
                return f"{self._off(found)}, and recover is not named: {said!r}"
        elif status != -9:
            return f"status {status}: {said}"
        if what := self._recover():
            return what
        found = snapshot(self.place)
        return None if found in self.good else f"after recover {self._off(found)}"

    def _gone_on(self, status: int) -> str | None:
        """What is wrong once the same command was run again, or None."""
        if status not in (1, -9) or "internal error" in self.told.read_text():
            return f"status {status}: {self.told.read_text()}"
        if not self.scenario.at_once and (what := self._recover()):
            return what
        status, _ = self._run(self.scenario.command)
        if status:
            return f"{self.scenario.command} fails: {self.told.read_text()}"
        if self.scenario.at_once and (what := self._recover()):  # for one that was published
            return what
        found = snapshot(self.place)
        return None if found == self.after else f"run again {self._off(found)}"

    def _recover(self) -> str | None:
        """What is wrong with `recover`, or None; a destination that never came to be has none."""
        status, _ = self._run(f"recover {self.scenario.recovery}")
        said = self.told.read_text()
        return f"recover fails: {said}" if status and "does not exist" not in said else None

    def _off(self, found: Snapshot) -> str:
        return " / ".join(differences(good, found) for good in self.good)


def cover(scenario: Scenario, every: int) -> tuple[int, int, list[str]]:
    """Every n-th pair of a point and a fault: points, runs, and what is wrong."""
    wrong: list[str] = []
    runs = 0
    with work_folder("faults") as work:
        bench = Bench(scenario, work)
        pairs = [(at, fault) for at in range(1, bench.points + 1) for fault in FAULTS]
        for at, fault in pairs[::every]:
            runs += 1
            if what := bench.hit(at, fault):
                wrong.append(f"{scenario.name}: {fault.name} at call {at}: {what}")
        return bench.points, runs, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="only every N-th of the runs")
    parser.add_argument("--scenario", help="only the one of this name")
    given = parser.parse_args()
    restart_under_shim()
    scenarios = [s for s in SCENARIOS if given.scenario in (None, s.name)]
    points, runs, failed = 0, 0, False
    jobs = [(scenario, given.every) for scenario in scenarios]
    for scenario, (its_points, its_runs, wrong) in zip(
        scenarios, in_processes(cover, jobs), strict=True
    ):
        points, runs, failed = points + its_points, runs + its_runs, failed or bool(wrong)
        print(f"  {scenario.name}: {its_points} points, {its_runs} runs", flush=True)
        print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
        if given.every == 1 and not wrong:
            record("faults", {scenario.name: {"calls": its_points, "runs": its_runs}})
    print(
        f"covered {points} points x {len(FAULTS)} faults in {len(scenarios)} scenarios"
        + (f" (every {given.every}th: {runs} runs)" if given.every > 1 else f": {runs} runs")
    )
    sys.exit(failed)


if __name__ == "__main__":
    main()
