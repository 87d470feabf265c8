"""Answers of an S3 server that are wrong, endless or refused, and roots of 100,000 objects."""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import flaky_store
import pytest
from conftest import SAMPLES
from object_stores import TRACKER, url
from s3_server import WRITING, Answer, Bucket, Proxy, Request, environment, pass_on, proxied
from s3fs import S3FileSystem

import ckptmigrate
from ckptmigrate import CkptMigrateError, migrate
from ckptmigrate.storage import store, store_calls

pytest_plugins = ["store_fixtures"]
SAMPLE = "0.18.2-idle-w1"
TARGET = "pre-rerun"
CHECKPOINT = "run/iter_0000005"
ENDLESS = "no response within"
SECONDS = 5.0  # which other answers do not take, on a machine that is busy, too
Handle = Callable[[Request], None]
Through = Callable[[Handle], contextlib.AbstractContextManager[Proxy]]


def _forget() -> None:
    """Let neither us nor fsspec keep a client of another server."""
    store._of.cache_clear()
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def through(bucket: Bucket, port: int, monkeypatch: pytest.MonkeyPatch) -> Through:
    """A sample as `run`, and the way to it through a proxy."""
    bucket.put(SAMPLES / SAMPLE, "run")

    @contextlib.contextmanager
    def proxy(handle: Handle) -> Iterator[Proxy]:
        with proxied(port, handle) as found, monkeypatch.context() as patch:
            told = {**environment(found.port), "AWS_MAX_ATTEMPTS": "1"}
            for name, value in told.items():
                patch.setenv(name, value)
            _forget()
            yield found
        _forget()

    return proxy


def _xml(text: str) -> Answer:
    return Answer(200, [("Content-Type", "application/xml")], text.encode())


def _asked(request: Request) -> dict[str, str]:
    """The parameters of a request."""
    query = parse_qs(urlsplit(request.path).query, keep_blank_values=True)
    return {name: value for name, [value] in query.items()}


def _lists(request: Request, prefix: str) -> bool:
    asked = _asked(request)
    return "list-type" in asked and asked["prefix"] == prefix


# -- roots with many objects

COUNT = 100_000


def _page(asked: dict[str, str]) -> Answer:
    """A page of the listing of a root with COUNT directories, a checkpoint and a tracker file."""
    start = int(asked.get("continuation-token", 0))
    end = min(COUNT, start + min(1000, int(asked.get("max-keys", 1000))))
    deep = not asked["delimiter"]
    found = "".join(
        f"<Contents><Key>run/eval_{n:07d}/result.json</Key><Size>1</Size></Contents>"
        if deep
        else f"<CommonPrefixes><Prefix>run/eval_{n:07d}/</Prefix></CommonPrefixes>"
        for n in range(start, end)
    )
    if end < COUNT:
        found += f"<IsTruncated>true</IsTruncated><NextContinuationToken>{end}"
        found += "</NextContinuationToken>"
    elif not deep:
        found += f"<CommonPrefixes><Prefix>{CHECKPOINT}/</Prefix></CommonPrefixes>"
        found += f"<Contents><Key>run/{TRACKER}</Key><Size>1</Size></Contents>"
    return _xml(f"<ListBucketResult>{found}</ListBucketResult>")


def _many(request: Request) -> None:
    if _lists(request, "run/"):
        request.send(_page(_asked(request)))
    else:
        pass_on(request)


# Verb -> how often it lists the root as a whole. A new root carries what is beside the saves.
ONE_OF_MANY: dict[str, tuple[Callable[[], Any], int]] = {
    "inspect": (lambda: ckptmigrate.inspect(url("run")), 0),
    "check": (lambda: ckptmigrate.check(url("run"), release="0.18"), 0),
    "out of place": (lambda: migrate(url("run"), to=TARGET, output=url("out")), 1),
    "in place": (lambda: migrate(url("run"), to=TARGET, in_place=True), 1),
    "verify": (lambda: ckptmigrate.verify(url("run")), 1),
}


