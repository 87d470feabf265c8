"""Many checkpoints in object stores: a real S3 server, cut short, gone on with, as locally."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import conftest
import pytest
from conftest import MAIN, SAMPLES, Run, checkpoint_of, refused
from object_stores import CLI, TRACKER, url, without_time
from s3_server import BUCKET, Bucket, environment, files_of

pytest_plugins = ["store_fixtures"]
JOBS = pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.full)])

SAMPLE = "0.19.0-idle-tp2"
DOWN = ("downgrade", "--to", "pre-rerun")


def name(number: int) -> str:
    return f"iter_{number:07d}"


def fill(bucket: Bucket, root: str, count: int) -> dict[str, bytes]:
    """A root of so many copies of a sample; its files."""
    one = files_of(checkpoint_of(SAMPLES / SAMPLE))
    numbers = range(1, count + 1)
    files = {f"{name(n)}/{file}": content for n in numbers for file, content in one.items()}
    files[TRACKER] = str(count).encode()
    bucket.put_tree(files, root)
    return files


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the plain verb makes of one copy, locally."""
    out = tmp_path_factory.mktemp("alone") / "out"
    done = conftest.CLI.run([*DOWN, str(SAMPLES / SAMPLE), "-o", str(out)], main=MAIN)
    assert done.returncode == 0, done.stderr
    return without_time(files_of(checkpoint_of(out)))


def made(bucket: Bucket, root: str, number: int) -> dict[str, bytes]:
    return without_time(bucket.tree(f"{root}/{name(number)}"))


