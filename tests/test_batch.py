"""Many checkpoints: in one process and in several, cut short, gone on with, in parts."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import golden
import pytest
from conftest import CLI, MAIN, SAMPLES, Run, checkpoint_of, refused, tree_hash

from ckptmigrate import RefusedError
from ckptmigrate.batch import shard
from ckptmigrate.batch.executors import Stop
from ckptmigrate.batch.processes import Processes
from ckptmigrate.batch.tasks import Task
from ckptmigrate.verbs.inspect import InspectRequest

SAMPLE = "0.19.0-idle-tp2"
TRACKER = "latest_checkpointed_iteration.txt"
SMALL = (".metadata", "common.pt", "metadata.json")
DOWN = ("downgrade", "--to", "pre-rerun")
Make = Callable[..., Path]


def name(number: int) -> str:
    return f"iter_{number:07d}"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A root of so many copies of a sample."""

    def call(root: str, count: int, sample: str = SAMPLE) -> Path:
        for number in range(1, count + 1):
            shutil.copytree(checkpoint_of(SAMPLES / sample), tmp_path / root / name(number))
        (tmp_path / root / TRACKER).write_text(str(count))
        return tmp_path / root

    return call


def small(checkpoint: Path) -> dict[str, bytes | None]:
    return {n: (checkpoint / n).read_bytes() if (checkpoint / n).exists() else None for n in SMALL}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | None]:
    """What the plain verb makes of one copy, in a process of its own."""
    place = tmp_path_factory.mktemp("alone") / "run"
    shutil.copytree(SAMPLES / SAMPLE, place)
    done = CLI.run([*DOWN, str(place), "--in-place"], main=MAIN)
    assert done.returncode == 0, done.stderr
    return small(checkpoint_of(place))