@pytest.mark.parametrize("verb", ONE_OF_MANY)
def test_one_checkpoint_of_a_root_of_many(verb: str, through: Through) -> None:
    work, times = ONE_OF_MANY[verb]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with through(_many) as proxy:
        work()
    pages = [each for each in proxy.requests if "continuation-token" in each.path]
    assert len(pages) == times * (COUNT // 1000 - 1)
    assert len(proxy.requests) - len(pages) < 120
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # in KiB
    assert grown < 512 * 1024


# -- listings that are wrong

ENTITIES = "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 12))
BOMB = (
    f"<!DOCTYPE x [<!ENTITY a0 '{'a' * 50}'>{ENTITIES}]>"
    "<ListBucketResult><Prefix>&a11;</Prefix></ListBucketResult>"
)
AGAIN = (
    "<ListBucketResult><CommonPrefixes><Prefix>run/iter_0000005/</Prefix></CommonPrefixes>"
    "<IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>"
    "</ListBucketResult>"
)
# botocore takes what it cannot parse for an error of the server.
LISTINGS = {
    "an XML bomb": (BOMB, "is overloaded"),
    "no XML": ("<ListBucketResult", "is overloaded"),
    "a token that is repeated": (AGAIN, ENDLESS),
}


@pytest.mark.parametrize("what", LISTINGS)
def test_a_listing_that_is_wrong(
    what: str, through: Through, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, said = LISTINGS[what]
    if said == ENDLESS:
        monkeypatch.setattr(store_calls, "_LIMIT", SECONDS)

    def handle(request: Request) -> None:
        if _lists(request, f"{CHECKPOINT}/") and _asked(request)["delimiter"]:
            request.send(_xml(text))
        else:
            pass_on(request)

    start = time.monotonic()
    with through(handle), pytest.raises(CkptMigrateError, match=said) as caught:
        ckptmigrate.inspect(url("run"))
    assert time.monotonic() - start < 60
    assert len(str(caught.value)) < 1000


# -- objects that are wrong


def _whole(request: Request) -> None:
    """Serve the whole object where a part of it is asked for."""
    if request.command == "GET" and ".distcp" in request.path:
        del request.headers["Range"]
    pass_on(request)


def _another(request: Request) -> None:
    """Serve another object."""
    if request.command == "GET" and request.path.endswith("/.metadata"):
        request.path = request.path.replace("/.metadata", "/common.pt")
        del request.headers["Range"]
    pass_on(request)


def _endless(pause: float, size: int) -> Handle:
    def handle(request: Request) -> None:
        if request.command != "GET" or not request.path.endswith("/.metadata"):
            pass_on(request)
            return
        request.begin(Answer(200, [], b""), 10**12)
        for _ in range(10_000):
            request.wfile.write(bytes(size))
            request.wfile.flush()
            time.sleep(pause)

    return handle


OBJECTS: dict[str, tuple[Handle, str]] = {
    "the whole object for a part": (_whole, "requested bytes"),
    "another object": (_another, "was listed with"),
    "a byte now and then": (_endless(0.2, 1), ENDLESS),
    "an endless object": (_endless(0.01, 65536), ENDLESS),
}


@pytest.mark.parametrize("what", OBJECTS)
def test_an_object_that_is_wrong(
    what: str, through: Through, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, said = OBJECTS[what]
    if said == ENDLESS:
        monkeypatch.setattr(store_calls, "_LIMIT", SECONDS)
    with through(handle), pytest.raises(CkptMigrateError, match=said) as caught:
        ckptmigrate.inspect(url("run"))
    assert caught.value.fix


def test_a_library_without_coroutines_is_given_up_while_it_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = flaky_store.put(SAMPLES / SAMPLE, "run")
    monkeypatch.setattr(store_calls, "_LIMIT", 1.0)
    ended = threading.Event()

    def hang(operation: str, key: str) -> None:
        if operation == "GET" and key.endswith("/.metadata"):
            ended.wait(60)

    store._of.cache_clear()
    try:
        with (
            flaky_store.FlakyFileSystem.disturbed(before=hang),
            pytest.raises(CkptMigrateError, match=ENDLESS) as caught,
        ):
            ckptmigrate.inspect(url)
    finally:
        ended.set()
        store._of.cache_clear()
    assert "/.metadata" in str(caught.value)


# -- what credentials may not do


def _denied(denies: Callable[[Request], bool]) -> Handle:
    code = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"

    def handle(request: Request) -> None:
        if denies(request):
            request.send(Answer(403, [("Content-Type", "application/xml")], code.encode()))
        else:
            pass_on(request)

    return handle


def _out() -> None:
    migrate(url("run"), to=TARGET, output=url("out"))


def _in_place() -> None:
    migrate(url("run"), to=TARGET, in_place=True)


DENIED: dict[str, tuple[Callable[[Request], bool], Callable[[], Any], str]] = {
    "writes, out of place": (
        lambda request: request.command in WRITING,
        _out,
        r"/\.out\.ckptmigrate-lock: no permission to write it",
    ),
    "writes, in place": (
        lambda request: request.command in WRITING,
        _in_place,
        r"/\.ckptmigrate/lock: no permission to write it",
    ),
    "listing": (
        lambda request: "list-type" in request.path,
        lambda: ckptmigrate.inspect(url("run")),
        "/run: no permission to list it",
    ),
    "one object": (
        lambda request: request.command == "GET" and request.path.endswith("/common.pt"),
        lambda: ckptmigrate.inspect(url("run")),
        "/common.pt: no permission to read it",
    ),
    "copies": (
        lambda request: "x-amz-copy-source" in request.headers,
        _out,
        r"/out/iter_0000005/__0_0\.distcp: no permission to copy to it",
    ),
}


@pytest.mark.parametrize("what", DENIED)
def test_what_is_denied_is_named_and_nothing_is_left(
    what: str, through: Through, bucket: Bucket
) -> None:
    denies, verb, said = DENIED[what]
    before = bucket.tree("")
    with through(_denied(denies)), pytest.raises(CkptMigrateError, match=said) as caught:
        verb()
    assert "AWS_PROFILE" in str(caught.value)
    assert bucket.tree("") == before


@pytest.mark.parametrize("verb", [_out, _in_place])
def test_what_may_not_be_removed_is_left_to_recover(
    verb: Callable[[], None], through: Through, bucket: Bucket
) -> None:
    before = bucket.tree("")
    with (
        through(_denied(lambda request: request.command == "DELETE")),
        pytest.raises(CkptMigrateError, match="no permission to remove it") as caught,
    ):
        verb()
    place = "out" if verb is _out else f"{CHECKPOINT}"
    assert f"`ckptmigrate recover {url(place)}`" in str(caught.value)
    ckptmigrate.recover(url(place))
    assert not [key for key in bucket.names("") if "ckptmigrate-" in key or "/stage/" in key]
    assert bucket.tree("run") == {k[4:]: v for k, v in before.items() if k.startswith("run/")}


def test_uploads_that_may_not_be_listed_keep_nobody_from_recovering(
    through: Through, bucket: Bucket
) -> None:
    before = bucket.tree("")
    marker = "out/iter_0000005/metadata.json"
    with (
        through(
            _denied(
                lambda request: (
                    request.path.endswith("?uploads")
                    or (request.command == "PUT" and request.path.endswith(marker))
                )
            )
        ),
        pytest.raises(CkptMigrateError, match="the written objects were removed"),
    ):
        _out()
    assert bucket.tree("") == before
