"""One answer of a store that is wrong: what is taken for absent is never removed for that.

Every request of a verb in turn is refused, or answered as if there were no object of its name.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator

import flaky_store
import pytest
from conftest import SAMPLES
from flaky_store import FlakyFileSystem, ServerError, below

import ckptmigrate
from ckptmigrate import CkptMigrateError, migrate
from ckptmigrate.errors import StoreError

SAMPLE = "0.18.2-idle-w1"
TARGET = "pre-rerun"
RUN, OUT = "flaky://bucket/run", "flaky://bucket/out"
EACH = pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.full)])
READS = ("LIST", "HEAD", "GET", "DOWNLOAD")
# Error -> what raises it for a key, and the operations that can be answered so.
WRONG: dict[str, tuple[Callable[[str], Exception], tuple[str, ...]]] = {
    "403": (lambda key: PermissionError("Access Denied"), (*READS, *flaky_store.WRITING)),
    "500": (lambda key: ServerError("InternalError"), (*READS, *flaky_store.WRITING)),
    "404": (FileNotFoundError, READS),
}


def in_place() -> None:
    migrate(RUN, to=TARGET, in_place=True)


def out_of_place() -> None:
    migrate(RUN, to=TARGET, output=OUT)


def _interrupted(verb: Callable[[], None], commit: str) -> None:
    """Run a verb that the store leaves alone from the request on that was to commit it."""
    seen: list[str] = []

    def gone(operation: str, key: str) -> None:
        if seen or (operation in flaky_store.WRITING and key == commit):
            seen.append(key)
            raise ServerError("SlowDown")

    with FlakyFileSystem.disturbed(before=gone), contextlib.suppress(CkptMigrateError):
        verb()
    assert seen


def _nothing() -> None:
    """Leave the sample as it is."""


# Verb -> what makes its start of the sample, the verb, and what `recover` is given after it.
VERBS: dict[str, tuple[Callable[[], None], Callable[[], object], str]] = {
    "in place": (_nothing, in_place, RUN),
    "out of place": (_nothing, out_of_place, OUT),
    "undo": (in_place, lambda: ckptmigrate.undo(RUN), RUN),
    "recover in place": (
        lambda: _interrupted(in_place, "bucket/run/iter_0000005/metadata.json"),
        lambda: ckptmigrate.recover(RUN),
        RUN,
    ),
    "recover out of place": (
        lambda: _interrupted(out_of_place, "bucket/out/latest_checkpointed_iteration.txt"),
        lambda: ckptmigrate.recover(OUT),
        OUT,
    ),
}


def _answered_wrongly(
    start: dict[str, bytes], verb: Callable[[], object], wrong: str, step: int
) -> Iterator[tuple[str, str]]:
    """Run a verb again and again, each time with one request that is answered wrongly.

    Yields:
        The request, and the error message of the verb, empty where it succeeded.
    """
    error, operations = WRONG[wrong]
    for number in itertools.count(0, step):
        FlakyFileSystem.objects.clear()
        FlakyFileSystem.objects.update(start)
        turn, hit = itertools.count(), list[str]()

        def answer(operation: str, key: str, turn=turn, number=number, hit=hit) -> None:
            if operation in operations and next(turn) == number:
                hit.append(f"{operation} {key}")
                raise error(key)

        said = ""
        with FlakyFileSystem.disturbed(before=answer):
            try:
                verb()
            except CkptMigrateError as caught:
                said = str(caught)
        if not hit:
            return
        yield hit[0], said


def _judged() -> dict[str, bytes]:
    """All objects, without the sidecars, in which there is a time."""
    return {key: found for key, found in below("").items() if "ckptmigrate.json" not in key}


def _readable(tree: dict[str, bytes]) -> dict[str, bytes]:
    """What a reader looks at."""
    return {key: content for key, content in tree.items() if ".ckptmigrate/" not in key}


def _recover(place: str) -> None:
    with contextlib.suppress(ckptmigrate.NotACheckpointError):  # nothing is left of a destination
        ckptmigrate.recover(place)


@EACH
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", VERBS)
def test_one_wrong_answer_loses_nothing(name: str, wrong: str, step: int) -> None:
    prepare, verb, recovered = VERBS[name]
    flaky_store.put(SAMPLES / SAMPLE, "run")
    source = _judged()
    prepare()
    start, before = dict(FlakyFileSystem.objects), _judged()
    verb()
    after = _judged()
    if name.startswith("recover"):
        assert after == source
    runs = 0
    for request, said in _answered_wrongly(start, verb, wrong, step):
        runs += 1
        if not said:
            if wrong == "404":  # what is not listed is not removed
                _recover(recovered)
                assert _readable(_judged()) == _readable(after), request
            else:
                assert _judged() == after, request
            continue
        if _judged() not in (before, after):
            assert "ckptmigrate recover" in said or name.startswith("recover"), (request, said)
        _recover(recovered)
        assert _judged() in ((after,) if name.startswith("recover") else (before, after)), (
            request,
            said,
        )
    assert runs > 1


@pytest.mark.parametrize("name", [".metadata", "common.pt", "metadata.json"])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_read_now_is_not_reported_as_damaged(wrong: str, name: str) -> None:
    """Else `repair` gives up a good checkpoint for an older one."""
    flaky_store.put(SAMPLES / "0.17.1-corrupt-tp2", "run")
    before = below("run")

    def answer(operation: str, key: str) -> None:
        if operation == "GET" and key == f"bucket/run/iter_0000005/{name}":
            raise WRONG[wrong][0](key)

    for verb in (
        lambda: ckptmigrate.verify(RUN),
        lambda: ckptmigrate.repair(RUN, in_place=True),
        lambda: ckptmigrate.repair(RUN, output=OUT),
    ):
        with FlakyFileSystem.disturbed(before=answer), pytest.raises(StoreError):
            verb()
        assert below("run") == before
        assert below("out") == {}