@JOBS
def test_out_of_place_with_a_ledger_and_again(
    jobs: int, bucket: Bucket, s3: Run, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    source = fill(bucket, "run", 2)
    metadata = source[f"{name(2)}/.metadata"]
    bucket.client.put_object(Bucket=BUCKET, Key=f"run/{name(2)}/.metadata", Body=b"no pickle")
    words = (*DOWN, url("run"), "--all", "-o", url("out"), "--ledger", tmp_path / "ledger",
             "--jobs", jobs)  # fmt: skip
    refused(s3(*words), "1 of 2 checkpoints failed", "resume with")
    assert made(bucket, "out", 1) == expected
    assert made(bucket, "out", 2) == {}
    bucket.client.put_object(Bucket=BUCKET, Key=f"run/{name(2)}/.metadata", Body=metadata)
    told = s3(*words)
    assert told.returncode == 0, told.stderr
    assert [line.split()[0] for line in told.stdout.splitlines()[:2]] == ["skipped", "done"]
    assert all(made(bucket, "out", n) == expected for n in (1, 2))
    assert bucket.get(f"out/{TRACKER}") == b"2"
    assert bucket.tree("run") == source
    assert not [key for key in bucket.names("") if "ckptmigrate-" in key]
    assert "2 checkpoints: 2 skipped" in s3(*words).stdout
    refused(s3(*words[:-4]), "already exists")


def test_the_undo_of_a_new_root_works(bucket: Bucket, s3: Run, port: int) -> None:
    source = fill(bucket, "run", 2)
    told = json.loads(s3(*DOWN, url("run"), "--all", "-o", url("out"), "--json").stdout)
    [undo] = told["undo"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["sh", "-c", undo], env={**os.environ, **environment(port), "PATH": path}, check=True
    )
    assert bucket.tree("out") == {}
    assert bucket.tree("run") == source


@JOBS
def test_in_place_and_back(jobs: int, bucket: Bucket, s3: Run, expected: dict[str, bytes]) -> None:
    source = fill(bucket, "run", 2)
    told = s3(*DOWN, url("run"), "--all", "--in-place", "--jobs", jobs)
    assert told.returncode == 0, told.stderr
    assert "2 checkpoints: 2 done" in told.stdout
    assert all(made(bucket, "run", n) == expected for n in (1, 2))
    told = s3("undo", url("run"), "--all", "--jobs", jobs)
    assert told.returncode == 0, told.stderr
    assert bucket.tree("run") == source


def test_several_urls_and_a_directory(bucket: Bucket, s3: Run, tmp_path: Path) -> None:
    fill(bucket, "a", 1)
    fill(bucket, "b", 2)
    paths = (url("a"), url("b"), SAMPLES / SAMPLE)
    for verb in (("inspect",), ("check", "--reader", "0.19")):
        told = s3(*verb, *paths)
        assert told.returncode == 0, (told.stdout, told.stderr)
        assert "3 checkpoints: 3 ok" in told.stdout
        assert url(f"b/{name(2)}") in told.stdout
    told = s3(*DOWN, *paths, "-o", url("new"))
    assert told.returncode == 0, told.stderr
    roots = {key.split("/")[0] for key in bucket.tree("new")}
    assert roots == {"a", "b", SAMPLE}
    assert bucket.get(f"new/b/{TRACKER}") == b"2"


def test_from_here_to_a_store_and_back(
    bucket: Bucket, s3: Run, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    source = fill(bucket, "start", 2)
    for key, content in source.items():
        file = tmp_path / "run" / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    words = (*DOWN, tmp_path / "run", "--all", "-o", url("up"), "--ledger", tmp_path / "ledger")
    assert s3(*words, "--jobs", 2).returncode == 0
    assert all(made(bucket, "up", n) == expected for n in (1, 2))
    assert "2 checkpoints: 2 skipped" in s3(*words).stdout
    up = ("upgrade", "--to", "common-state", url("up"), "--all", "-o", tmp_path / "down")
    told = s3(*up)
    assert told.returncode == 0, told.stderr
    assert s3("diff", tmp_path / "run", tmp_path / "down").returncode == 0
    assert (tmp_path / "down" / TRACKER).read_text() == "2"


def test_killed_between_checkpoints_and_gone_on_with(
    bucket: Bucket, s3: Run, port: int, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """Of a run that is killed at any time what is there is whole, and what is not comes."""
    count = 4
    source = fill(bucket, "run", count)
    ledger = tmp_path / "ledger"
    words = (*DOWN, url("run"), "--all", "-o", url("out"), "--ledger", str(ledger))
    for wanted in (1, 2):
        with ThreadPoolExecutor() as pool:
            child: list[int] = []
            there = {**os.environ, **environment(port)}
            running = pool.submit(CLI.run, words, main=MAIN, env=there, started=child.append)
            while not ledger.exists() or ledger.read_text().count("\n") < wanted:
                assert not running.done()
                time.sleep(0.005)
            os.kill(child[0], signal.SIGKILL)
            assert running.result().returncode == -signal.SIGKILL
        marked = [
            n for n in range(1, count + 1) if f"{name(n)}/metadata.json" in bucket.names("out")
        ]
        assert wanted <= len(marked) < count
        assert all(made(bucket, "out", n) == expected for n in marked)
        assert TRACKER not in bucket.names("out")
    time.sleep(1)  # a request that was on its way when the client died
    told = s3(*words)
    assert told.returncode == 0, told.stdout + told.stderr
    assert all(made(bucket, "out", n) == expected for n in range(1, count + 1))
    assert bucket.get(f"out/{TRACKER}") == str(count).encode()
    assert bucket.tree("run") == source
    assert not [key for key in bucket.names("") if "ckptmigrate-" in key]


def test_what_is_there_and_is_something_else_stays(bucket: Bucket, s3: Run, tmp_path: Path) -> None:
    fill(bucket, "run", 2)
    bucket.client.put_object(Bucket=BUCKET, Key=f"out/{name(1)}/note", Body=b"mine")
    words = (*DOWN, url("run"), "--all", "-o", url("out"), "--ledger", tmp_path / "ledger")
    told = s3(*words)
    refused(told, "1 of 2 checkpoints failed")
    assert "already exists" in told.stdout
    assert bucket.tree(f"out/{name(1)}") == {"note": b"mine"}
    bucket.client.put_object(Bucket=BUCKET, Key="out/stray", Body=b"mine")
    refused(s3(*words), "holds stray, which does not come from")


def test_a_report_of_a_batch_in_a_store(bucket: Bucket, s3: Run, tmp_path: Path) -> None:
    fill(bucket, "run", 2)
    told = s3(*DOWN, url("run"), "--all", "-o", url("out"), "--report", tmp_path / "r.json")
    assert told.returncode == 0, told.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert [each["result"] for each in report["each"]] == [url(f"out/{name(n)}") for n in (1, 2)]
    assert report["paths"] == [url("run")]
