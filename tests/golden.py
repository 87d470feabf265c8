"""The verbs as they print, on terminals of several widths and into a pipe, held as text files.

    pytest tests/test_golden.py --update-golden     (then read the diff)

Every run has a place of its own whose path is as long as its placeholder, so that lines break
where they would in `/checkpoints`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import secrets
import shlex
import shutil
import struct
import subprocess
import termios
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from conftest import CLI, SAMPLES

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


def printed(case: str, width: int | None) -> str:
    """Return what the command lines of a case print, one after another, in a fresh place."""
    with _place() as place:
        text = "".join(f"{_one(line, place, width)}\n" for line in CASES[case])
        text = _TIME.sub("2026-01-01T00:00:00+00:00", text.replace(str(place), _PLACE))
        return text.replace(__version__, "VERSION")


def _one(line: str, place: Path, width: int | None) -> str:
    if line.startswith("!"):
        subprocess.run(line[1:], shell=True, check=True, cwd=place)
        return f"$ {line[1:]}\n"
    # What a script reads is not a page to look at.
    shown = run(shlex.split(line), place, width, stdout="--json" not in line)
    return f"$ ckptmigrate {line}\n{shown}"


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


def run(
    arguments: Sequence[str],
    place: Path,
    width: int | None,
    *,
    stdout: bool = True,
    before: str = "",
    **environment: str,
) -> str:
    """Return what a command prints on a terminal of a width, or into a pipe.

    Args:
        arguments: what follows `ckptmigrate`.
        place: the working directory.
        width: columns of the terminal; None for a pipe.
        stdout: False to return what it prints on stderr alone.
        before: statements to execute first in the process of the command.
        environment: variables besides those of this process.
    """
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    env |= {"TERM": "xterm", "NO_COLOR": "1", **environment}
    ours, theirs = os.pipe() if width is None else pty.openpty()
    if width is not None:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    nothing = os.open(os.devnull, os.O_RDWR)
    with ThreadPoolExecutor(1) as reading:
        shown = reading.submit(_read, ours)
        try:
            fds = [nothing, theirs if stdout else nothing, theirs]
            code = f"{before}\nfrom ckptmigrate.__main__ import main\nmain()"
            CLI.call(arguments, fds, code=code, cwd=place, env=env)
        finally:
            os.close(theirs)
            os.close(nothing)
    os.close(ours)
    return shown.result().decode().replace("\r\n", "\n")


def _read(fd: int) -> bytes:
    parts = []
    with contextlib.suppress(OSError):  # EIO: nobody has the other side of the terminal open
        while part := os.read(fd, 65536):
            parts.append(part)
    return b"".join(parts)
