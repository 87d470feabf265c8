"""Run one command and tell what it took: `python -I -S launcher.py COMMAND...`.

Prints a line of JSON: exit status, seconds, peak_bytes, read_bytes, written_bytes. A process of
its own, and a small one: the kernel counts into the peak of a child what it was forked from.
"""

import json
import os
import sys
import time

NULL = os.open(os.devnull, os.O_RDWR)

start = time.perf_counter()
# What the command prints is not looked at; what it complains of is.
child = os.posix_spawnp(
    sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, NULL, 1)]
)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
seconds = time.perf_counter() - start
# It is over and not yet reaped: its counters are still there, those of its own children added.
with open(f"/proc/{child}/io", encoding="ascii") as file:
    counters = {name: int(count) for name, count in (line.split(": ") for line in file)}
_, status, usage = os.wait4(child, 0)
print(
    json.dumps(
        {
            "status": os.waitstatus_to_exitcode(status),
            "seconds": seconds,
            "peak_bytes": usage.ru_maxrss * 1024,
            "read_bytes": counters["rchar"],
            "written_bytes": counters["wchar"],
        }
    )
)
