"""Log each test to MUTATION_LOG as it starts, fails and ends; record its lines by its id."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from sitecustomize import recorder, test_of_environment


def _log(**entry: object) -> None:
    path = Path(os.environ["MUTATION_LOG"], f"tests-{os.getpid()}.jsonl")
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    names = getattr(item, "fixturenames", [])
    definitions = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009
    shared = [f"{d.baseid} {name}" for name in names for d in definitions.get(name, ())
              if d.scope != "function"]  # fmt: skip
    _log(start=item.nodeid, fixtures=shared)
    started = _cpu_seconds()
    if recorder is not None:
        _forget_results(item)
        recorder.switch(item.nodeid)
    try:
        return (yield)
    finally:
        if recorder is not None:
            recorder.switch("")
        _log(end=item.nodeid, seconds=round(_cpu_seconds() - started, 3))


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Record a fixture that tests share by its own name, as one test alone sets it up."""
    if recorder is None or fixturedef.scope == "function":
        return (yield)
    within, before = test_of_environment(), os.environ.get("PYTEST_CURRENT_TEST", "")
    name = f"{fixturedef.baseid} {fixturedef.argname}"
    os.environ["PYTEST_CURRENT_TEST"] = f"{name} (setup)"
    recorder.switch(name)
    try:
        return (yield)
    finally:
        os.environ["PYTEST_CURRENT_TEST"] = before
        recorder.switch(within)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _log(failed=report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _log(failed=report.nodeid)


def _cpu_seconds() -> float:
    """Return the CPU time of this process, its children and the fork servers of `forked`."""
    own, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    forks = float(getattr(sys.modules.get("forked"), "spent", 0))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime + forks


def _forget_results(item: pytest.Item) -> None:
    """Clear functools caches of the package and of the test module, so that each test counts."""
    own = getattr(item, "module", None)
    for module in list(sys.modules.values()):
        name = getattr(module, "__name__", "")
        if module is own or str(name).partition(".")[0] == "ckptmigrate":
            for value in list(vars(module).values()):
                if getattr(value, "__module__", "") == name and hasattr(value, "cache_clear"):
                    value.cache_clear()
