"""A Dask cluster of real worker processes, one of which is killed in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import conftest
import pytest
from conftest import MAIN, SAMPLES, Run, checkpoint_of, refused
from distributed import Client, LocalCluster
from forked import ForkServer

SAMPLE = "0.19.0-idle-tp2"
COUNT = 24
# The command line in processes that have imported Dask, too.
CLI = ForkServer("dask", [*conftest.CLI.preload, "ckptmigrate.batch.dask_cluster", "distributed"])
SMALL = (".metadata", "common.pt", "metadata.json")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster, Client(cluster) as client:
        yield client


def fill(made: Path, count: int) -> Path:
    """Make a root of so many copies of a sample."""
    for number in range(1, count + 1):
        shutil.copytree(checkpoint_of(SAMPLES / SAMPLE), made / f"iter_{number:07d}")
    (made / "latest_checkpointed_iteration.txt").write_text(str(count))
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fill(tmp_path / "run", COUNT)


@pytest.fixture
def dask(tmp_path: Path) -> Run:
    return lambda *words: CLI.run([*map(str, words)], main=MAIN, cwd=tmp_path)


def start(client: Client, root: Path, *words: str) -> subprocess.Popen[str]:
    address = client.scheduler.address
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "ckptmigrate", "downgrade", str(root), "--to", "pre-rerun"),
            *("--all", "--scheduler", address, "--ledger", str(root.parent / "ledger"), *words),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(root: Path) -> list[dict[str, Any]]:
    ledger = root.parent / "ledger"
    return [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []


def wait_for_rows(root: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(rows(root)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def small(checkpoint: Path) -> dict[str, bytes | None]:
    return {n: (checkpoint / n).read_bytes() if (checkpoint / n).exists() else None for n in SMALL}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | None]:
    """What the plain verb makes of the sample, in a process of its own and without a cluster."""
    place = tmp_path_factory.mktemp("alone") / "run"
    shutil.copytree(SAMPLES / SAMPLE, place)
    words = ["downgrade", str(place), "--to", "pre-rerun", "--in-place"]
    done = conftest.CLI.run(words, main=MAIN)
    assert done.returncode == 0, done.stderr
    return small(checkpoint_of(place))


@pytest.mark.full
@pytest.mark.parametrize("where", ["in place", "out of place"])
def test_a_worker_is_killed(
    where: str, client: Client, root: Path, expected: dict[str, bytes | None]
) -> None:
    client.wait_for_workers(2, timeout=60)
    victim = next(iter(client.run(os.getpid).values()))
    running = start(client, root, *(["--in-place"] if where == "in place" else []))
    wait_for_rows(root, 3)
    os.kill(victim, signal.SIGKILL)
    told, errors = running.communicate(timeout=120)
    assert running.returncode == 0, (told, errors)
    # Nothing is lost, and nothing was done twice: one row each, one step in each sidecar.
    done = Counter(row["path"] for row in rows(root))
    assert done == {str(root / f"iter_{n:07d}"): 1 for n in range(1, COUNT + 1)}
    assert f"{COUNT} checkpoints: " in told
    made = root if where == "in place" else root.with_name("run.pre-rerun")
    for number in range(1, COUNT + 1):
        checkpoint = made / f"iter_{number:07d}"
        assert small(checkpoint) == expected
        assert len(json.loads((checkpoint / "ckptmigrate.json").read_text())["steps"]) == 1
        assert not (checkpoint / ".ckptmigrate/stage").exists()
        assert not (checkpoint / ".ckptmigrate/lock").is_symlink()
    assert sorted(p.name for p in made.iterdir()) == [
        *(f"iter_{n:07d}" for n in range(1, COUNT + 1)),
        "latest_checkpointed_iteration.txt",
    ]


@pytest.mark.full
def test_interrupted_and_gone_on_with(
    client: Client, root: Path, expected: dict[str, bytes | None]
) -> None:
    client.wait_for_workers(2, timeout=60)
    running = start(client, root, "--in-place")
    wait_for_rows(root, 2)
    running.send_signal(signal.SIGINT)
    told, errors = running.communicate(timeout=60)
    assert running.returncode == 130, (told, errors)
    assert "interrupted after" in errors
    assert "not started" in told
    again = start(client, root, "--in-place")
    told, errors = again.communicate(timeout=120)
    assert again.returncode == 0, (told, errors)
    assert "skipped" in told
    for number in range(1, COUNT + 1):
        assert small(root / f"iter_{number:07d}") == expected


def test_one_that_cannot_be_migrated_stops_no_other(
    client: Client, dask: Run, tmp_path: Path, expected: dict[str, bytes | None]
) -> None:
    root = fill(tmp_path / "run", 6)
    (root / "iter_0000002" / ".metadata").write_bytes(b"no pickle")
    words = ("downgrade", root, "--to", "pre-rerun", "--all", "-o", "out", "--ledger", "ledger")
    result = dask(*words, "--scheduler", client.scheduler.address, "--json")
    assert result.returncode == 1, result.stderr
    shown = json.loads(result.stdout)
    assert shown["summary"]["failed"] == 1
    assert shown["summary"]["done"] == 5
    [failed] = [each for each in shown["checkpoints"] if each["status"] == "failed"]
    assert failed["error"]["kind"] == "DamagedError"
    assert failed["path"] == str(root / "iter_0000002")
    done = [name for name in os.listdir(root) if (tmp_path / "out" / name).is_dir()]
    assert len(done) == 5
    assert all(small(tmp_path / "out" / name) == expected for name in done)
    assert Counter(row["path"] for row in rows(root)) == {
        str(root / f"iter_{n:07d}"): 1 for n in range(1, 7)
    }


@pytest.mark.parametrize(
    "address",
    ["nowhere.json", ":", "::::", "tcp://", "tls://127.0.0.1:1", "ucx://x:1", "inproc://x",
     "http://x:1", "fifo"],
)  # fmt: skip
def test_an_address_that_is_none(address: str, dask: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    result = dask("inspect", SAMPLES / SAMPLE, "--scheduler", address)
    refused(result, f"no Dask scheduler at {address} (", "dask scheduler")


@pytest.mark.parametrize("text", ["{}", "[", '{"address": 5}', '{"address": ":"}'])
def test_a_scheduler_file_that_is_none(text: str, dask: Run, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(text)
    result = dask("inspect", SAMPLES / SAMPLE, "--scheduler", "file.json")
    refused(result, "no Dask scheduler at file.json (", "dask scheduler")


@pytest.mark.full
def test_the_scheduler_is_lost(root: Path, expected: dict[str, bytes | None]) -> None:
    """What is done is written down, and the rest is done by a run without a cluster."""
    file, ledger = root.parent / "scheduler.json", root.parent / "ledger"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    dask += ["--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    one = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file)]
    one += ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "60"]
    common = [sys.executable, "-m", "ckptmigrate", "downgrade", str(root), "--to", "pre-rerun"]
    common += ["--all", "--in-place", "--ledger", str(ledger)]
    quiet = {"stderr": subprocess.DEVNULL}
    with subprocess.Popen(dask, **quiet) as scheduler, subprocess.Popen(one, **quiet) as worker:
        try:
            deadline = time.monotonic() + 60
            while not (file.exists() and file.read_bytes()):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            running = subprocess.Popen(
                [*common, "--scheduler", str(file)], stderr=subprocess.PIPE, text=True
            )
            wait_for_rows(root, 2)
            scheduler.kill()
            _, errors = running.communicate(timeout=60)
        finally:
            scheduler.kill()
            worker.kill()
    assert running.returncode == 1
    assert "the Dask scheduler was lost" in errors
    assert "Traceback" not in errors
    subprocess.run([sys.executable, "-m", "ckptmigrate", "recover", str(root)], check=True)
    again = subprocess.run(common, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "skipped" in again.stdout
    assert all(small(root / f"iter_{n:07d}") == expected for n in range(1, COUNT + 1))
