"""What the tests share: the samples, tree hashes, and the command line as a user runs it."""

from __future__ import annotations

import hashlib
import json
import os
import pkgutil
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forked
import pytest

import ckptmigrate

SAMPLES = Path(__file__).parent / "samples"
# What a shell starts in its background ignores these, and so would everything that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
INDEX: dict[str, dict[str, Any]] = json.loads((SAMPLES / "index.json").read_text())
NAMES = sorted(INDEX)
CORRUPT = "0.17.1-corrupt-tp2"
HEALTHY = [name for name in NAMES if name != CORRUPT]
LAYOUTS = (
    "pre-rerun",
    "sharded-rerun",
    "split-rerun",
    "none-emitting",
    "always-sentinel",
    "common-state",
)


def tree_hash(path: Path) -> str:
    """One digest over every name, link target and byte below a directory."""
    digest = hashlib.sha256()
    for item in sorted(path.rglob("*")):
        digest.update(os.fsencode(item.relative_to(path)) + b"\0")
        if item.is_symlink():
            digest.update(os.readlink(item).encode())
        elif item.is_file():
            digest.update(hashlib.sha256(item.read_bytes()).digest())
    return digest.hexdigest()


def checkpoint_of(root: Path) -> Path:
    """The checkpoint that a root's tracker names."""
    named = (root / "latest_checkpointed_iteration.txt").read_text()
    return root / (named if named == "release" else f"iter_{int(named):07d}")


@pytest.fixture(scope="session", autouse=True)
def samples_stay_as_they_are() -> Iterator[None]:
    """No test changes a sample, whatever else it does: the sacred source."""
    before = tree_hash(SAMPLES)
    yield
    assert tree_hash(SAMPLES) == before


@pytest.fixture(autouse=True)
def named_samples_stay_as_they_are(request: pytest.FixtureRequest) -> Iterator[None]:
    """The same around each test that is given samples by name, to tell which one it was."""
    params = getattr(getattr(request.node, "callspec", None), "params", {})
    named = [SAMPLES / v for v in params.values() if isinstance(v, str) and v in INDEX]
    before = [tree_hash(path) for path in named]
    yield
    assert [tree_hash(path) for path in named] == before


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[str], Path]:
    """A writable copy of a sample, by name, that a test may damage."""

    def make(name: str) -> Path:
        target = tmp_path / name
        shutil.copytree(SAMPLES / name, target)
        return target

    return make


# What needs an extra or a real release is imported where it is used.
_WITH_EXTRAS = (
    "ckptmigrate.measuring.",
    "ckptmigrate.batch.dask_cluster",
    "ckptmigrate.__main__",
)
_ON_FIRST_USE = ("encodings.ascii", "packaging.specifiers", "packaging.version", "pwd")
CLI = forked.ForkServer(
    "cli",
    [
        *(
            module.name
            for module in pkgutil.walk_packages(ckptmigrate.__path__, "ckptmigrate.")
            if not module.name.startswith(_WITH_EXTRAS)
        ),
        *_ON_FIRST_USE,
    ],
)
MAIN = "ckptmigrate.__main__:main"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The command line in a fork of its own, with what a user types as arguments."""

    def call(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return CLI.run(
            [*map(str, arguments)], main=MAIN, cwd=tmp_path, env={**os.environ, **environment}
        )

    return call


@pytest.fixture
def start(tmp_path: Path) -> Run:
    """The command line in a process that Python starts, where the start is what is tested."""

    def call(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ckptmigrate", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return call


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """A run that failed as it should: status 1, one sentence, nothing else."""
    assert result.returncode == 1, (result.stdout, result.stderr)
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: only `make test-full` runs it")
    config.addinivalue_line("markers", "costly(reason): why it may take more than 5 s of CPU")
    if not hasattr(config, "workerinput"):
        os.environ["CKPTMIGRATE_TEST_RUN"] = str(os.getpid())


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(forked.folder(), ignore_errors=True)


def _seconds() -> float:
    """CPU of this process and of all that it waited for."""
    ours, others = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return sum(usage.ru_utime + usage.ru_stime for usage in (ours, others)) + forked.spent


_START = pytest.StashKey[tuple[float, float]]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_START] = _seconds(), forked.shared


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Note what CPU a test took, fixtures included, and why it may."""
    if call.when == "teardown":
        reasons = [marker.args[0] for marker in item.iter_markers("costly")]
        seconds, shared = item.stash[_START]
        cpu = _seconds() - seconds, forked.shared - shared, reasons
        item.user_properties.append(("cpu", cpu))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write tests/golden/ anew, to be read"
    )
    parser.addoption(
        "--costly", type=float, default=5.0, help="the CPU seconds from which a test needs a reason"
    )


def pytest_xdist_auto_num_workers() -> int:
    """Return the workers of `-n auto`: more than cores, as a third of the time tests only wait."""
    return min(2 * len(os.sched_getaffinity(0)), 16)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests of safety counted (`record_property("safety", ...)`), and the CPU."""
    write = terminalreporter.write_line
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "safety":
                write(f"safety: {value}")
    found = [
        (*value, report.nodeid)
        for report in terminalreporter.getreports("")
        for name, value in report.user_properties
        if name == "cpu"
    ]
    write(
        f"{sum(seconds for seconds, *_ in found):.0f} s of CPU in tests, "
        f"{sum(shared for _, shared, *_ in found):.0f} s to start the processes that they share"
    )
    limit = terminalreporter.config.getoption("--costly")
    for seconds, _, reasons, name in sorted(found, reverse=True):
        if seconds > limit and not reasons:
            write(f"{seconds:.1f} s of CPU and no reason: {name}")
