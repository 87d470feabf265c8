"""How a verb ends where a store stops to answer: in time, and with a sentence that names the way.

From some request on every request fails, as with credentials that expire or a server that is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import signal
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import flaky_store
import fsspec.asyn
import pytest
from conftest import SAMPLES
from flaky_store import FlakyFileSystem, ServerError, below
from s3_server import environment
from s3fs import S3FileSystem

import ckptmigrate
from ckptmigrate import CkptMigrateError, migrate
from ckptmigrate.batch.tasks import Task, perform
from ckptmigrate.cli import console
from ckptmigrate.errors import StoreError
from ckptmigrate.places import Url
from ckptmigrate.storage import progress, store, store_calls
from ckptmigrate.storage.store_calls import Calls
from ckptmigrate.verbs.migrate import MigrationRequest

SAMPLE = "0.18.2-idle-w1"
TARGET = "pre-rerun"
RUN, OUT = "flaky://bucket/run", "flaky://bucket/out"
EACH = pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.full)])


# What is said where all was done by then.
DONE = ("was rewritten", "is rewritten", "is written", "was complete", "may be written")


class ConnectionClosedError(Exception):
    """What botocore raises, by its name."""


ERRORS = {
    "503": lambda: ServerError("SlowDown"),
    "412": lambda: ServerError("PreconditionFailed"),
    "closed": lambda: ConnectionClosedError("Connection was closed"),
    "denied": lambda: PermissionError("Access Denied"),
}


def batch() -> None:
    name, request = "iter_0000005", MigrationRequest(TARGET, "downgrade")
    outcome = perform(Task(f"{RUN}/{name}", request, root=OUT, name=name))
    if outcome.error is not None:
        raise CkptMigrateError(outcome.done.text)


def undo() -> None:
    ckptmigrate.undo(RUN)


VERBS: dict[str, Callable[[], Any]] = {
    "out": lambda: migrate(RUN, to=TARGET, output=OUT),
    "up": lambda: migrate(SAMPLES / SAMPLE, to=TARGET, output=OUT),
    "in place": lambda: migrate(RUN, to=TARGET, in_place=True),
    "undo": undo,
    "repair": lambda: ckptmigrate.repair(RUN, in_place=True),
    "batch": batch,
}


def prepare(verb: str) -> None:
    flaky_store.put(SAMPLES / SAMPLE, "run")
    if verb == "undo":
        migrate(RUN, to=TARGET, in_place=True)
    if verb == "repair":
        FlakyFileSystem.objects["bucket/run/latest_checkpointed_iteration.txt"] = b"99"


def failing_from(verb: str, error: str, step: int) -> Iterator[tuple[str, str]]:
    """Run a verb again and again, each time with some more requests that are answered.

    Yields what it said, and the first request that failed.
    """
    for number in itertools.count(0, step):
        prepare(verb)
        turn = itertools.count()
        failed: list[str] = []

        def fail(operation: str, key: str, turn=turn, number=number, failed=failed) -> None:
            if next(turn) >= number:
                failed.append(f"{operation} {key}")
                raise ERRORS[error]()

        with FlakyFileSystem.disturbed(before=fail):
            try:
                VERBS[verb]()
            except (CkptMigrateError, OSError) as caught:
                said = str(caught)
                assert isinstance(caught, CkptMigrateError), (said, failed)
            else:
                return
        yield said, failed[0]


def leftovers() -> list[str]:
    """Locks, journals and stages."""
    return [key for key in below("") if "ckptmigrate-" in key or "/stage/" in key or "/lock" in key]


def judged(verb: str) -> dict[str, bytes]:
    """What tells whether a verb was carried out: without the time in a sidecar."""
    if verb == "repair":  # of a step that did not come to happen, the sidecar may tell
        return {"": FlakyFileSystem.objects["bucket/run/latest_checkpointed_iteration.txt"]}
    return {key: found for key, found in below("").items() if "ckptmigrate.json" not in key}


@EACH
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("verb", VERBS)
def test_the_last_sentence_names_the_way_out(verb: str, error: str, step: int) -> None:
    prepare(verb)
    before = judged(verb)
    VERBS[verb]()
    after = judged(verb)
    runs = 0
    for said, request in failing_from(verb, error, step):
        runs += 1
        if leftovers():
            [place] = re.findall(r"`ckptmigrate recover (flaky://bucket/\S+)`", said)
            ckptmigrate.recover(place)
        assert leftovers() == [], (request, said)
        if judged(verb) != before:
            assert judged(verb) == after, (request, said)
            # Where that could not be seen, `recover` is named, and has seen it.
            assert any(word in said for word in (*DONE, "ckptmigrate recover")), (request, said)
    assert runs > 2


# -- time


@contextlib.contextmanager
def server(answer: bytes | None) -> Iterator[int]:
    """A server that gives one answer to every request, closes (b""), or never answers (None)."""
    ended = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if answer is None:
                ended.wait(30)
            elif answer:
                self.request.recv(65536)
                self.request.sendall(answer)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            yield listening.server_address[1]
        finally:
            ended.set()
            listening.shutdown()


BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("answer", [None, b"", BUSY])
def test_a_server_that_does_not_answer(
    answer: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call ends within its limit, and is reported meanwhile."""
    reported: list[float] = []
    monkeypatch.setattr(progress, "on_wait", lambda place, seconds: reported.append(seconds))
    monkeypatch.setattr(store_calls, "_LIMIT", 1.5)
    monkeypatch.setattr(store_calls, "_REPORTED", 0.3)
    with server(answer) as port:
        for name, value in environment(port).items():
            monkeypatch.setenv(name, value)
        store._of.cache_clear()
        S3FileSystem.clear_instance_cache()
        start = time.monotonic()
        with pytest.raises(StoreError) as caught:
            ckptmigrate.inspect("s3://bucket/run")
        assert time.monotonic() - start < 15  # on a machine that is busy, too
    store._of.cache_clear()
    S3FileSystem.clear_instance_cache()
    assert "cannot be reached (no response within 2 s)" in str(caught.value)
    assert "AWS_ENDPOINT_URL" in str(caught.value)
    assert len(reported) > 1
    assert reported == sorted(reported)


