"""Every kind of fault between a command and a store, at every request of the command.

After each the command succeeded and its result is that of an undisturbed run, or it failed with
an error message that is true, and `recover` and the same command again lead to that result.
"""

from __future__ import annotations

import gc
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from urllib.parse import unquote

import gs_server
import pytest
from conftest import CORRUPT, MAIN, SAMPLES
from fault_proxy import KINDS, Kind, faulty
from flaky_store import FlakyFileSystem
from gs_server import GsBucket
from msc_profiles import msc
from object_stores import CLI, TRACKER, without_time
from s3_server import BUCKET, Bucket, Seen, environment, files_of
from s3fs import S3FileSystem

from ckptmigrate import migrate
from ckptmigrate.errors import StoreError
from ckptmigrate.places import Url
from ckptmigrate.storage import store

pytest_plugins = ["store_fixtures"]
SAMPLE = "0.18.2-idle-w1"
DOWN = ("downgrade", "--to", "pre-rerun")
# What a user may set: a hanging server is given up after seconds, and few requests are repeated.
IMPATIENT = {
    "AWS_MAX_ATTEMPTS": "2",
    "FSSPEC_S3": json.dumps({"config_kwargs": {"read_timeout": 2, "connect_timeout": 2}}),
}
LIMIT = 120  # seconds for one command
COMMANDS = {
    "out of place": (*DOWN, "THERE/run", "-o", "THERE/out"),
    "upgrade": ("upgrade", "--to", "common-state", "THERE/run", "-o", "THERE/out"),
    "into the store": (*DOWN, str(SAMPLES / SAMPLE), "-o", "THERE/out"),
    "out of the store": (*DOWN, "THERE/run", "-o", "HERE/out"),
    "in place": (*DOWN, "THERE/run", "--in-place"),
    "undo": ("undo", "THERE/run"),
    "recover": ("recover", "THERE/run"),
    "recover out of place": ("recover", "THERE/out"),
    "repair": ("repair", "THERE/run", "--in-place"),
    "repair out of place": ("repair", "THERE/run", "-o", "THERE/out"),
    "batch": (*DOWN, "THERE/run", "--all", "--ledger", "HERE/ledger", "-o", "THERE/out"),
    "batch in place": (*DOWN, "THERE/run", "--all", "--in-place"),
    "inspect": ("inspect", "THERE/run"),
    "check": ("check", "THERE/run", "--reader", "0.18"),
    "verify": ("verify", "--hash", "THERE/run"),
    "diff": ("diff", "THERE/run", str(SAMPLES / SAMPLE)),
}
# What an error message says where nothing is left of a run.
UNCHANGED = re.compile(
    "nothing was changed|the written objects were removed|the objects of this migration were "
    "removed"
)
Tree = dict[str, bytes]


@dataclass(frozen=True)
class Service:
    """A store, by the library and the server that commands reach it with.

    Attributes:
        bucket: what is in it.
        port: of its server.
        url: of its bucket.
        environment: what a user sets to reach it, for a port and a file for a configuration.
    """

    bucket: Bucket | GsBucket
    port: int
    url: str
    environment: Callable[[int, Path], dict[str, str]]


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """The store of a scheme; S3 without one."""
    scheme = getattr(request, "param", "s3")
    if scheme == "gs":
        with gs_server.served() as port:
            url = f"gs://{BUCKET}"
            yield Service(GsBucket(port), port, url, lambda port, _: gs_server.environment(port))
        return
    bucket, port = request.getfixturevalue("bucket"), request.getfixturevalue("port")
    if scheme == "msc":
        yield Service(bucket, port, "msc://moto", msc)
    else:
        yield Service(bucket, port, f"s3://{BUCKET}", lambda port, _: environment(port))


@dataclass
class Place:
    """What one run works on: a prefix of the bucket, and a local directory.

    Attributes:
        start: the objects that are there before.
    """

    service: Service
    prefix: str
    local: Path
    start: Tree

    def fill(self) -> None:
        self.service.bucket.put_tree(self.start, self.prefix)
        self.local.mkdir()

    def tree(self) -> Tree:
        here = {f"HERE/{name}": content for name, content in files_of(self.local).items()}
        here.pop("HERE/ledger", None)  # it has times
        return self.service.bucket.tree(self.prefix) | here

    def run(self, words: tuple[str, ...], port: int) -> CompletedProcess[str]:
        there = f"{self.service.url}/{self.prefix}"
        store = self.service.environment(port, self.local.with_suffix(".json"))
        told = CLI.run(
            [word.replace("THERE", there).replace("HERE", str(self.local)) for word in words],
            main=MAIN,
            cwd=self.local,
            env={**os.environ, **store, **IMPATIENT},
            timeout=LIMIT,
        )
        told.stdout = told.stdout.replace(there, "THERE").replace(str(self.local), "HERE")
        told.stderr = told.stderr.replace(there, "THERE").replace(str(self.local), "HERE")
        return told


