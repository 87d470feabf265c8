"""Fixtures of object stores: a server, its bucket, and the command line before it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import Run
from s3_server import Bucket, environment, served
from s3fs import S3FileSystem

from ckptmigrate.access import store


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server of this module's own, and the environment that leads to it."""
    with served() as found, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(found).items():
            patch.setenv(name, value)
        _forget()
        yield found
        _forget()


def _forget() -> None:
    """Neither we nor fsspec keep a client of a server that is gone."""
    store._of.cache_clear()
    S3FileSystem.clear_instance_cache()


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
