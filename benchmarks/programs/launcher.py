"""Run one command and tell what it took: `python -I -S launcher.py COMMAND...`.

Prints a line of JSON: exit status, seconds, peak_bytes, read_bytes, written_bytes. A process of
its own, and a small one: the kernel counts into the peak of a child what it was forked from. What
outlives the command, as a server of worker processes does for a moment, is waited for and counted.
"""

import ctypes
import json
import os
import sys
import time

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h: who is left alone becomes a child of this process
NULL = os.open(os.devnull, os.O_RDWR)


def reap(child: int) -> tuple[int, dict[str, int]]:
    """Its status, and what it took; it has ended."""
    # Not yet reaped: its counters are still there, those of its own children added.
    with open(f"/proc/{child}/io", encoding="ascii") as file:
        counters = {name: int(count) for name, count in (line.split(": ") for line in file)}
    _, status, usage = os.wait4(child, 0)
    taken = {
        "peak_bytes": usage.ru_maxrss * 1024,
        "read_bytes": counters["rchar"],
        "written_bytes": counters["wchar"],
    }
    return os.waitstatus_to_exitcode(status), taken


ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
start = time.perf_counter()
# What the command prints is not looked at; what it complains of is.
child = os.posix_spawnp(
    sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, NULL, 1)]
)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
seconds = time.perf_counter() - start
status, taken = reap(child)
while True:
    try:
        left = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        break
    assert left is not None
    _, more = reap(left.si_pid)
    taken = {
        name: max(taken[name], count) if name == "peak_bytes" else taken[name] + count
        for name, count in more.items()
    }
print(json.dumps({"status": status, "seconds": seconds, **taken}))