class Slow:
    """The library of a store, as far as it is called here."""

    loop = fsspec.asyn.get_loop()
    ended = 0.0

    async def _put(self, place: str, seconds: float) -> str:
        await asyncio.sleep(seconds)
        self.ended = time.monotonic()
        return place


def test_what_follows_a_call_that_was_given_up_is_given_less_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_calls, "_LIMIT", 0.5)
    monkeypatch.setattr(store_calls, "_AFTER_ONE", 0.1)
    call = Calls(Url("s3", "bucket"), Slow())
    for limit in (0.5, 0.1):
        start = time.monotonic()
        with pytest.raises(TimeoutError, match="no response within"):
            call("put", "x", 20)
        assert limit <= time.monotonic() - start < 10
    assert call("put", "x", 0) == "x"
    assert call("put", "x", 0.2) == "x"  # it is patient again
    assert call("put", "x", 0.8, size=100_000) == "x"  # bytes take time


def test_an_interrupted_call_is_over_when_that_is_told() -> None:
    """Else it could write what was undone meanwhile."""
    slow = Slow()
    call = Calls(Url("s3", "bucket"), slow)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            call("put", "x", 1.0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert 0 < slow.ended <= time.monotonic()


def test_a_terminal_is_told_that_a_store_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Url("s3", "bucket/run")
    monkeypatch.setattr(console.output, "json", False)
    monkeypatch.setattr(console, "_waited", 0.0)
    console.waiting(place, 5)
    assert capsys.readouterr() == ("", "")  # no terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    console.waiting(place, 10)
    console.waiting(place / "another", 10)
    assert capsys.readouterr() == ("", f"waiting for {place}, 10 s by now; Ctrl-C stops\n")
