"""The verbs as they print, on terminals of several widths and into a pipe, held as text files.

    pytest tests/test_golden.py --update-golden     (then read the diff)

Every run has a place of its own whose path is as long as its placeholder, so that lines break
where they would in `/checkpoints`.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import secrets
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import SAMPLES

from ckptmigrate import __version__

FOLDER = Path(__file__).parent / "golden"
WIDTHS: tuple[int | None, ...] = (60, 100, 200, None)  # None: into a pipe
_PLACE = "/checkpoints"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")
_NAMED = {
    "run": "0.17.1-idle-w1",
    "new": "0.19.0-idle-tp2",
    "old": "0.12.3-idle-w1",
    "fault": "0.17.1-fault-tp2pp2",
    "broken": "0.17.1-corrupt-tp2",
    "zero": "0.17.1-idle-dopt",
}
# Per file: command lines; `!` starts what a shell does in between.
CASES: dict[str, tuple[str, ...]] = {
    "start": ("",),
    "inspect": (
        "inspect new",
        "inspect fault",
        "inspect broken",
        "downgrade fault --to pre-rerun --allow-loss fault-context --in-place --json",
        "inspect fault",
        "inspect nowhere",
    ),
    "check": (
        "check run",
        "check run --reader 0.17",
        "check run --reader 0.11",
        "check fault --reader 0.13",
        "check zero --reader 0.13",
        "check zero",
    ),
    "upgrade": (
        "upgrade old --dry-run",
        "upgrade run --to 0.18.2 --dry-run",
        "upgrade run --link hardlink",
        "upgrade run --link hardlink",
        "upgrade new --to pre-rerun",
    ),
    "downgrade": (
        "downgrade run --to 0.11.0 --link hardlink",
        "downgrade new --to split-rerun --in-place",
        "downgrade fault --to split-rerun",
        "downgrade fault --to split-rerun --allow-loss fault-context --dry-run",
        "downgrade zero --to 0.13 --dry-run",
    ),
    "undo": (
        "downgrade old --to pre-rerun --in-place --json",
        "undo old --dry-run",
        "undo old",
        "undo old",
    ),
    "diff": ("diff run run", "diff new run", "diff new run --full"),
    "verify": (
        "verify new",
        "verify broken",
        "!truncate -s 1000 new/iter_0000005/__0_1.distcp",
        "!echo 9 > new/latest_checkpointed_iteration.txt",
        "!touch new/iter_0000005/__7_0.distcp",
        "verify new",
        "verify new --full",
    ),
    "repair": (
        "repair broken --dry-run",
        "repair broken --rebuild-sentinel --link hardlink",
        "repair run",
        "!echo 9 > old/latest_checkpointed_iteration.txt",
        "repair old --in-place",
    ),
    "recover": ("recover run",),
    "layouts": ("layouts",),
    "matrix": (
        "matrix --scenario idle",
        "matrix --writer 0.17 --reader 0.11",
        "matrix --writer 0.17 --reader 0.99",
    ),
    "explain": (
        "explain",
        "explain rerun-shards-missing",
        "explain split-rerun",
        "explain 0.13",
        "explain fault-context",
        "explain 'Missing key in checkpoint state_dict: rerun_state_machine_state'",
        "explain splitrerun",
    ),
}


# Runs one command line after another; a fork each, as importing takes longer than most verbs.
_RUNS = """
import os, shlex, subprocess, sys
from ckptmigrate.cli import main
for line in sys.argv[1:]:
    print("$ " + line.lstrip("!") if line[:1] == "!" else f"$ ckptmigrate {line}", flush=True)
    if line[:1] == "!":
        subprocess.run(line[1:], shell=True, check=True)
    elif not os.fork():
        if "--json" in line:  # what a script reads is no page to look at
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["ckptmigrate", *shlex.split(line)]
        main()
    else:
        os.wait()
    print(flush=True)
"""


def printed(case: str, width: int | None) -> str:
    """What the command lines of a case print, one after another, in a fresh place."""
    with _place() as place:
        text = run(["-c", _RUNS, *CASES[case]], place, width)
        text = _TIME.sub("2026-01-01T00:00:00+00:00", text.replace(str(place), _PLACE))
        return text.replace(__version__, "VERSION")


@contextmanager
def _place() -> Iterator[Path]:
    place = Path("/tmp", secrets.token_hex(4)[: len(_PLACE) - len("/tmp/")])
    assert len(str(place)) == len(_PLACE)
    place.mkdir()
    try:
        for name, sample in _NAMED.items():
            shutil.copytree(SAMPLES / sample, place / name)
        yield place
    finally:
        shutil.rmtree(place)


def run(arguments: list[str], place: Path, width: int | None, **environment: str) -> str:
    """What Python prints on a terminal of a width, or into a pipe."""
    command = [sys.executable, *arguments]
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    env |= {"TERM": "xterm", "NO_COLOR": "1", **environment}
    if width is None:
        out, err = subprocess.PIPE, subprocess.STDOUT
        told = subprocess.run(
            command, cwd=place, env=env, stdout=out, stderr=err, text=True, check=False
        )
        return told.stdout
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    with subprocess.Popen(
        command, cwd=place, env=env, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    ):
        os.close(theirs)
        shown = b"".join(_read(ours))
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def _read(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # EIO: the other side is gone
            return
        if not part:
            return
        yield part