@dataclass
class Case:
    """A command, and what an undisturbed run of it makes of a start.

    Attributes:
        make: makes a place with the start.
        changes: whether the command changes anything.
        requests: what the undisturbed run sent.
    """

    words: tuple[str, ...]
    make: Callable[[], Place]
    told: CompletedProcess[str]
    whole: Tree
    changes: bool
    requests: list[Seen]

    def points(self, kind: Kind) -> list[int]:
        """The numbers of the requests that a kind of fault is done to.

        Of a read that is repeated these are the first one and the last one.
        """
        repeated: dict[tuple[str, str], list[int]] = {}
        for seen in self.requests:
            repeated.setdefault((seen.method, seen.path), []).append(seen.number)
        ends = {number for numbers in repeated.values() for number in (numbers[0], numbers[-1])}
        return [
            seen.number
            for seen in self.requests
            if (seen.write or seen.number in ends)
            and kind.applies(seen, self.requests[: seen.number - 1])
        ]


@pytest.fixture
def case(name: str, service: Service, tmp_path: Path) -> Case:
    numbers = count(1)

    def place(start: Tree) -> Place:
        number = next(numbers)
        made = Place(service, f"r{number:05}", tmp_path / f"r{number:05}", start)
        made.fill()
        return made

    start = _start(name, place, tmp_path / "start")
    words = COMMANDS[name]
    undisturbed = place(start)
    with faulty(service.port) as proxy:
        told = undisturbed.run(words, proxy.port)
    assert told.returncode == 0, told.stderr
    whole = undisturbed.tree()
    return Case(words, lambda: place(start), told, whole, whole != start, proxy.requests)


def _start(name: str, place: Callable[[Tree], Place], here: Path) -> Tree:
    """The objects that a command starts with."""
    if name == "into the store":
        return {}
    sample = CORRUPT if name.startswith("repair") else SAMPLE
    start = {f"run/{key}": content for key, content in files_of(SAMPLES / sample).items()}
    if name == "undo":
        shutil.copytree(SAMPLES / SAMPLE, here / "run")
        migrate(here / "run", to="pre-rerun", in_place=True)
        return files_of(here)
    if name == "recover":
        return _interrupted(place, start, COMMANDS["in place"], "iter_0000005/metadata.json")
    if name == "recover out of place":
        return _interrupted(place, start, COMMANDS["out of place"], "/out/" + TRACKER)
    return start


def _interrupted(
    place: Callable[[Tree], Place], start: Tree, words: tuple[str, ...], commit: str
) -> Tree:
    """What a command leaves whose server is gone at the request that was to commit it."""
    at_commit = replace(
        KINDS["connections are refused"],
        applies=lambda seen, _: (
            seen.method in ("PUT", "POST")
            and re.search(rf"{re.escape(commit)}(&|$)", unquote(seen.path)) is not None
        ),
        lasts=True,
    )
    interrupted = place(start)
    with faulty(interrupted.service.port, at_commit) as proxy:
        assert interrupted.run(words, proxy.port).returncode == 1
        assert proxy.hits
    return interrupted.tree()


def problem(case: Case, kind: Kind, at: int) -> str:
    """Run the command with a fault; return what is wrong with how it ends, or nothing."""
    place = case.make()
    with faulty(place.service.port, kind, at) as proxy:
        try:
            told = place.run(case.words, proxy.port)
        except TimeoutExpired:
            return f"does not end within {LIMIT} s"
        proxy.settle()
    if told.returncode == 0:
        found = _after_success(case, place, told)
    elif told.returncode == 1:
        found = _after_failure(case, place, told)
    else:
        found = f"ends with {told.returncode}"
    return found and f"{found}: {told.stdout[-300:]!r} {told.stderr!r}"


def _after_success(case: Case, place: Place, told: CompletedProcess[str]) -> str:
    if not case.changes:
        return "" if told.stdout == case.told.stdout else "prints something else than undisturbed"
    found, whole = without_time(place.tree()), without_time(case.whole)
    if found != whole and found.items() >= whole.items():
        # A lock or a journal whose removal is only answered is left to `recover`.
        place.run(("recover", _target(case)), place.service.port)
        found = without_time(place.tree())
    if found != whole:
        return f"is reported as done, and is not: {_difference(found, whole)}"
    return ""


def _target(case: Case) -> str:
    return case.words[-1] if "-o" in case.words or case.words[0] == "recover" else "THERE/run"


def _difference(found: dict[str, object], wanted: dict[str, object]) -> str:
    names = {"+": found.keys() - wanted.keys(), "-": wanted.keys() - found.keys()}
    names["!"] = {name for name in found.keys() & wanted.keys() if found[name] != wanted[name]}
    return " ".join(f"{sign}{name}" for sign, each in names.items() for name in sorted(each))


