"""Sparse files of a terabyte, links into /proc, and a tracker that changes meanwhile."""

from __future__ import annotations

import os
import random
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import forked
import pytest
from conftest import Run, checkpoint_of, refused, tree_hash

import ckptmigrate
from ckptmigrate import CkptMigrateError

Copy = Callable[[str], Path]
SAMPLE = "0.17.1-idle-w1"
TERABYTE = 1024**4
SECONDS = 5.0
TRACKER = "latest_checkpointed_iteration.txt"
FILES = (".metadata", "common.pt", "metadata.json", "__0_0.distcp", "integrity.json",
         "ckptmigrate.json")  # fmt: skip
VERBS = (
    ("inspect",),
    ("check", "--reader", "0.13"),
    ("verify",),
    ("downgrade", "--to", "0.11", "-o", "out"),
    ("repair", "-o", "repaired"),
)


def extend(path: Path, size: int = TERABYTE) -> None:
    with path.open("ab") as file:
        file.truncate(size)


@pytest.mark.parametrize("name", FILES)
def test_a_sparse_file_costs_no_time(name: str, copy: Copy, run: Run) -> None:
    root = copy(SAMPLE)
    extend(checkpoint_of(root) / name)
    for verb, *options in VERBS:
        before = forked.spent
        result = run(verb, root, *options)
        assert forked.spent - before < SECONDS, verb
        assert result.returncode in (0, 1), (verb, result.stderr)
        assert "internal error" not in result.stderr, verb
    if name in (".metadata", "common.pt", "metadata.json"):
        refused(run("downgrade", root, "--to", "0.11", "-o", "x"), f"{name}: is larger than")


def test_a_sparse_tracker(copy: Copy, run: Run) -> None:
    root = copy(SAMPLE)
    extend(root / TRACKER)
    before = forked.spent
    refused(run("inspect", root), TRACKER)
    assert forked.spent - before < SECONDS


def test_a_copy_that_has_no_room_writes_nothing(copy: Copy, run: Run, tmp_path: Path) -> None:
    root = copy(SAMPLE)
    extend(checkpoint_of(root) / "__0_0.distcp", 2 * shutil.disk_usage(tmp_path).free)
    names = {*os.listdir(tmp_path)}
    before = forked.spent
    result = run("downgrade", root, "--to", "0.11", "-o", "out", "--link", "copy")
    assert forked.spent - before < SECONDS
    refused(result, "the disk is full", "nothing was changed")
    assert {*os.listdir(tmp_path)} == names


@pytest.mark.parametrize("what", ["sparse", "link"])
def test_the_fix_of_a_marker_that_is_not_read_works(what: str, copy: Copy, run: Run) -> None:
    root = copy(SAMPLE)
    marker = checkpoint_of(root) / "metadata.json"
    if what == "sparse":
        extend(marker)
    else:
        marker.unlink()
        marker.symlink_to("/proc/self/cmdline")
    result = run("verify", root)
    assert result.returncode == 1
    [(first, second)] = re.findall(r"fix: run `rm (\S+)`, then `ckptmigrate (.*)`", result.stdout)
    assert first == str(marker)
    marker.unlink()
    made = run(*second.split(), "-o", "repaired")
    assert made.returncode == 0, made.stderr
    assert run("verify", "repaired").returncode == 0


@pytest.mark.parametrize(
    "target",
    ["self/environ", "self/mem", "self/maps", "self/fd/0", "self/exe", "kcore", "kmsg"],
)
def test_no_link_into_proc_is_read(target: str, copy: Copy, run: Run, tmp_path: Path) -> None:
    first = copy(SAMPLE)
    for name in (*FILES[:4], TRACKER):
        root = tmp_path / f"linked-{name}"
        shutil.copytree(first, root)
        place = root / name if name == TRACKER else checkpoint_of(root) / name
        place.unlink()
        place.symlink_to(f"/proc/{target}")
        before = forked.spent
        result = run("downgrade", root, "--to", "0.11", "-o", "out", USER="do-not-print-this")
        refused(result)
        assert "do-not-print-this" not in result.stderr
        assert forked.spent - before < SECONDS
        assert not (tmp_path / "out").exists()


@pytest.fixture
def changing(copy: Copy) -> Iterator[Path]:
    """A root of two iterations whose tracker is written again and again, in place and whole."""
    root = copy(SAMPLE)
    shutil.copytree(root / "iter_0000005", root / "iter_0000010")
    stop = threading.Event()

    def change() -> None:
        dice, tracker = random.Random(1), root / TRACKER
        while not stop.wait(dice.random() * 0.002):
            text = dice.choice(["5", "10"])
            if dice.random() < 0.1:
                tracker.write_text(text)  # empty for a moment
            else:
                (root / "new").write_text(text)
                os.replace(root / "new", tracker)

    thread = threading.Thread(target=change)
    thread.start()
    yield root
    stop.set()
    thread.join()


def test_a_tracker_that_changes_is_one_of_its_texts(changing: Path, tmp_path: Path) -> None:
    iterations = [tree_hash(changing / f"iter_{n:07d}") for n in (5, 10)]
    made: set[str] = set()
    for number in range(200):
        out = tmp_path / f"out{number}"
        try:
            ckptmigrate.migrate(changing, to="0.11", output=out)
        except CkptMigrateError as error:
            assert "is empty" in error.reason  # for a moment it was
            assert not out.exists()
            continue
        text = (out / TRACKER).read_text()
        assert [p.name for p in out.iterdir() if p.is_dir()] == [f"iter_{int(text):07d}"]
        assert ckptmigrate.verify(out).clean
        made.add(text)
        if number > 10 and len(made) == 2:
            break
    assert made == {"5", "10"}
    assert [tree_hash(changing / f"iter_{n:07d}") for n in (5, 10)] == iterations
