"""Fixtures of object stores: the server, its bucket, and the command line in front of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
import s3_server
from conftest import MAIN, Run
from object_stores import CLI
from s3_server import Bucket, environment
from s3fs import S3FileSystem

from ckptmigrate.storage import store


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The server of the test run, and for a module the environment that leads to it."""
    found = s3_server.shared()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(found).items():
            patch.setenv(name, value)
        _forget()
        yield found
        _forget()


def _forget() -> None:
    """Let neither us nor fsspec keep a client of another server."""
    store._of.cache_clear()
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(port: int) -> Iterator[Bucket]:
    before = s3_server.seconds(port)
    found = Bucket(port)
    found.clear("")
    yield found
    found.clear("")
    forked.spent += s3_server.seconds(port) - before


@pytest.fixture
def stores(tmp_path: Path) -> Run:
    """The command line with the libraries of stores."""
    return lambda *arguments, **more: CLI.run(
        [*map(str, arguments)], main=MAIN, cwd=tmp_path, env={**os.environ, **more}
    )


@pytest.fixture
def s3(port: int, stores: Run) -> Run:
    """The same with the server as its endpoint."""
    return lambda *arguments, **more: stores(*arguments, **{**environment(port), **more})