def _after_failure(case: Case, place: Place, told: CompletedProcess[str]) -> str:
    batch = "--all" in case.words  # which tells of each checkpoint on its standard output
    if len(told.stderr.splitlines()) != 1 or "Traceback" in told.stderr:
        return "" if not case.changes and told.stdout else "has no error message of one line"
    if "internal error" in told.stderr:
        return "ends in an internal error"
    start, whole = without_time(place.start), without_time(case.whole)
    after = without_time(place.tree())
    if "-o" in case.words and not after.items() >= start.items():
        return f"changed its source: {_difference(after, start)}"
    if UNCHANGED.search(told.stderr) and after != start:
        return f"is not as it says: {_difference(after, start)}"
    named = "recover" in (told.stdout + told.stderr if batch else told.stderr)
    # Of a batch the same command again adds what is missing.
    if case.words[0] != "recover" and after not in (start, whole) and not (named or batch):
        return f"does not name recover: {_difference(after, start)}"
    if not case.changes:
        return ""
    recovered = place.run(("recover", _target(case)), place.service.port)
    after = without_time(place.tree())
    if after not in (start, whole) and not (batch and after.items() <= whole.items()):
        message = f"{recovered.stdout!r} {recovered.stderr!r}"
        return f"is not made whole by recover: {_difference(after, start)} {message}"
    if after != whole:
        again = place.run(case.words, place.service.port)
        after = without_time(place.tree())
        if again.returncode != 0 or after != whole:
            return f"cannot be run again: {_difference(after, whole)} {again.stderr!r}"
    return ""


def _problems(case: Case, runs: list[tuple[Kind, int]]) -> list[str]:
    """Run them, several at once, since most wait for something."""
    with ThreadPoolExecutor(6) as pool:
        found = pool.map(lambda run: problem(case, *run), runs)
        return [
            f"{kind.name}, at {at} ({case.requests[at - 1].method} "
            f"{case.requests[at - 1].path.split('/', 3)[-1]}): {each}"
            for (kind, at), each in zip(runs, found, strict=True)
            if each
        ]


EACH = pytest.mark.parametrize("name", COMMANDS)


@EACH
def test_some_faults(name: str, case: Case) -> None:
    """Every kind is done to one of the commands, or to two."""
    own = list(COMMANDS).index(name)
    runs = [
        (kind, random.Random(f"{name} {kind.name}").choice(case.points(kind)))
        for number, kind in enumerate(KINDS.values())
        if number % len(COMMANDS) == own
    ]
    assert _problems(case, runs) == []


@pytest.mark.costly("runs a command six times")
@pytest.mark.parametrize(
    "name",
    [
        "in place",
        *(
            pytest.param(each, marks=pytest.mark.full)
            for each in ("into the store", "out of place", "undo", "verify")
        ),
    ],
)
def test_wrong_etags(name: str, case: Case) -> None:
    """From the first request on, which no server of S3 does."""
    assert _problems(case, [(kind, 1) for kind in KINDS.values() if "ETag" in kind.name]) == []


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_parts_of_an_upload_without_etags(
    bucket: Bucket, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """s3fs needs the ETag of each part, and raises a KeyError."""
    monkeypatch.setattr(store, "_PIECE", 5 * 1024**2)  # the least of S3
    FlakyFileSystem.objects["bucket/x"] = bytes(11 * 1024**2)
    source, target = Url("flaky", "bucket/x"), Url("s3", f"{BUCKET}/x")
    with faulty(port, KINDS["no ETags"], at=1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment(proxy.port)["AWS_ENDPOINT_URL"])
        S3FileSystem.clear_instance_cache()
        there = store._of.__wrapped__(target.root)
        with pytest.raises(StoreError, match="a response that lacks a required part"):
            there.transfer(source, target, 11 * 1024**2, lambda _: None)
        del there
        gc.collect()  # an upload that ended is not tried again
    assert bucket.tree("") == {}


OTHERS = pytest.mark.parametrize("service", ["gs", "msc"], indirect=True)


@pytest.mark.full
@OTHERS
@EACH
def test_some_faults_of_other_stores(name: str, case: Case) -> None:
    """Every kind is done to four of the commands, each at one request."""
    own = list(COMMANDS).index(name)
    runs = [
        (kind, random.Random(f"{name} {kind.name}").choice(points))
        for number, kind in enumerate(KINDS.values())
        if number % 4 == own % 4 and (points := case.points(kind))
    ]
    assert _problems(case, runs) == []


@pytest.mark.full
@EACH
def test_every_fault_at_every_request(
    name: str, case: Case, record_property: Callable[[str, str], None]
) -> None:
    runs = [(kind, at) for kind in KINDS.values() for at in case.points(kind)]
    assert _problems(case, runs) == []
    what = f"{len(runs)} runs of `{name}` under {len(KINDS)} kinds of faults"
    record_property("safety", f"object stores: {what}, 0 bad")
