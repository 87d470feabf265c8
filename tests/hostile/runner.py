"""Run the command line on many checkpoints in this one process, under limits and an audit hook.

    python runner.py JOBS.json RESULTS.json

JOBS: {"clean": root, "out": folder, "limit": bytes, "jobs": [{"name", "root",
"verbs", "pickle": hex or null}]}.
RESULTS: {"peak": bytes, "events": number, "runs": [{"name", "verb", "status", "out", "err",
"violations"}]}.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import re
import resource
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from guard import Guard

# What a lock tells of its owner: the running kernel, and when the process began.
OWNER = ("/proc/sys/kernel/random/boot_id", f"/proc/{os.getpid()}/stat")
GUARD = Guard()  # before ckptmigrate, so that its imports are seen too


def verbs(root: str, clean: str, out: str) -> dict[str, list[str]]:
    """Every verb that a hostile checkpoint goes through."""
    return {
        "inspect": ["inspect", root],
        "check": ["check", root],
        "diff": ["diff", clean, root, "--full"],
        "dry-run": ["downgrade", root, "--to", "pre-rerun", "--dry-run"],
        "downgrade": ["downgrade", root, "--to", "pre-rerun", "-o", out],
    }


def call(arguments: list[str]) -> tuple[int, str, str]:
    """The command line, as its entry point runs it."""
    from ckptmigrate.cli import main

    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["ckptmigrate", *arguments]
    status: Any = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
    return status, out.getvalue(), err.getvalue()


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())
    results, clean, out = Path(sys.argv[2]), given["clean"], Path(given["out"])
    resource.setrlimit(resource.RLIMIT_AS, (given["limit"], given["limit"]))
    resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for root in (clean, "/nowhere"):
        for arguments in verbs(root, clean, str(out / "clean")).values():
            call(arguments)
    importlib.import_module("ckptmigrate.checkpoint.large.view")  # of large files
    GUARD.learn()
    runs = []
    for number, job in enumerate(given["jobs"]):
        target = out / str(number)
        for verb, arguments in verbs(job["root"], clean, str(target)).items():
            if verb not in job["verbs"]:
                continue
            GUARD.violations.clear()
            GUARD.allow(
                read=[clean, job["root"], *OWNER],
                write=stages(target) if verb == "downgrade" else [],
            )
            print(job["name"], verb, flush=True)  # the last line names what hangs
            GUARD.armed = True
            try:
                if job["pickle"] is None:
                    status, said, told = call(arguments)
                else:
                    status, said, told = unpickle(bytes.fromhex(job["pickle"]))
            finally:
                GUARD.armed = False
            runs.append(
                {
                    "name": job["name"], "verb": verb, "status": status, "out": said, "err": told,
                    "violations": list(GUARD.violations),
                }
            )  # fmt: skip
    # Not ru_maxrss, which counts the process that started this one, too.
    [peak] = re.findall(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    results.write_text(json.dumps({"peak": int(peak) * 1024, "events": GUARD.seen, "runs": runs}))


def unpickle(data: bytes) -> tuple[int, str, str]:
    """The control: what a job would do with the gadget, for the hook to see."""
    try:
        pickle.loads(data)
    except BaseException as error:
        return 1, "", type(error).__name__
    return 0, "", ""


def stages(target: Path) -> list[str]:
    """A destination, the stage it is built in, and the lock of that."""
    beside = (target.with_name(f".{target.name}.ckptmigrate-{what}") for what in ("stage", "lock"))
    return [str(target), *map(str, beside)]


main()
