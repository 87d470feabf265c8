"""Checkpoints from a stranger: nothing is executed, imported, opened outside, or sent.

Each batch runs in a process of its own (tests/hostile/runner.py), under an audit hook that goes by
an allow-list, one gibibyte of address space and a limit of processor time.
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

HOSTILE = Path(__file__).parent / "hostile"
sys.path.insert(0, str(HOSTILE))

from batch import MEMORY, SAMPLE, VERBS, job, judge, root_of, run  # noqa: E402
from pickles import GADGETS, called, text, whole  # noqa: E402
from planting import (  # noqa: E402
    FILES,
    plant_alone,
    plant_in_blob,
    plant_in_common,
    plant_in_metadata,
)

Record = Callable[[str, object], None]

PLANTS = {
    "alone": (plant_alone, ("inspect",)),
    "metadata": (plant_in_metadata, VERBS),
    "common": (plant_in_common, VERBS),
    "blob": (plant_in_blob, VERBS),
}
# Those that do no harm to who reads them once, and name no symbol but known ones.
HARMLESS = {"billion laughs in lists", "deep lists", "a number too long to print", "BUILD of slots"}


@pytest.mark.parametrize("place", PLANTS)
def test_hostile_pickles(tmp_path: Path, place: str, record_property: Record) -> None:
    plant, verbs = PLANTS[place]
    jobs = []
    for number, (name, body) in enumerate(GADGETS.items()):
        root = root_of(tmp_path, name)
        plant(root, body)
        # All read the same way: in the zips each gadget meets inspect and one of the others.
        some = ("inspect", VERBS[1 + number % 4]) if place in ("common", "blob") else verbs
        jobs.append(job(name, root, some))
    found = run(tmp_path, jobs)
    judge(found)
    assert len(found["runs"]) >= len(GADGETS) * min(2, len(verbs))
    inspected = [r for r in found["runs"] if r["verb"] == "inspect"]
    taken = {r["name"] for r in inspected if r["status"] == 0}
    told = {r["name"] for r in inspected if "of no known writer" in r["out"]}
    # Either refused, or told by the name of the symbol.
    assert taken - told <= HARMLESS
    if place == "alone":
        assert not taken
    else:
        assert {"os.system", "torch.load", "REDUCE chain", "a dotted name"} & taken
        assert all("posix.system" in r["out"] for r in inspected if r["name"] == "posix.system")
    record_property("safety", f"{len(GADGETS)} hostile pickles, planted by way of {place!r}")


def test_the_hook_sees_what_a_job_would_do(tmp_path: Path) -> None:
    """The control: the same hook, and the gadgets unpickled by Python itself."""
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


def test_hostile_files(tmp_path: Path, record_property: Record) -> None:
    (tmp_path / "secret").write_text("nobody may read this")
    jobs = []
    for name, (plant, _) in FILES.items():
        root = root_of(tmp_path, name)
        plant(root)
        jobs.append(job(name, root))
    found = run(tmp_path, jobs)
    judge(found)
    status = {(r["name"], r["verb"]): r["status"] for r in found["runs"]}
    for name, (_, refused) in FILES.items():
        outcomes = {verb: status[name, verb] for verb in VERBS}
        if refused:
            assert outcomes == dict.fromkeys(VERBS, 1), name
        else:
            assert outcomes["inspect"] == 0, name
    told = "".join(r["out"] + r["err"] for r in found["runs"])
    assert "root:" not in told  # of /etc/passwd
    assert "nobody may read" not in told
    record_property("safety", f"{len(FILES)} hostile files")


def test_there_are_enough() -> None:
    assert len(GADGETS) >= 60
    assert len(FILES) >= 50
