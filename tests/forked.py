"""Run commands in forks of a process that has imported their modules.

Importing takes longer than most commands: a start of Python with this package costs some 0.25 s
of CPU, one with torch and a Megatron release 4 s, a fork a few milliseconds. A child is a process
of its own, with its own arguments, environment, working directory, descriptors and exit status.
Start a real process instead where start-up, imports, signals or kills are the subject of a test.

    server = ForkServer("cli", ["ckptmigrate.cli.inspect"])
    server.run(["inspect", "PATH"], main="ckptmigrate.__main__:main")
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

# CPU seconds of all children that this process has waited for, and of the servers that it started
# for itself and others; see conftest.
spent = 0.0
shared = 0.0


@dataclass
class ForkServer:
    """A process that forks a child per call; the workers of a test run share it.

    Attributes:
        name: one server runs per name.
        preload: modules that it imports when it starts.
        environment: variables that it and its children have besides those of this process.
    """

    name: str
    preload: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(
        self,
        arguments: Sequence[str],
        *,
        main: str = "",
        code: str = "",
        input: str = "",
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
        started: Callable[[int], object] = lambda pid: None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a function or a text of Python as `subprocess.run` runs a command.

        Args:
            arguments: sys.argv[1:].
            main: `module:function`, called without arguments.
            code: what `python -c` would run, where there is no `main`.
            input: the child's standard input.
            env: its whole environment, by default that of this process.
            timeout: seconds.
            started: called with the child's process ID once it runs.

        Raises:
            subprocess.TimeoutExpired: it was killed at its time limit.
        """
        with (
            tempfile.TemporaryFile() as stdin,
            tempfile.TemporaryFile() as stdout,
            tempfile.TemporaryFile() as stderr,
        ):
            stdin.write(input.encode())
            stdin.seek(0)
            fds = [stdin.fileno(), stdout.fileno(), stderr.fileno()]
            status = self.call(
                arguments, fds, main=main, code=code, cwd=cwd, env=env, timeout=timeout,
                started=started,
            )  # fmt: skip
            texts = []
            for file in (stdout, stderr):
                file.seek(0)
                texts.append(file.read().decode())
        return subprocess.CompletedProcess(list(arguments), status, *texts)

    def call(
        self,
        arguments: Sequence[str],
        fds: Sequence[int],
        *,
        main: str = "",
        code: str = "",
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
        started: Callable[[int], object] = lambda pid: None,
    ) -> int:
        """Run with descriptors 0, 1 and 2; return the exit status as `subprocess` has it."""
        global spent
        request = {
            "arguments": list(arguments),
            "main": main,
            "code": code,
            "cwd": str(cwd or os.getcwd()),
            "env": {**(os.environ if env is None else env), **self.environment},
        }
        with self._connected() as link:
            socket.send_fds(link, [b"!"], list(fds))
            link.sendall(json.dumps(request).encode() + b"\n")
            link.settimeout(timeout)
            with link.makefile() as told:
                pid = int(told.readline())
                started(pid)
                try:
                    status, seconds = json.loads(told.readline())
                except TimeoutError:
                    os.kill(pid, signal.SIGKILL)
                    raise subprocess.TimeoutExpired(list(arguments), timeout) from None
        spent += seconds
        return int(status)

    def _connected(self) -> socket.socket:
        """A connection to the server, started by whoever needs it first."""
        global shared
        place = folder()
        place.mkdir(mode=0o700, exist_ok=True)
        address = place / self.name
        link = socket.socket(socket.AF_UNIX)
        with open(place / f"{self.name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not address.exists():
                command = [sys.executable, __file__, str(address), str(_controller())]
                environment = {**os.environ, **self.environment}
                with subprocess.Popen(
                    [*command, *self.preload], env=environment, stdout=subprocess.PIPE
                ) as server:
                    assert server.stdout is not None
                    ready = server.stdout.readline()
                    server.returncode = 0  # it lives on: nobody waits for it
                assert ready, f"{self.name} cannot be imported: {list(self.preload)}"
                shared += float(ready)
        link.connect(str(address))
        return link


def folder() -> Path:
    """Return the folder of the sockets of this test run."""
    return Path("/tmp", f"ckptmigrate-forks-{_controller()}")


def _controller() -> int:
    """The process of the test run, which no server outlives; conftest sets the variable."""
    return int(os.environ["CKPTMIGRATE_TEST_RUN"])


# -- the server


def _serve(address: str, controller: int, preload: Sequence[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the handlers
    for module in preload:
        importlib.import_module(module)
    gc.freeze()  # a collection in a child copies no page of what is imported
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        listening.settimeout(0.5)
        os.write(1, b"%f\n" % time.process_time())
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        while _lives(controller):
            with contextlib.suppress(TimeoutError):
                link, _ = listening.accept()
                if not os.fork():
                    listening.close()
                    _handle(link)
                link.close()
    Path(address).unlink(missing_ok=True)  # the test run removes the folder, too
    os._exit(0)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _handle(link: socket.socket) -> NoReturn:
    """Fork the command of one connection and tell how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    link.setblocking(True)
    _, fds, _, _ = socket.recv_fds(link, 1, 3)
    with link.makefile("rw") as told:
        request = json.loads(told.readline())
        pid = os.fork()
        if not pid:
            _become(request, fds, link)
        print(pid, file=told, flush=True)
        _, status, usage = os.wait4(pid, 0)
        with contextlib.suppress(OSError):  # the caller is gone
            ended = [os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime]
            print(json.dumps(ended), file=told, flush=True)
    os._exit(0)


def _become(request: dict[str, Any], fds: Sequence[int], link: socket.socket) -> NoReturn:
    """Be the process that was asked for, from a fresh start to its end."""
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.close(link.fileno())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    tempfile.tempdir = None
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    status = 1
    try:
        if request["code"]:
            sys.argv = ["-c", *request["arguments"]]
            sys.modules["__main__"] = module = ModuleType("__main__")
            exec(compile(request["code"], "<string>", "exec"), vars(module))
        else:
            name, _, function = request["main"].partition(":")
            sys.modules["__main__"] = module = importlib.import_module(name)
            sys.argv = [str(module.__file__), *request["arguments"]]
            getattr(module, function)()
        status = 0
    except SystemExit as stop:
        if stop.code is not None and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status & 0xFF)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
