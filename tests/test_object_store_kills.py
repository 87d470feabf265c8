"""A kill -9 at requests that change a store, then `recover`: before or after.

At every one of them in `make faults`, which sets EVERY to 1; at some in `make test`.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import SAMPLES, Run
from object_stores import KEPT, NAME, TRACKER, url, visible, without_time
from s3_server import (
    BUCKET,
    Bucket,
    Proxy,
    environment,
    files_of,
    proxied,
)

import ckptmigrate
from ckptmigrate import LOSSES, NotACheckpointError, migrate, recovery
from ckptmigrate.access.places import Place, place
from ckptmigrate.cli import main

pytest_plugins = ["store_fixtures"]
EVERY = int(os.environ.get("CKPTMIGRATE_KILLS_EVERY", "5"))
_SHARE = "at every request" if EVERY == 1 else f"at every {EVERY}th of twice its requests"


def _child(endpoint: int, work: str, told: tuple[str, ...]) -> None:
    """What a killed process was at."""
    os.environ.update(environment(endpoint))
    losses = tuple(LOSSES)
    if work == "out":
        migrate(told[0], to=told[1], output=told[2], allow_loss=losses)
    elif work == "in place":
        migrate(told[0], to=told[1], in_place=True, allow_loss=losses)
    elif work == "undo":
        ckptmigrate.undo(told[0])
    elif work == "batch":
        sys.argv = ["ckptmigrate", *told]
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            main()
    else:
        recovery.recover(place(told[0]))


def recovered(path: str) -> dict[Place, str]:
    """What `recover` does; it refuses a destination that is not there, and left nothing."""
    try:
        return recovery.recover(place(path))
    except NotACheckpointError:
        return {}


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["s3fs", "aiobotocore.session", "ckptmigrate", "s3_server"])


@contextlib.contextmanager
def killed(
    proxy: Proxy, at: int, *, after: bool, work: str, told: tuple[str, ...]
) -> Iterator[bool]:
    """A process that is killed at one of its writing requests, before or after it is served.

    Yields whether it came to that; else it came to its end.
    """
    proxy.requests.clear()
    child = _FORKS.Process(target=_child, args=(proxy.port, work, told))

    def act(number: int, passed_on: bool) -> bool:
        if number == at and passed_on == after and child.pid is not None:
            os.kill(child.pid, signal.SIGKILL)
            return True
        return False

    proxy.act = act
    child.start()
    child.join(60)
    proxy.settled()
    proxy.act = None
    assert child.exitcode in (0, -signal.SIGKILL), child.exitcode
    yield child.exitcode != 0


def _sweep(
    bucket: Bucket,
    port: int,
    work: str,
    told: tuple[str, ...],
    setup: Callable[[], None],
    about: str,
    recover: str,
) -> tuple[int, list[dict[str, bytes]]]:
    """Kill at every writing request, recover, and judge.

    Returns:
        How many kills there were, and what each left once it was recovered.
    """
    left: list[dict[str, bytes]] = []
    with proxied(port) as proxy:
        points = ((n, after) for n in itertools.count(1) for after in (False, True))
        for at, after in itertools.islice(points, 0, None, EVERY):
            setup()
            before = bucket.tree(about)
            with killed(proxy, at, after=after, work=work, told=told) as hit:
                if not hit:
                    done = bucket.tree(about)
                    break
                caught = bucket.tree(about)
                marker = [k for k in visible(caught) if k.endswith("/metadata.json")]
                # To a reader it is as before, as after, or unmarked; payload may be more.
                left.append(caught)
                recovered(recover)
                result = bucket.tree(about)
                assert not marker or visible(result).items() <= visible(caught).items()
                again = recovered(recover)
                assert again == {}, again
                left[-1] = result
            assert not [k for k in bucket.names("") if "ckptmigrate-" in k]
    plain = [without_time(tree) for tree in left]
    whole = without_time(done)
    turn = next((i for i, tree in enumerate(plain) if tree == whole), len(plain))
    assert all(tree == without_time(before) for tree in plain[:turn])
    assert all(tree == whole for tree in plain[turn:])
    assert turn, "some before the commit"
    assert turn < len(plain) or EVERY > 1, "some after it"
    return len(left), left


def test_killed_out_of_place_at_every_request(
    bucket: Bucket, port: int, record_property: Callable[[str, str], None]
) -> None:
    def setup() -> None:
        bucket.clear("out")

    bucket.put(SAMPLES / NAME, "run")
    told = (url("run"), "split-rerun", url("out"))
    kills, _ = _sweep(bucket, port, "out", told, setup, "out", url("out"))
    assert bucket.tree("run") == files_of(SAMPLES / NAME)
    what = "a migration out of place"
    record_property("safety", f"object stores: {kills} kills of {what}, {_SHARE}, 0 bad")


@pytest.mark.parametrize("work", ["in place", "undo"])
def test_killed_in_place_at_every_request(
    work: str, bucket: Bucket, port: int, record_property: Callable[[str, str], None]
) -> None:
    bucket.put(SAMPLES / NAME, "run")
    if work == "undo":
        migrate(url("run"), to="split-rerun", in_place=True, allow_loss=tuple(LOSSES))
    begin = bucket.tree("run")

    def setup() -> None:
        bucket.clear("run")
        for name, content in begin.items():
            bucket.client.put_object(Bucket=BUCKET, Key=f"run/{name}", Body=content)

    told = (url("run"), "split-rerun")
    kills, _ = _sweep(bucket, port, work, told, setup, "run", url("run"))
    record_property("safety", f"object stores: {kills} kills of {work} in a store, {_SHARE}, 0 bad")


def test_recover_killed_at_every_request(
    bucket: Bucket, port: int, record_property: Callable[[str, str], None]
) -> None:
    """The hardest state to recover: everything is out of place but the marker."""
    bucket.put(SAMPLES / NAME, "run")
    source = bucket.tree("run")
    kills = 0
    with proxied(port) as proxy:
        told = (url("run"), "split-rerun")
        with killed(proxy, 0, after=True, work="in place", told=told) as hit:
            assert not hit
        at = _commit(proxy)  # before it all is out of place but the marker
        ckptmigrate.undo(url("run"))
        assert bucket.tree("run") == source
        for after in (False, True):
            for number in itertools.count(1, EVERY):
                with killed(proxy, at, after=False, work="in place", told=told) as hit:
                    assert hit
                told_to = (url("run"),)
                with killed(proxy, number, after=after, work="recover", told=told_to) as hit:
                    pass
                recovery.recover(place(url("run")))
                assert bucket.tree("run") == source
                if not hit:
                    break
                kills += 1
    assert kills > 10 // EVERY
    what = "recover in a store"
    record_property("safety", f"object stores: {kills} kills of {what}, {_SHARE}, 0 bad")


def _commit(proxy: Proxy) -> int:
    """Which of the writing requests brought metadata.json back, from 1."""
    writing = [each for each in proxy.requests if each[0] in ("PUT", "POST", "DELETE")]
    [found] = [
        number
        for number, (method, path) in enumerate(writing, 1)
        if method == "PUT" and path.endswith("/metadata.json") and KEPT not in path
    ]
    return found


def test_a_batch_killed_at_every_request_and_run_again(
    bucket: Bucket, port: int, tmp_path: Path, record_property: Callable[[str, str], None]
) -> None:
    """No `recover` between the two: the same command again finishes what is left."""
    bucket.put(SAMPLES / NAME, "run")
    ledger = tmp_path / "ledger"
    told = ("downgrade", "--to", "split-rerun", "--allow-loss", "fault-context", url("run"),
            "--all", "-o", url("out"), "--ledger", str(ledger))  # fmt: skip
    with proxied(port) as proxy:
        with killed(proxy, 0, after=False, work="batch", told=told) as hit:
            assert not hit
        whole = without_time(bucket.tree("out"))
        kills = 0
        for at in itertools.count(1):
            bucket.clear("out")
            ledger.unlink(missing_ok=True)
            with killed(proxy, at, after=True, work="batch", told=told) as hit:
                if not hit:
                    break
            kills += 1
            # What begins with a dot is no checkpoint to anybody.
            caught = {k: v for k, v in bucket.tree("out").items() if not k.startswith(".")}
            if any(key.endswith("/metadata.json") and KEPT not in key for key in caught):
                assert visible(caught) | {TRACKER: b"5"} == visible(whole)
            else:
                assert TRACKER not in caught
            with killed(proxy, 0, after=False, work="batch", told=told):
                assert without_time(bucket.tree("out")) == whole
            assert not [k for k in bucket.names("") if "ckptmigrate-" in k]
    assert kills > 10
    assert bucket.tree("run") == files_of(SAMPLES / NAME)
    record_property("safety", f"object stores: {kills} kills of a batch, run again, 0 bad")


def test_uploads_in_parts_that_died_are_dropped(bucket: Bucket, port: int, s3: Run) -> None:
    told = (str(SAMPLES / NAME), "split-rerun", url("out"))
    with proxied(port) as proxy, killed(proxy, 4, after=True, work="out", told=told) as hit:
        assert hit
    start = bucket.client.create_multipart_upload
    start(Bucket=BUCKET, Key="out/iter_0000005/__0_0.distcp")
    other = start(Bucket=BUCKET, Key="outside")["UploadId"]
    assert s3("recover", url("out")).returncode == 0
    uploads = bucket.client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    assert [each["Key"] for each in uploads] == ["outside"]
    bucket.client.abort_multipart_upload(Bucket=BUCKET, Key="outside", UploadId=other)
    assert bucket.names("") == []
