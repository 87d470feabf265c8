"""Batches of hostile checkpoints for `runner.py`, and what makes an outcome right."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import SAMPLES
from hostile.pickles import CANARY

HOSTILE = Path(__file__).parent
SAMPLE = "0.18.2-idle-w1"
MEMORY = 1024**3  # bytes
VERBS = ("inspect", "check", "diff", "dry-run", "downgrade")
RERUN = "rerun_state_machine_state/shard_0_1"


def root_of(place: Path, name: str) -> Path:
    """A copy of the sample to plant something in."""
    root = place / "roots" / name.replace("/", "_").replace(" ", "-")
    shutil.copytree(SAMPLES / SAMPLE, root)
    return root


def state_of(folder: Path) -> list[tuple[object, ...]]:
    """Every name with its kind, size, time of change, and content where it is a small file."""
    found = []
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        small = stat.S_ISREG(info.st_mode) and info.st_size < 50_000_000
        content = path.read_bytes() if small else b""
        found.append((path, info.st_mode, info.st_size, info.st_mtime_ns, content))
    return found


def run(place: Path, jobs: list[dict[str, Any]], seconds: int = 1200) -> dict[str, Any]:
    """A batch in the runner, away from the network where the system lets us."""
    (place / "out").mkdir()
    (place / "clean").mkdir()
    clean = place / "clean" / "root"
    shutil.copytree(SAMPLES / SAMPLE, clean)
    given = {"clean": str(clean), "out": str(place / "out"), "limit": MEMORY, "jobs": jobs}
    (place / "jobs.json").write_text(json.dumps(given))
    before = state_of(place / "roots")
    command = [sys.executable, HOSTILE / "runner.py", place / "jobs.json", place / "results.json"]
    done = subprocess.run(
        command, cwd=place, capture_output=True, text=True, timeout=seconds, check=False
    )
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, (done.returncode, last, done.stderr[-2000:])
    assert state_of(place / "roots") == before
    assert not list(place.rglob(CANARY))
    found: dict[str, Any] = json.loads((place / "results.json").read_text())
    assert found["peak"] < MEMORY
    assert found["events"] > len(jobs)
    return found


def job(name: str, root: Path, verbs: tuple[str, ...] = VERBS) -> dict[str, Any]:
    return {"name": name, "root": str(root), "verbs": verbs, "pickle": None}


def wrong_with(result: dict[str, Any]) -> str | None:
    """What is wrong with the outcome of one verb: neither a clear error nor a result."""
    if result["violations"]:
        return f"did {result['violations']}"
    if not all(line.isprintable() for key in ("out", "err") for line in result[key].split("\n")):
        return f"printed {result['out']!r} {result['err']!r}"
    if result["status"] not in (0, 1):
        return f"status {result['status']}"
    told = result["err"]
    if result["status"] == 0 or (not told and result["verb"] in ("check", "diff", "inspect")):
        return None if result["out"] and not told else f"said {result['out']!r} and {told!r}"
    one_line = told.startswith("ckptmigrate: ") and told.count("\n") == 1
    if not one_line or "internal error" in told or "; " not in told or len(told) > 12_000:
        return f"said {told[:2000]!r}"
    return None


def judge(found: dict[str, Any]) -> None:
    bad = [
        f"{result['name']}, {result['verb']}: {wrong}"
        for result in found["runs"]
        if (wrong := wrong_with(result))
    ]
    assert not bad, "\n".join(bad)
