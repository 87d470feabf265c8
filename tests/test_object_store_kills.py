"""A kill -9 at requests that change a store, then `recover`: before or after.

EVERY sets how many of them: every 25th in `make test`, all in full.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MAIN, SAMPLES, Run
from object_stores import CLI, KEPT, NAME, TRACKER, url, visible, without_time
from s3_server import BUCKET, Bucket, Proxy, Request, environment, files_of, pass_on, proxied

import ckptmigrate
from ckptmigrate import LOSSES, NotACheckpointError, migrate
from ckptmigrate.places import Place
from ckptmigrate.storage.urls import place
from ckptmigrate.verbs import recover

pytest_plugins = ["store_fixtures"]
DOWN = ("downgrade", url("run"), "--to", "split-rerun", "--allow-loss", "fault-context")
OPTIMIZER = SAMPLES.parent / "optimizer" / "0.13.1-optim-dp2"
EVERY = pytest.mark.parametrize("every", [25, pytest.param(1, marks=pytest.mark.full)])


def share(every: int) -> str:
    return "at every request" if every == 1 else f"at every {every}th of twice its requests"


def recovered(path: str) -> dict[Place, str]:
    """What `recover` does; it refuses a destination that is not there, and left nothing."""
    try:
        return recover.recover(place(path))
    except NotACheckpointError:
        return {}


def killed(proxy: Proxy, words: tuple[str, ...], at: int | None, *, after: bool) -> bool:
    """Run a command that is killed at one of its writing requests, before or after it is served.

    Returns:
        Whether it came to that; else it came to its end.
    """
    child: list[int] = []

    def handle(request: Request) -> None:
        answer = request.forward() if after or request.seen.write != at else None
        if request.seen.write == at:
            os.kill(child[0], signal.SIGKILL)
            request.drop()
        elif answer is not None:
            request.send(answer)

    proxy.requests.clear()
    proxy.handle = handle
    there = {**os.environ, **environment(proxy.port)}
    done = CLI.run(words, main=MAIN, env=there, started=child.append)
    proxy.settle()
    proxy.handle = pass_on
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def _sweep(
    bucket: Bucket,
    port: int,
    words: tuple[str, ...],
    start: dict[str, bytes],
    about: str,
    every: int,
) -> int:
    """Kill at writing requests, recover, and compare with before and after.

    Args:
        start: what is below `about` before the command.
        every: of the moments before and after each request, how many make one kill.

    Returns:
        How many kills there were.
    """
    left: list[dict[str, bytes]] = []
    with proxied(port) as proxy:
        moments = ((n, after) for n in itertools.count(1) for after in (False, True))
        for at, after in itertools.islice(moments, every // 2, None, every):
            bucket.clear(about)
            bucket.put_tree(start, about)
            if not killed(proxy, words, at, after=after):
                whole = without_time(bucket.tree(about))
                break
            caught = bucket.tree(about)
            marker = [k for k in visible(caught) if k.endswith("/metadata.json")]
            # To a reader it is as before, as after, or unmarked; payload may be more.
            recovered(url(about))
            left.append(bucket.tree(about))
            assert not marker or visible(left[-1]).items() <= visible(caught).items()
            again = recovered(url(about))
            assert again == {}, again
            assert not [k for k in bucket.names("") if "ckptmigrate-" in k]
    plain = [without_time(tree) for tree in left]
    turn = next((i for i, tree in enumerate(plain) if tree == whole), len(plain))
    assert all(tree == without_time(start) for tree in plain[:turn])
    assert all(tree == whole for tree in plain[turn:])
    assert turn, "some before the commit"
    assert turn < len(plain) or every > 1, "some after it"
    return len(left)


@EVERY
def test_killed_out_of_place_at_every_request(
    every: int, bucket: Bucket, port: int, record_property: Callable[[str, str], None]
) -> None:
    bucket.put(SAMPLES / NAME, "run")
    kills = _sweep(bucket, port, (*DOWN, "-o", url("out")), {}, "out", every)
    assert bucket.tree("run") == files_of(SAMPLES / NAME)
    what = f"{kills} kills of a migration out of place, {share(every)}"
    record_property("safety", f"object stores: {what}, 0 bad")


@EVERY
@pytest.mark.parametrize("work", ["in place", "undo"])
def test_killed_in_place_at_every_request(
    work: str,
    every: int,
    bucket: Bucket,
    port: int,
    record_property: Callable[[str, str], None],
) -> None:
    bucket.put(SAMPLES / NAME, "run")
    words: tuple[str, ...] = (*DOWN, "--in-place")
    if work == "undo":
        migrate(url("run"), to="split-rerun", in_place=True, allow_loss=tuple(LOSSES))
        words = ("undo", url("run"))
    kills = _sweep(bucket, port, words, bucket.tree("run"), "run", every)
    what = f"{kills} kills of {work} in a store, {share(every)}"
    record_property("safety", f"object stores: {what}, 0 bad")


@EVERY
def test_recover_killed_at_every_request(
    every: int, bucket: Bucket, port: int, record_property: Callable[[str, str], None]
) -> None:
    """The hardest state to recover: everything is out of place but the marker."""
    bucket.put(SAMPLES / NAME, "run")
    source = bucket.tree("run")
    kills = 0
    with proxied(port) as proxy:
        change = (*DOWN, "--in-place")
        assert not killed(proxy, change, None, after=True)
        at = _commit(proxy)  # before it all is out of place but the marker
        ckptmigrate.undo(url("run"))
        assert bucket.tree("run") == source
        for after in (False, True):
            for number in itertools.count(1 + every // 4, every):
                assert killed(proxy, change, at, after=False)
                hit = killed(proxy, ("recover", url("run")), number, after=after)
                recover.recover(place(url("run")))
                assert bucket.tree("run") == source
                if not hit:
                    break
                kills += 1
                if every > 1:
                    break
    assert kills > (10 if every == 1 else 1)
    what = f"{kills} kills of recover in a store, {share(every)}"
    record_property("safety", f"object stores: {what}, 0 bad")


def _commit(proxy: Proxy) -> int:
    """Which of the writing requests brought metadata.json back, from 1."""
    [found] = [
        seen.write
        for seen in proxy.requests
        if seen.method == "PUT" and seen.path.endswith("/metadata.json") and KEPT not in seen.path
    ]
    return found


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.full)])
def test_a_batch_killed_at_every_request_and_run_again(
    every: int,
    bucket: Bucket,
    port: int,
    tmp_path: Path,
    record_property: Callable[[str, str], None],
) -> None:
    """No `recover` between the two: the same command again finishes what is left."""
    bucket.put(SAMPLES / NAME, "run")
    ledger = tmp_path / "ledger"
    words = (*DOWN, "--all", "-o", url("out"), "--ledger", str(ledger))
    with proxied(port) as proxy:
        assert not killed(proxy, words, None, after=False)
        whole = without_time(bucket.tree("out"))
        kills = 0
        for at in itertools.count(1 + every // 2, every):
            bucket.clear("out")
            ledger.unlink(missing_ok=True)
            if not killed(proxy, words, at, after=True):
                break
            kills += 1
            # What begins with a dot is no checkpoint to anybody.
            caught = {k: v for k, v in bucket.tree("out").items() if not k.startswith(".")}
            if any(key.endswith("/metadata.json") and KEPT not in key for key in caught):
                assert visible(caught) | {TRACKER: b"5"} == visible(whole)
            else:
                assert TRACKER not in caught
            assert not killed(proxy, words, None, after=False)
            assert without_time(bucket.tree("out")) == whole
            assert not [k for k in bucket.names("") if "ckptmigrate-" in k]
            if every > 1 and kills == 2:
                break
    assert kills > (10 if every == 1 else 1)
    assert bucket.tree("run") == files_of(SAMPLES / NAME)
    record_property("safety", f"object stores: {kills} kills of a batch, run again, 0 bad")


@pytest.mark.full
@pytest.mark.parametrize(("place", "every"), [("out", 90), ("run", 90), ("out", 1), ("run", 1)])
def test_a_conversion_killed_at_every_request_and_run_again(
    place: str,
    every: int,
    bucket: Bucket,
    port: int,
    record_property: Callable[[str, str], None],
) -> None:
    """The same command continues; no data file that was finished is written again."""
    source = files_of(OPTIMIZER)
    where = ("-o", url("out")) if place == "out" else ("--in-place",)
    words = ("migrate", url("run"), "--to", "0.16", "--optimizer", "convert", *where)
    words += ("--part-size", "64k")
    kills = 0

    def fresh() -> None:
        bucket.clear("")
        bucket.put_tree(source, "run")

    with proxied(port) as proxy:
        fresh()
        assert not killed(proxy, words, None, after=False)
        whole = without_time(bucket.tree(place))
        moments = ((n, after) for n in itertools.count(1) for after in (False, True))
        for at, after in itertools.islice(moments, every // 2, None, every):
            fresh()
            if not killed(proxy, words, at, after=after):
                break
            kills += 1
            names = bucket.names("")
            finished = {
                name.rpartition("/")[2].removesuffix(".json")
                for name in names
                if name.endswith(".distcp.json")
            }
            assert not killed(proxy, words, None, after=False)
            written = {
                seen.path.partition("?")[0].rpartition("/")[2]
                for seen in proxy.requests
                if seen.write and seen.method in ("PUT", "POST") and not seen.copies
            }
            assert not finished & written
            recovered(url(place))  # the lock of a run that was killed after its commit
            assert without_time(bucket.tree(place)) == whole
            assert not [key for key in bucket.names("") if "ckptmigrate-" in key]
    assert kills >= (20 if every == 1 else 1)
    if place == "out":
        assert bucket.tree("run") == source
    record_property("safety", f"object stores: {kills} kills of a conversion, run again, 0 bad")


def test_uploads_in_parts_that_died_are_dropped(bucket: Bucket, port: int, s3: Run) -> None:
    words = ("downgrade", str(SAMPLES / NAME), *DOWN[2:], "-o", url("out"))
    with proxied(port) as proxy:
        assert killed(proxy, words, 4, after=True)
    start = bucket.client.create_multipart_upload
    start(Bucket=BUCKET, Key="out/iter_0000005/__0_0.distcp")
    other = start(Bucket=BUCKET, Key="outside")["UploadId"]
    assert s3("recover", url("out")).returncode == 0
    uploads = bucket.client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    assert [each["Key"] for each in uploads] == ["outside"]
    bucket.client.abort_multipart_upload(Bucket=BUCKET, Key="outside", UploadId=other)
    assert bucket.names("") == []
