"""Cut the power at every moment of every scenario, on a disk that loses what was not synced.

    python tests/faults/crash.py [--every N] [--scenario NAME] [--without-sync N ...]

A run is recorded below Python. After each call, every state that the disk may then have (disk.py)
is written as a real tree, checked as a reader sees it, and given to `recover`; a command that
resumes is then run again, and has to finish. Prints the number of states that were checked; on
violations prints each and exits with status 1. --without-sync omits the N-th sync from the record,
as if the program did not do it, and stops at its first violation; it may be given several times.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from disk import Disk, State, parse
from figures import record
from preload import (
    KILL_BEFORE,
    command_line,
    forked,
    in_processes,
    restart_under_shim,
    work_folder,
)
from scenarios import LONG_AGO, SCENARIOS, Scenario, Snapshot, differences, make, snapshot

from ckptmigrate.checkpoint.trackers import TRACKER_FILE
from ckptmigrate.errors import CkptMigrateError, NotACheckpointError
from ckptmigrate.verbs import recover

_MOST = 1024  # states after one call; more are sampled, always the same ones


class Recorded:
    """One scenario: the tree before, the calls of its command, and the tree after."""

    def __init__(self, scenario: Scenario, work: Path) -> None:
        self.scenario = scenario
        self.place = work / "place"
        self.kept = work / "kept"  # a file per content, linked into the trees laid out
        self.kept.mkdir()
        self.told, record = work / "told", work / "record"
        make(scenario, self.place)
        self.good = [snapshot(self.place)]
        if scenario.cut is not None:
            points = self._run(scenario.cut_command)
            shutil.rmtree(self.place)
            make(scenario, self.place)
            at = max(1, round(points * scenario.cut))
            self._run(scenario.cut_command, at=at, how=KILL_BEFORE)
        self.disk = Disk(self.place)
        with record.open("wb") as log:
            self._run(scenario.command, log=log.fileno())
        self.calls = parse(record.read_bytes())
        self.after = snapshot(self.place)
        self.good.append(self.after)

    def _run(self, command: str, **fault: int) -> int:
        status, points = self._ended(command, **fault)
        assert status == (-9 if "at" in fault else 0), (self.scenario.name, self.told.read_text())
        return points

    def _ended(self, command: str, **fault: int) -> tuple[int, int]:
        arguments = command.format(place=self.place).split()
        return forked(lambda: command_line(arguments), self.place, self.told, **fault)

    @property
    def syncs(self) -> list[int]:
        """The calls that put something on disk."""
        return [number for number, call in enumerate(self.calls) if call.name == "fsync"]

    def states(self, skip: int | None) -> Iterator[tuple[int, State, bool]]:
        """(how many calls were made, a state, whether it is one of a sample only)."""
        seen: set[tuple[object, ...]] = set()
        for number in range(len(self.calls) + 1):
            last = number == len(self.calls)
            for state, sampled in self.disk.states(_MOST):
                key = (last, *((p, k, m, hash(c), o) for p, (k, m, c, o) in state.items()))
                if key not in seen:
                    seen.add(key)
                    yield number, state, sampled
            if not last and number != skip:
                self.disk.apply(self.calls[number])

    def wrong(self, number: int, state: State) -> str | None:
        """What is wrong with a state, before or after recovery; None if nothing is."""
        self._lay_out(state)
        if what := self._seen_by_reader():
            return what
        try:
            recover.recover(Path(self.scenario.recovery.format(place=self.place)))
        except NotACheckpointError:
            pass  # nothing is there, nor left of it; whether that is right is told below
        except CkptMigrateError as error:
            return f"recover fails: {error}"
        if self.scenario.goes_on:
            return self._seen_by_reader() or self._gone_on()
        found = snapshot(self.place)
        # Once the command has said that it is done, it is done.
        good = [self.after] if number == len(self.calls) else self.good
        if found in good:
            return None
        return "after recover " + " / ".join(differences(each, found) for each in good)

    def _gone_on(self) -> str | None:
        """What is wrong once the same command was run again, or None."""
        status, _ = self._ended(self.scenario.command)
        if status:
            return f"run again it ends with {status}: {self.told.read_text()}"
        found = snapshot(self.place)
        return None if found == self.after else f"run again {differences(self.after, found)}"

    def _lay_out(self, state: State) -> None:
        shutil.rmtree(self.place)
        self.place.mkdir()
        for name, (kind, mode, content, old) in state.items():
            path = self.place / name
            if kind == "directory":
                path.mkdir()
            elif kind == "link":
                path.symlink_to(content.decode())
            else:
                long_ago = old and path.suffix == ".distcp"
                digest = hashlib.sha256(content).hexdigest()
                kept = self.kept / f"{digest}-{mode:o}-{long_ago}"
                if not kept.exists():
                    kept.write_bytes(content)
                    kept.chmod(mode)
                    if long_ago:
                        os.utime(kept, ns=(LONG_AGO, LONG_AGO))
                os.link(kept, path)

    def _seen_by_reader(self) -> str | None:
        """Whoever finds metadata.json finds a whole checkpoint, of before or of after."""
        for marker in sorted(self.place.glob("*/*/metadata.json")):
            checkpoint = marker.parent
            shown = _shown(snapshot(self.place), checkpoint.relative_to(self.place))
            whole = [_shown(good, checkpoint.relative_to(self.place)) for good in self.good]
            staged = any(name.startswith(".") for name in (checkpoint.parent.name, checkpoint.name))
            if staged:  # which no reader looks at
                continue
            if shown not in whole:
                return "a reader sees " + " / ".join(differences(w, shown) for w in whole)
        return self._led_astray()

    def _led_astray(self) -> str | None:
        """A root that was not there before has no tracker file that leads to no checkpoint."""
        for tracker in sorted(self.place.glob(f"*/{TRACKER_FILE}")):
            root = tracker.parent
            known = root.name.startswith(".") or f"{root.name}/{TRACKER_FILE}" in self.good[0]
            text = tracker.read_text()
            if known or (text.isdigit() and (root / f"iter_{int(text):07d}").is_dir()):
                continue
            return f"a reader sees a tracker file that leads nowhere: {text!r}"
        return None


def _shown(tree: Snapshot, checkpoint: Path) -> Snapshot:
    """What a reader looks at in a checkpoint: all but what is ckptmigrate's own."""
    prefix = f"{checkpoint}/"
    return {
        name: value
        for name, value in tree.items()
        if name.startswith(prefix)
        and not name.removeprefix(prefix).startswith((".ckptmigrate", "ckptmigrate.json"))
    }


