"""A launcher that measures one command: `python -I -S launcher.py COMMAND...`.

It prints a line of JSON: exit status, seconds, peak_bytes, read_bytes, written_bytes. It is a small
separate process, because the kernel includes the memory of the forking process in the peak of a
child. Processes that outlive the command, such as a server of worker processes, are waited for and
included.
"""

import contextlib
import ctypes
import json
import os
import resource
import sys
import time

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h: orphaned descendants become children of this process
NULL = os.open(os.devnull, os.O_RDWR)


def counters() -> tuple[int, int]:
    """Return the bytes read and written by this process and by all that it waited for."""
    with open("/proc/self/io", encoding="ascii") as file:
        found = {name: int(count) for name, count in (line.split(": ") for line in file)}
    return found["rchar"], found["wchar"]


ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
earlier, before = counters(), counters()
start = time.perf_counter()
# Discard stdout of the command, and keep its stderr.
child = os.posix_spawnp(
    sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, NULL, 1)]
)
_, status = os.waitpid(child, 0)
seconds = time.perf_counter() - start
with contextlib.suppress(ChildProcessError):
    while True:
        os.wait()
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
read, written = counters()
print(
    json.dumps(
        {
            "status": os.waitstatus_to_exitcode(status),
            "seconds": seconds,
            "peak_bytes": peak * 1024,
            "read_bytes": read - before[0] - (before[0] - earlier[0]),  # without counters()
            "written_bytes": written - before[1],
        }
    )
)
