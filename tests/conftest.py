"""What the tests share: the samples, tree hashes, and the command line as a user runs it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The command line in a process of its own, as a user runs it."""

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write tests/golden/ anew, to be read"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests of safety counted (`record_property("safety", ...)`)."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "safety":
                terminalreporter.write_line(f"safety: {value}")