Figures = dict[str, int]


def check(scenario: Scenario, every: int, without: int | None) -> tuple[Figures, list[str]]:
    """Check every n-th state.

    Returns:
        The number of calls, of those that sync, of states checked and of moments that were sampled,
        and violations.
    """
    with work_folder("crash") as work:
        recorded = Recorded(scenario, work)
        skip = None if without is None else recorded.syncs[without]
        states, sampled, wrong = 0, set(), []
        found = (each for each in recorded.states(skip) if skip is None or each[0] > skip)
        for number, (moment, state, is_sample) in enumerate(found):
            sampled |= {moment} if is_sample else set()
            if number % every:
                continue
            states += 1
            if what := recorded.wrong(moment, state):
                last = recorded.calls[moment - 1] if moment else None
                place = f"after call {moment} ({last.name} {last.path})" if last else "at first"
                name = scenario.name + (f" without sync {without}" if without is not None else "")
                wrong.append(f"{name}: {place}: {what}")
                if without is not None:
                    break
        figures = {
            "calls": len(recorded.calls),
            "syncs": len(recorded.syncs),
            "states": states,
            "sampled": len(sampled),
        }
        return figures, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="only every N-th of the states")
    parser.add_argument("--scenario", help="only the one of this name")
    parser.add_argument(
        "--without-sync", type=int, action="append", help="omit the N-th sync, from 0"
    )
    given = parser.parse_args()
    restart_under_shim()
    scenarios = [s for s in SCENARIOS if given.scenario in (None, s.name)]
    jobs = [(s, given.every, sync) for s in scenarios for sync in given.without_sync or [None]]
    total, failed = Counter[str](), False
    for (scenario, *_), (figures, wrong) in zip(jobs, in_processes(check, jobs), strict=True):
        total.update(figures)
        failed |= bool(wrong)
        print(
            f"  {scenario.name}: {figures['calls']} calls, {figures['states']} states", flush=True
        )
        print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
        if given.every == 1 and given.without_sync is None and not wrong:
            record("crash states", {scenario.name: figures})
    print(
        f"checked {total['states']} crash states after {total['calls']} calls in "
        f"{len(scenarios)} scenarios ({total['sampled']} moments have more than {_MOST} "
        "combinations and are sampled)"
    )
    sys.exit(failed)


if __name__ == "__main__":
    main()
