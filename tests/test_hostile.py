"""Checkpoints from a stranger: nothing is executed, imported, opened outside, or sent.

Each batch runs in a process of its own (tests/hostile/runner.py), with an audit hook that allows
what a list names, one gibibyte of address space and a CPU limit.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SAMPLES
from hostile.batch import HOSTILE, MEMORY, SAMPLE, VERBS, job, judge, root_of, run
from hostile.pickles import GADGETS, called, text, whole
from hostile.planting import (
    FILES,
    plant_alone,
    plant_in_blob,
    plant_in_common,
    plant_in_metadata,
)

Record = Callable[[str, object], None]
Plant = Callable[[Path, bytes], None]

# Refused by no verb, as they do no harm when they are read once and name known globals only.
HARMLESS = {"billion laughs in lists", "deep lists", "a number too long to print", "BUILD of slots"}


def some_verbs(number: int) -> tuple[str, ...]:
    """Return inspect and one of the other verbs in turn."""
    return "inspect", VERBS[1 + number % (len(VERBS) - 1)]


@pytest.mark.costly("81 pickles, each read by several verbs")
@pytest.mark.parametrize(
    ("plants", "every_verb"),
    [
        ((plant_alone,), False),
        ((plant_in_metadata,), False),
        ((plant_in_common, plant_in_blob), False),  # in turn: both are torch zips
        pytest.param((plant_in_metadata,), True, marks=pytest.mark.full),
        pytest.param((plant_in_common,), False, marks=pytest.mark.full),
        pytest.param((plant_in_blob,), False, marks=pytest.mark.full),
    ],
    ids=["alone", "metadata", "zip", "metadata, every verb", "common", "blob"],
)
def test_hostile_pickles(
    tmp_path: Path, plants: tuple[Plant, ...], every_verb: bool, record_property: Record
) -> None:
    alone = plants == (plant_alone,)
    jobs = []
    for number, (name, body) in enumerate(GADGETS.items()):
        turn, which = divmod(number, len(plants))
        root = root_of(tmp_path, name)
        plants[which](root, body)
        verbs = ("inspect",) if alone else VERBS if every_verb else some_verbs(turn)
        jobs.append(job(name, root, verbs))
    found = run(tmp_path, jobs)
    judge(found)
    assert len(found["runs"]) == sum(len(job["verbs"]) for job in jobs)
    inspected = [r for r in found["runs"] if r["verb"] == "inspect"]
    accepted = {r["name"] for r in inspected if r["status"] == 0}
    named = {r["name"] for r in inspected if "of no known writer" in r["out"]}
    # Either refused, or the unknown global is named.
    assert accepted - named <= HARMLESS
    if alone:
        assert not accepted
    else:
        assert {"os.system", "torch.load", "REDUCE chain", "a dotted name"} & accepted
        assert all("posix.system" in r["out"] for r in inspected if r["name"] == "posix.system")
    ways = " or ".join(plant.__name__ for plant in plants)
    record_property("safety", f"{len(GADGETS)} hostile pickles by {ways}")


def test_the_hook_sees_what_a_job_would_do(tmp_path: Path) -> None:
    """The control: the hook reports what Python's own unpickler does with the gadgets."""
    harmless = {
        "builtins.eval": whole(GADGETS["builtins.eval"]),
        "builtins.exec": whole(GADGETS["builtins.exec"]),
        "builtins.open": whole(GADGETS["builtins.open"]),
        "builtins.__import__": whole(called("builtins", "__import__", text("this"))),
        "os.remove": whole(called("os", "remove", text("nothing-of-this-name"))),
        "ctypes.CDLL": whole(GADGETS["ctypes.CDLL"]),
        "socket.create_connection": whole(GADGETS["socket.create_connection"]),
        "os.system": whole(called("os", "system", text("true"))),
        "subprocess.Popen": whole(called("subprocess", "Popen", text("true"))),
    }
    jobs = [
        {"name": name, "root": str(tmp_path), "verbs": ["inspect"], "pickle": data.hex()}
        for name, data in harmless.items()
    ]
    place = tmp_path / "control"
    place.mkdir()
    (place / "out").mkdir()
    clean = place / "root"
    shutil.copytree(SAMPLES / SAMPLE, clean)
    given = {"clean": str(clean), "out": str(place / "out"), "limit": MEMORY, "jobs": jobs}
    (place / "jobs.json").write_text(json.dumps(given))
    command = [sys.executable, HOSTILE / "runner.py", place / "jobs.json", place / "results.json"]
    subprocess.run(command, cwd=place, capture_output=True, timeout=100, check=True)
    runs = json.loads((place / "results.json").read_text())["runs"]
    blind = [r["name"] for r in runs if not r["violations"]]
    assert not blind
    assert len(runs) == len(harmless)


@pytest.mark.costly("60 roots, each read by several verbs")
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # one of the files
@pytest.mark.parametrize(
    "every_verb", [False, pytest.param(True, marks=pytest.mark.full)], ids=["some", "every verb"]
)
def test_hostile_files(tmp_path: Path, every_verb: bool, record_property: Record) -> None:
    (tmp_path / "secret").write_text("nobody may read this")
    jobs = []
    for number, (name, (plant, _)) in enumerate(FILES.items()):
        root = root_of(tmp_path, name)
        plant(root)
        jobs.append(job(name, root, VERBS if every_verb else some_verbs(number)))
    found = run(tmp_path, jobs)
    judge(found)
    status = {(r["name"], r["verb"]): r["status"] for r in found["runs"]}
    for each in jobs:
        outcomes = {verb: status[each["name"], verb] for verb in each["verbs"]}
        if FILES[each["name"]][1]:
            assert outcomes == dict.fromkeys(each["verbs"], 1), each
        else:
            assert outcomes["inspect"] == 0, each
    printed = "".join(r["out"] + r["err"] for r in found["runs"])
    assert "root:" not in printed  # of /etc/passwd
    assert "nobody may read" not in printed
    record_property("safety", f"{len(FILES)} hostile files")


def test_there_are_enough() -> None:
    assert len(GADGETS) >= 60
    assert len(FILES) >= 50
