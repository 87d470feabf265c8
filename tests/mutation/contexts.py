"""Find out which tests execute which lines of the core packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from points import PACKAGES, Mutant, import_lines, imported_modules

HOOKS = Path(__file__).resolve().parent / "hooks"


def environment(repository: Path, log: Path, **more: str) -> dict[str, str]:
    """Return the environment in which a repository's package and the plugin are imported."""
    path = [str(repository), str(HOOKS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "MUTATION_LOG": str(log), **more}


def pytest_command(*arguments: str) -> list[str]:
    """Return the command line of pytest with the plugin."""
    return [sys.executable, "-m", "pytest", "-q", "-p", "mutation_plugin", "-p",
            "no:cacheprovider", "--hypothesis-seed=0", *arguments]  # fmt: skip


def logged(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries that the plugin wrote."""
    for path in log.glob("tests-*.jsonl"):
        yield from map(json.loads, path.read_text().splitlines())


@dataclass(frozen=True)
class Contexts:
    """Tests and the lines that they execute.

    Attributes:
        seconds: CPU time of each test that passes.
        lines: file -> line -> a bit mask of the tests, by their place in `seconds`.
    """

    seconds: dict[str, float]
    lines: dict[str, dict[int, int]]

    def dump(self) -> str:
        """Return it as JSON; bit masks are hexadecimal."""
        lines = {
            file: {k: hex(v) for k, v in sorted(of.items())} for file, of in self.lines.items()
        }
        return json.dumps({"seconds": self.seconds, "lines": lines}, indent=1)

    @classmethod
    def load(cls, path: Path) -> Contexts:
        """Read what `dump` returned."""
        found = json.loads(path.read_text())
        return cls(found["seconds"], {
            file: {int(k): int(v, 16) for k, v in of.items()} for file, of in found["lines"].items()
        })  # fmt: skip

    def reaching(self, mutant: Mutant) -> list[str]:
        """Return the tests that execute a mutant, in the order in which to run them.

        Short tests go first, but each further case of a parametrized test counts as longer, as it
        rarely finds what the others do not.
        """
        of = self.lines.get(mutant.file, {})
        mask = 0
        for first, last in (mutant.lines, mutant.statement):
            for line in range(first, last + 1):
                mask |= of.get(line, 0)
            if mask:
                break
        cases: Counter[str] = Counter()
        ranked = []
        for number, (test, seconds) in enumerate(self.seconds.items()):
            if mask >> number & 1:
                ranked.append((seconds, test))
        costs = []
        for seconds, test in sorted(ranked):
            name = test.partition("[")[0]
            cases[name] += 1
            costs.append((seconds * cases[name], test))
        return [test for _, test in sorted(costs)]


def record(repository: Path, arguments: Sequence[str]) -> Contexts:
    """Run the tests once and record the lines that each executes.

    Raises:
        SystemExit: no test ran.
    """
    sources = os.pathsep.join(str(repository / "ckptmigrate" / each) for each in PACKAGES)
    with tempfile.TemporaryDirectory() as temporary:
        log = Path(temporary)
        log.chmod(0o1777)  # tests start processes of other users
        recorded = {"MUTATION_RECORD": temporary, "MUTATION_SOURCES": sources}
        subprocess.run(
            pytest_command("--dist", "load", *arguments),
            cwd=repository,
            env=environment(repository, log, **recorded, COVERAGE_CORE="ctrace"),
            check=False,
        )
        entries = list(logged(log))
        failed = {each["failed"] for each in entries if "failed" in each}
        failed = {test for test in failed if "::" in test} & _failing(repository, failed)
        seconds = {e["end"]: e["seconds"] for e in entries if "end" in e and e["end"] not in failed}
        if not seconds:
            raise SystemExit("error: no test ran")
        shared = defaultdict(list)
        for entry in entries:
            for name in entry.get("fixtures", ()):
                shared[name].append(entry["start"])
        return Contexts(seconds, _lines(repository, log, seconds, shared))


def _failing(repository: Path, failed: set[str]) -> set[str]:
    """Return the tests that fail without recording, too."""
    if not failed:
        return set()
    with tempfile.TemporaryDirectory() as temporary:
        log = Path(temporary)
        chosen = log / "chosen"
        chosen.write_text("\n".join(sorted(failed)))
        command = pytest_command("-n", "0", f"@{chosen}")
        subprocess.run(command, cwd=repository, env=environment(repository, log), check=False)
        return {each["failed"] for each in logged(log) if "failed" in each}


def _lines(
    repository: Path, log: Path, tests: dict[str, float], shared: dict[str, list[str]]
) -> dict[str, dict[int, int]]:
    numbers = {test: number for number, test in enumerate(tests)}
    masks = {test: 1 << number for test, number in numbers.items()}
    for name, users in shared.items():
        masks[name] = sum(1 << numbers[test] for test in set(users) if test in numbers)
    found: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for path in log.glob("lines-*.json"):
        for test, files in json.loads(path.read_text()).items():
            for file, lines in files.items():
                of = found[str(Path(file).relative_to(repository))]
                for line in lines:
                    of[line] |= masks.get(test, 0)
    # A module is imported once in a process: all tests that use it depend on what that executes.
    sources = {file: (repository / file).read_bytes() for file in found}
    users_of: dict[str, int] = defaultdict(int)
    for file, of in found.items():
        mask = 0
        for each in of.values():
            mask |= each
        for used in {file} | imported_modules(sources[file]):
            users_of[used] |= mask
    for file, source in sources.items():
        for line in import_lines(source) & found[file].keys():
            found[file][line] |= users_of[file]
    return found
