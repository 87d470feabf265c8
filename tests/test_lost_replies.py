"""A reply that is lost: the library sends the request again, and it meets what it has written."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import flaky_store
import fsspec
import pytest
from conftest import SAMPLES
from flaky_store import WRITING, FlakyFileSystem, ServerError, below
from object_stores import url, without_time
from s3_server import Bucket, proxied
from s3fs import S3FileSystem

import ckptmigrate
from ckptmigrate import migrate
from ckptmigrate.errors import CkptMigrateError, DestinationError, StoreError
from ckptmigrate.places import Url
from ckptmigrate.storage import store

pytest_plugins = ["store_fixtures"]
SAMPLE = "0.18.2-idle-w1"
TARGET = "pre-rerun"
OUT = "flaky://bucket/out"
# What a request that is sent a second time is answered: a write under a condition, and the end of
# an upload in parts.
CODES = {"PUT": ("PreconditionFailed", "412", "NoSuchUpload"), "COPY": ("NoSuchUpload",)}


class LostReply:
    """A fault: a writing request is carried out, and what comes back is the answer to the second.

    Attributes:
        request: which one that was, once it came to it.
    """

    def __init__(self, number: int, code: str) -> None:
        self.request = ""
        self._turn = itertools.count()
        self._number, self._code = number, code

    def __call__(self, operation: str, key: str) -> None:
        if self._code in CODES.get(operation, ()) and next(self._turn) == self._number:
            self.request = f"{operation} {key}"
            raise ServerError(self._code)


def each_lost(code: str, work: Callable[[], object]) -> Iterator[str]:
    """Do some work on a fresh copy again and again, the reply to one more request lost."""
    for number in itertools.count():
        flaky_store.put(SAMPLES / SAMPLE, "run")
        fault = LostReply(number, code)
        with FlakyFileSystem.disturbed(after=fault):
            work()
        if not fault.request:
            assert number > 5, "some replies were lost"
            return
        yield fault.request


@pytest.fixture
def memory() -> Iterator[str]:
    """The sample in another store, from which objects come in pieces."""
    other = fsspec.filesystem("memory")
    other.put(f"{SAMPLES / SAMPLE}/", "/lost/run/", recursive=True)
    yield "memory://lost/run"
    other.rm("/lost", recursive=True)


@pytest.mark.parametrize("code", ["PreconditionFailed", "NoSuchUpload"])
@pytest.mark.parametrize("kind", ["store", "other store", "local", "in place"])
def test_every_lost_reply_is_survived(kind: str, code: str, memory: str) -> None:
    url = flaky_store.put(SAMPLES / SAMPLE, "run")
    source = {"local": str(SAMPLES / SAMPLE), "other store": memory}.get(kind, url)

    def work() -> None:
        if kind == "in place":
            migrate(url, to=TARGET, in_place=True)
        else:
            migrate(source, to=TARGET, output=OUT)

    work()
    wanted = without_time(below(""))
    for request in each_lost(code, work):
        assert without_time(below("")) == wanted, request


def test_the_object_of_somebody_else_is_not_taken_for_ours() -> None:
    payload = "bucket/out/iter_0000005/__0_0.distcp"

    def other(operation: str, key: str) -> None:
        if (operation, key) == ("PUT", payload):
            FlakyFileSystem.objects.setdefault(key, b"of somebody else")

    flaky_store.put(SAMPLES / SAMPLE, "run")
    with FlakyFileSystem.disturbed(before=other), pytest.raises(DestinationError) as caught:
        migrate(SAMPLES / SAMPLE, to=TARGET, output=OUT)
    assert "is being written by another program too" in str(caught.value)
    assert below("out") == {"iter_0000005/__0_0.distcp": b"of somebody else"}


def test_an_upload_that_something_else_has_ended() -> None:
    def aborted(operation: str, key: str) -> None:
        if operation == "PUT" and key.endswith(".distcp"):
            raise ServerError("NoSuchUpload")

    flaky_store.put(SAMPLES / SAMPLE, "run")
    with FlakyFileSystem.disturbed(before=aborted), pytest.raises(StoreError) as caught:
        migrate(SAMPLES / SAMPLE, to=TARGET, output=OUT)
    assert "another program ended its upload" in str(caught.value)
    assert "the written objects were removed" in str(caught.value)
    assert below("out") == {}


@pytest.mark.parametrize("operation", ["HEAD", "GET", "LIST", *WRITING])
def test_a_412_to_what_has_no_condition_is_told_as_that(operation: str) -> None:
    place = Url("flaky", "bucket/run/object")
    FlakyFileSystem.objects[place.key] = b"content"
    asked = {
        "HEAD": lambda: store.store_of(place).size(place),
        "GET": lambda: store.store_of(place).read(place),
        "LIST": lambda: store.store_of(place).list(place.parent),
        "PUT": lambda: store.store_of(place).replace(place, b"new"),
        "COPY": lambda: store.store_of(place).copy(place, place.with_name("copy"), 7),
        "DELETE": lambda: store.store_of(place).remove(place),
    }

    def sticky(found: str, key: str) -> None:
        if found == operation:
            raise ServerError("412")

    with FlakyFileSystem.disturbed(before=sticky), pytest.raises(StoreError) as caught:
        asked[operation]()
    assert "a failed precondition" in str(caught.value)


@pytest.mark.parametrize("kind", ["store", "down"])
def test_an_object_that_vanishes_after_it_was_listed(kind: str, tmp_path: Path) -> None:
    url = flaky_store.put(SAMPLES / SAMPLE, "run")

    def vanish(operation: str, key: str) -> None:
        if operation in ("COPY", "DOWNLOAD") and key.endswith(".distcp"):
            FlakyFileSystem.objects.pop("bucket/run/iter_0000005/__0_0.distcp")

    output = OUT if kind == "store" else tmp_path / "out"
    with FlakyFileSystem.disturbed(before=vanish), pytest.raises(CkptMigrateError) as caught:
        migrate(url, to=TARGET, output=output)
    assert "__0_0.distcp: was removed during the copy" in str(caught.value)
    assert below("out") == {}
    assert list(tmp_path.iterdir()) == []


def test_a_small_object_that_vanishes_in_place() -> None:
    url = flaky_store.put(SAMPLES / SAMPLE, "run")

    def vanish(operation: str, key: str) -> None:
        if operation == "COPY" and key.endswith("old/.metadata"):
            FlakyFileSystem.objects.pop("bucket/run/iter_0000005/.metadata")

    with FlakyFileSystem.disturbed(before=vanish), pytest.raises(DestinationError) as caught:
        migrate(url, to=TARGET, in_place=True)
    assert "was changed by another program during the migration" in str(caught.value)
    assert ".ckptmigrate" not in "".join(below("run"))
    with pytest.raises(CkptMigrateError):
        ckptmigrate.inspect(url)


@pytest.mark.full
@pytest.mark.costly("a migration for each request of one")
@pytest.mark.parametrize("kind", ["store", "local", "in place"])
def test_every_lost_reply_of_a_real_server_is_survived(
    kind: str, bucket: Bucket, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each writing request is carried out, and its connection closed in place of a reply."""

    def work() -> None:
        if kind == "in place":
            migrate(url("run"), to=TARGET, in_place=True)
        else:
            source = SAMPLES / SAMPLE if kind == "local" else url("run")
            migrate(source, to=TARGET, output=url("out"))

    wanted = None
    with proxied(port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        store._of.cache_clear()
        S3FileSystem.clear_instance_cache()
        for lost in itertools.count(0):
            bucket.clear("")
            bucket.put(SAMPLES / SAMPLE, "run")
            proxy.requests.clear()
            proxy.act = lambda number, passed_on, lost=lost: passed_on and number == lost
            work()
            found = without_time(bucket.tree(""))
            wanted = wanted or found
            assert found == wanted, proxy.requests
            if lost > proxy.writes:
                break
    assert lost > 5
