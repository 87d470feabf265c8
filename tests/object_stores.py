"""What the tests of object stores share: a server, its bucket, and the command line before it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from conftest import Run
from s3_server import (
    BUCKET,
    Bucket,
    environment,
    served,
)

from ckptmigrate.objects import store

KEPT = ".ckptmigrate/"
NAME = "0.18.2-fault-dp2"
TRACKER = "latest_checkpointed_iteration.txt"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server of this module's own, and the environment that leads to it."""
    with served() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(found).items():
            patch.setenv(name, value)
        store._of.cache_clear()
        yield found
        store._of.cache_clear()


@pytest.fixture
def bucket(port: int) -> Iterator[Bucket]:
    found = Bucket(port)
    found.clear("")
    yield found
    found.clear("")


@pytest.fixture
def s3(run: Run, port: int) -> Run:
    """The command line, with the server as its endpoint."""
    return lambda *arguments, **more: run(*arguments, **{**environment(port), **more})


def url(name: str) -> str:
    return f"s3://{BUCKET}/{name}"


def visible(tree: dict[str, bytes]) -> dict[str, bytes]:
    """What a reader looks at."""
    return {k: v for k, v in tree.items() if KEPT not in k and not k.endswith("ckptmigrate.json")}


def without_time(tree: dict[str, bytes]) -> dict[str, object]:
    """The sidecar as a value without what differs from run to run."""
    found: dict[str, object] = dict(tree)
    for name in tree:
        if name.endswith("ckptmigrate.json"):
            steps = json.loads(tree[name])["steps"]
            found[name] = [{**step, "time": None} for step in steps]
    return found