def rows(ledger: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []


def wait_for_rows(ledger: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(rows(ledger)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def start(tmp_path: Path, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ckptmigrate", *map(str, words)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


# -- one bad checkpoint stops no other


@pytest.mark.parametrize("jobs", [1, 2])
def test_in_place(jobs: int, make: Make, run: Run, expected: dict[str, bytes | None]) -> None:
    root = make("run", 4)
    (root / name(2) / ".metadata").write_bytes(b"no pickle")
    bad = tree_hash(root / name(2))
    result = run(*DOWN, root, "--all", "--in-place", "--jobs", jobs)
    refused(result, "1 of 4 checkpoints failed", name(2), "--ledger")
    assert tree_hash(root / name(2)) == bad
    assert [small(root / name(n)) == expected for n in (1, 2, 3, 4)] == [True, False, True, True]
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["done", "failed", "done", "done"]
    assert lines[4].startswith("4 checkpoints: 3 done, 1 failed, in ")


@pytest.mark.parametrize("jobs", [1, 2])
def test_out_of_place_into_one_root(
    jobs: int, make: Make, run: Run, expected: dict[str, bytes | None]
) -> None:
    root = make("run", 3)
    before = tree_hash(root)
    result = run(*DOWN, root, "--all", "-o", "out", "--jobs", jobs)
    assert result.returncode == 0, result.stderr
    out = root.with_name("out")
    assert sorted(p.name for p in out.iterdir()) == [name(1), name(2), name(3), TRACKER]
    assert (out / TRACKER).read_text() == "3"
    assert all(small(out / name(n)) == expected for n in (1, 2, 3))
    assert tree_hash(root) == before
    assert f"run the job with --load {out}" in result.stdout
    again = run(*DOWN, root, "--all", "-o", "out", "--jobs", jobs)
    refused(again, "already exists")


def test_no_tracker_before_its_iteration(make: Make, run: Run, tmp_path: Path) -> None:
    root = make("run", 3)
    metadata = (root / name(3) / ".metadata").read_bytes()
    (root / name(3) / ".metadata").write_bytes(b"no pickle")
    words = (*DOWN, root, "--all", "-o", "out", "--ledger", "ledger")
    result = run(*words)
    refused(result, "1 of 3 checkpoints failed")
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == [name(1), name(2)]
    assert "has no tracker file yet" in result.stdout
    (root / name(3) / ".metadata").write_bytes(metadata)
    inodes = [(out / name(n) / ".metadata").stat().st_ino for n in (1, 2)]
    result = run(*words)
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[:3]] == [
        *("skipped", "skipped", "done")
    ]
    assert (out / TRACKER).read_text() == "3"
    assert [(out / name(n) / ".metadata").stat().st_ino for n in (1, 2)] == inodes


def test_a_release_that_resumes_as_it_is(make: Make, run: Run, tmp_path: Path) -> None:
    """Nothing is written where that is true of all; the root that -o names always is."""
    root = make("run", 2, "0.16.1-idle-w1")
    words = ("downgrade", root, "--to", "0.13", "--all", "-o", "out")
    result = run(*words[:-2])
    assert result.returncode == 0, result.stderr
    assert "2 checkpoints: 2 unchanged" in result.stdout
    assert not root.with_name("run.0.13").exists()
    assert run(*words[:-1], "whole").returncode == 0
    for nth in (1, 2):
        assert small(tmp_path / "whole" / name(nth)) == small(root / name(nth))
    shutil.rmtree(root / name(1))
    shutil.copytree(checkpoint_of(SAMPLES / "0.19.0-idle-w1"), root / name(1))
    result = run(*words, "--ledger", "ledger")
    assert result.returncode == 0, result.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [name(1), name(2), TRACKER]
    kept = tmp_path / "out" / name(2)
    assert small(kept) == small(root / name(2))
    assert "2 checkpoints: 2 skipped" in run(*words, "--ledger", "ledger").stdout


# -- several PATHs


def test_globs_and_names(make: Make, run: Run, tmp_path: Path) -> None:
    make("runs/a", 2)
    make("runs/b", 1)
    (tmp_path / "runs" / "note.txt").write_text("no checkpoint")
    result = run(*DOWN, "runs/*", "nowhere", "-o", "new", "--json")
    assert result.returncode == 1
    shown = json.loads(result.stdout)
    assert shown["summary"]["done"] == 2
    assert shown["summary"]["failed"] == 1
    [failed] = [each for each in shown["checkpoints"] if each["status"] == "failed"]
    assert failed["error"]["kind"] == "NotACheckpointError"
    assert {root["path"]: root["tracker"] for root in shown["roots"]} == {
        str(tmp_path / "new" / "a"): "2",
        str(tmp_path / "new" / "b"): "1",
    }
    make("others/a", 1)
    clash = run(*DOWN, "runs/a", "others/a", "-o", "clash")
    refused(clash, "would become the new root of 2 PATHs")
    assert not (tmp_path / "clash").exists()
    refused(run("inspect", "runs/x*", "--jobs", 2), "runs/x*: matches no directory")


def test_a_glob_used_again_matches_no_results(make: Make, run: Run, tmp_path: Path) -> None:
    make("runs/a", 1)
    words = (*DOWN, "runs/*", "--ledger", "ledger")
    assert run(*words).returncode == 0
    result = run(*words)
    assert result.returncode == 0, result.stderr
    assert "1 checkpoint: 1 skipped" in result.stdout
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["a", "a.pre-rerun"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_other_verbs(jobs: int, make: Make, run: Run, tmp_path: Path) -> None:
    make("a", 2)
    shutil.copytree(SAMPLES / "0.17.1-corrupt-tp2", tmp_path / "b")
    before = tree_hash(tmp_path / "a")
    inspected = run("inspect", "a", "b", "--all", "-j", jobs)
    assert inspected.returncode == 1
    assert [line.split()[0] for line in inspected.stdout.splitlines()[:4]] == [
        *("ok", "ok", "ok", "problems")
    ]
    verified = json.loads(run("verify", "a", "b", "--all", "-j", jobs, "--json").stdout)
    assert verified["summary"]["problems"] == 1
    assert [each["path"] for each in verified["checkpoints"]] == [
        *(str(tmp_path / "a" / name(1)), str(tmp_path / "a" / name(2))),
        *(str(tmp_path / "b" / name(4)), str(tmp_path / "b" / name(5))),
    ]
    checked = run("check", "a", "--all", "--reader", "0.19", "-j", jobs)
    assert checked.returncode == 0, checked.stdout
    assert tree_hash(tmp_path / "a") == before
    repaired = run("repair", "a", "b", "--all", "--in-place", "-j", jobs)
    assert repaired.returncode == 0, repaired.stderr
    assert run("verify", "b", "--all", "-j", jobs).returncode == 0
    assert run(*DOWN, "a", "--all", "--in-place", "-j", jobs).returncode == 0
    assert tree_hash(tmp_path / "a") != before
    assert run("undo", "a", "--all", "-j", jobs).returncode == 0
    assert tree_hash(tmp_path / "a") == before


@pytest.mark.parametrize(
    "words",
    ["inspect", "check --reader 0.19", "verify", "upgrade", "downgrade --to pre-rerun --in-place",
     "repair"],
)  # fmt: skip
def test_all_of_a_checkpoint_is_itself(words: str, make: Make, run: Run, tmp_path: Path) -> None:
    checkpoint = make("run", 2) / name(1)
    result = run(*words.split(), checkpoint, "--all")
    assert result.returncode == 0, result.stderr
    assert str(checkpoint) in result.stdout
    assert name(2) not in result.stdout
    changed = "--in-place" in words
    assert (checkpoint / "ckptmigrate.json").exists() == changed
    assert run("undo", checkpoint, "--all").returncode == (0 if changed else 1)
    assert not (checkpoint.with_name(name(2)) / "ckptmigrate.json").exists()


def test_inspect_all_goes_on(make: Make, run: Run) -> None:
    root = make("run", 3)
    (root / name(2) / ".metadata").write_bytes(b"no pickle")
    result = run("inspect", root, "--all", "--json")
    assert result.returncode == 1
    first, second, third = json.loads(result.stdout)
    assert (first["iteration"], third["iteration"]) == (5, 5)
    assert second["error"]["kind"] == "DamagedError"
    assert (
        f"{root / name(3)}: Megatron-Core 0.19, iteration 5, rerun state idle"
        in run("inspect", root, "--all").stdout
    )


# -- the ledger


def test_the_ledger_is_believed_while_the_digests_match(make: Make, run: Run) -> None:
    root = make("run", 3)
    words = (*DOWN, root, "--all", "--in-place", "--ledger", "ledger")
    assert run(*words).returncode == 0
    [first, second, third] = rows(root.with_name("ledger"))
    assert first["path"] == str(root / name(1))
    assert first["status"] == "done"
    assert first["target"] == "pre-rerun"
    assert first["seconds"] > 0
    # One is brought back, one line is torn, one is of another target.
    shutil.rmtree(root / name(1))
    shutil.copytree(checkpoint_of(SAMPLES / SAMPLE), root / name(1))
    third["target"] = "none-emitting"
    torn = json.dumps(second)[:50]
    (root.with_name("ledger")).write_text(f"{json.dumps(first)}\n{json.dumps(third)}\n{torn}")
    result = run(*words)
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[:3]] == [
        *("done", "unchanged", "unchanged")
    ]
    assert "3 checkpoints: 3 skipped" in run(*words).stdout


def test_done_without_a_row(make: Make, run: Run, tmp_path: Path) -> None:
    """Killed between the two: it is not overwritten, and no failure."""
    root = make("run", 2)
    words = (*DOWN, root, "--all", "-o", "out", "--ledger", "ledger")
    assert run(*words).returncode == 0
    before = tree_hash(tmp_path / "out")
    (tmp_path / "ledger").unlink()
    result = run(*words)
    assert result.returncode == 0, result.stderr
    assert "2 checkpoints: 2 done" in result.stdout
    assert tree_hash(tmp_path / "out") == before
    (tmp_path / "ledger").unlink()
    changed = tmp_path / "out" / name(1) / "metadata.json"
    changed.write_text(changed.read_text() + " ")
    before = tree_hash(tmp_path / "out")
    refused(run(*words), "1 of 2 checkpoints failed", name(1))
    assert tree_hash(tmp_path / "out") == before


def test_a_root_with_strange_things_in_it_is_not_filled(
    make: Make, run: Run, tmp_path: Path
) -> None:
    root = make("run", 1)
    (tmp_path / "out" / "precious").mkdir(parents=True)
    before = tree_hash(tmp_path / "out")
    refused(run(*DOWN, root, "--all", "-o", "out", "--ledger", "ledger"), "precious")
    assert tree_hash(tmp_path / "out") == before


def test_a_ledger_that_cannot_be_written(make: Make, run: Run) -> None:
    root = make("run", 1)
    before = tree_hash(root)
    result = run(*DOWN, root, "--in-place", "--ledger", "/proc/nowhere/ledger")
    refused(result, "/proc/nowhere/ledger", "--ledger FILE")
    assert tree_hash(root) == before


# -- in parts


def test_shards_are_disjoint_and_complete(
    make: Make, run: Run, tmp_path: Path, expected: dict[str, bytes | None]
) -> None:
    root = make("run", 5)
    words = (*DOWN, root, "--all", "-o", "out", "--ledger", "ledger")
    ids = {"SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_MAX": "14"}
    ids |= {"SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "3"}
    for task in ("10", "12"):
        part = run(*words, "--shard", "slurm", SLURM_ARRAY_TASK_ID=task, **ids)
        assert part.returncode == 0, part.stderr
        assert "2 checkpoints: 2 done" in part.stdout
    last = run(*words, "--shard", "2/3")
    assert "1 checkpoint: 1 done" in last.stdout
    done = Counter(row["path"] for row in rows(tmp_path / "ledger"))
    assert done == {str(root / name(n)): 1 for n in range(1, 6)}
    assert all(small(tmp_path / "out" / name(n)) == expected for n in range(1, 6))
    assert (tmp_path / "out" / TRACKER).read_text() == "5"


ARRAY = {"ID": "3", "COUNT": "4", "MIN": "0", "MAX": "3", "STEP": "1"}


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, "3/4"),
        ({"ID": "1", "MIN": "1", "MAX": "4"}, "0/4"),
        ({"ID": "20", "COUNT": "3", "MIN": "10", "MAX": "20", "STEP": "5"}, "2/3"),
        ({"ID": "7", "COUNT": "1", "MIN": "7", "MAX": "7"}, "0/1"),
    ],
)
def test_slurm_arrays(changed: dict[str, str], found: str) -> None:
    values = {**ARRAY, **changed}
    environment = {f"SLURM_ARRAY_TASK_{key}": value for key, value in values.items()}
    assert str(shard.parse("slurm", environment)) == found


@pytest.mark.parametrize(
    "changed", [{"MAX": "9"}, {"ID": ""}, {"COUNT": "x"}, {"STEP": "0"}, {"ID": "4"}]
)
def test_an_array_that_does_not_tell(changed: dict[str, str]) -> None:
    values = {**ARRAY, **changed}
    environment = {f"SLURM_ARRAY_TASK_{key}": value for key, value in values.items()}
    with pytest.raises(RefusedError, match="Slurm array"):
        shard.parse("slurm", environment)


@pytest.mark.parametrize("text", ["2/2", "-1/2", "1", "a/b", "0/0"])
def test_a_shard_that_is_none(text: str, run: Run) -> None:
    result = run("inspect", "run", "--shard", text)
    assert result.returncode == 2
    assert "from 0 to N-1" in result.stderr


# -- cut short


IN_PLACE, OUT = ["--in-place"], ["-o", "out"]
IN_BOTH_TIERS = [(IN_PLACE, 1, signal.SIGINT), (OUT, 2, signal.SIGTERM)]
STOPS = [
    pytest.param(*each, marks=() if each in IN_BOTH_TIERS else pytest.mark.full)
    for each in itertools.product((IN_PLACE, OUT), (1, 2), (signal.SIGINT, signal.SIGTERM))
]


@pytest.mark.parametrize(("where", "jobs", "number"), STOPS)
def test_stopped_and_gone_on_with(
    where: list[str],
    jobs: int,
    number: int,
    make: Make,
    run: Run,
    tmp_path: Path,
    expected: dict[str, bytes | None],
) -> None:
    """A signal to all of them, as a terminal and a batch system send it."""
    count = 60  # a busy machine may be through with a few before it is asked again
    root, ledger = make("run", count), tmp_path / "ledger"
    words = (*DOWN, root, "--all", *where, "--ledger", ledger, "--jobs", jobs)
    running = start(tmp_path, *words)
    wait_for_rows(ledger, 2)
    os.killpg(running.pid, number)
    told, errors = running.communicate(timeout=60)
    assert running.returncode == 128 + number, (told, errors)
    assert "Traceback" not in errors
    done = sum(row["status"] == "done" for row in rows(ledger))
    assert 2 <= done < count
    # A process that the signal met before it listened is a failure, and has begun nothing.
    ended = done + sum(row["status"] == "failed" for row in rows(ledger))
    assert f"interrupted after {ended} of {count} checkpoints" in errors
    made = root if where == IN_PLACE else tmp_path / "out"
    source = small(checkpoint_of(SAMPLES / SAMPLE))
    there = [each for each in made.iterdir() if each.name != TRACKER]
    assert [small(each) for each in there].count(expected) == done
    assert all(small(each) in (source, expected) for each in there)
    assert not list(made.rglob("*lock")) + list(made.rglob("*stage"))
    assert (made / TRACKER).exists() == (made == root)
    [again] = re.findall(r"resume with `ckptmigrate (.*)`", errors)
    result = run(*again.split())
    assert result.returncode == 0, result.stderr
    assert f"{done} skipped" in result.stdout
    assert all(small(made / name(n)) == expected for n in range(1, count + 1))
    assert (made / TRACKER).read_text() == str(count)


def test_a_stop_after_all_workers_were_interrupted_ends(make: Make) -> None:
    """They hear of the signal first; then nobody is left to wait for, and much to do."""
    root = make("run", 3)
    stop = Stop()

    class Interrupting(InspectRequest):
        """Stops this process, as the signal that its worker got would."""

        def __reduce__(self) -> tuple[Any, ...]:
            stop.ask(signal.SIGTERM)
            return (InspectRequest, ())

    tasks = [Task(str(root / name(n)), Interrupting()) for n in (1, 2, 3)]
    outcomes = Processes(1)(tasks, stop)
    # The first is sent, and with it the stop is asked for; the others are left.
    assert [task.path for task, _ in outcomes] == [str(root / name(1))]


def workers_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            parents[int(entry.name)] = int(fields[1])
    return [child for child, parent in parents.items() if parent == pid]


@pytest.mark.parametrize("where", [IN_PLACE, pytest.param(OUT, marks=pytest.mark.full)])
def test_a_killed_process_takes_one_checkpoint_with_it(
    where: list[str],
    make: Make,
    run: Run,
    tmp_path: Path,
    expected: dict[str, bytes | None],
) -> None:
    count = 20
    root, ledger = make("run", count), tmp_path / "ledger"
    words = (*DOWN, root, "--all", *where, "--ledger", ledger, "--jobs", 2)
    running = start(tmp_path, *words)
    wait_for_rows(ledger, 2)
    os.kill(workers_of(running.pid)[0], signal.SIGKILL)
    told, errors = running.communicate(timeout=60)
    assert running.returncode == 1, (told, errors)
    found = Counter(row["status"] for row in rows(ledger))
    assert found == {"done": count - 1, "failed": 1}
    [line] = [line for line in told.splitlines() if line.startswith("failed")]
    assert "was killed by SIGKILL" in line
    [recover] = re.findall(r"`ckptmigrate (recover .*?)`", line)
    assert run(*recover.split()).returncode == 0
    result = run(*words)
    assert result.returncode == 0, result.stderr
    made = root if where == IN_PLACE else tmp_path / "out"
    assert all(small(made / name(n)) == expected for n in range(1, count + 1))
    steps = [json.loads((made / name(n) / "ckptmigrate.json").read_text())["steps"]
             for n in range(1, count + 1)]  # fmt: skip
    assert [len(each) for each in steps] == [1] * count


# -- how it speaks


def test_json(make: Make, run: Run, tmp_path: Path) -> None:
    root = make("run", 2)
    shown = json.loads(run(*DOWN, root, "--all", "--json").stdout)
    assert set(shown) == {
        *("verb", "good", "summary", "seconds", "signal", "resume", "undo", "roots"),
        *("checkpoints", "not_started"),
    }
    assert shown["undo"] == [f"rm -r {root}.pre-rerun"]
    assert shown["summary"]["total"] == shown["summary"]["done"] == 2
    first = shown["checkpoints"][0]
    assert first["detail"]["checkpoints"][0]["layout"] == "pre-rerun"
    assert first["result"] == f"{root}.pre-rerun/{name(1)}"
    assert first["link"] in ("reflink", "hardlink", "copy")


def test_a_dry_run_writes_nothing(make: Make, run: Run, tmp_path: Path) -> None:
    root = make("run", 2)
    before = tree_hash(tmp_path)
    for where in ([], ["--in-place"], ["--ledger", "ledger"]):
        result = run(*DOWN, root, "--all", "--dry-run", *where)
        assert result.returncode == 0, result.stderr
        assert "2 checkpoints: 2 planned" in result.stdout
        assert tree_hash(tmp_path) == before


def test_a_bar_counts_checkpoints(make: Make, tmp_path: Path) -> None:
    words = [*DOWN, str(make("run", 3)), "--all", "--in-place"]
    shown = golden.run([*words], tmp_path, 100)
    assert "checkpoints" in shown
    assert "3/3" in shown
    assert re.search(r"\d\.\d/s", shown)


@pytest.mark.parametrize(
    "words",
    [["--scheduler", "tcp://x:1", "--jobs", "2"], ["--retries", "1"], ["--jobs", "0"]],
)
def test_usage(words: list[str], run: Run) -> None:
    assert run("inspect", "run", *words).returncode == 2
