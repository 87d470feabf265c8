"""Every source that the tables name is looked up: the file, and what it is said to show.

The files of megatron-core are in the wheels of `make readers`, those of torch are installed. What
is of megatron/training, or of a release without a wheel here, is held to its form alone.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from packaging.version import Version
from real_releases import READERS

from ckptmigrate.checks.codes import CODES
from ckptmigrate.compat.cells import matrix
from ckptmigrate.logs.recognition import kinds
from ckptmigrate.measuring import jobs
from ckptmigrate.planning.losses import LOSSES
from ckptmigrate.releases.facts import ROWS, compat

INSTALLED = jobs.installed(READERS)
PATH = re.compile(r"\b(?:megatron|nemo|torch)/[\w/]+\.py")
TAG = re.compile(r"core_v([\d.]+\d)")


@dataclass(frozen=True)
class Look:
    """One file of one release, or of torch, and the names to look for.

    Attributes:
        of: the row that says so.
        release: of Megatron-Core; None for torch.
        path: the file.
        names: names that it has.
        without: whether it is said to have none of them.
    """

    of: str
    release: str | None
    path: str
    names: tuple[str, ...]
    without: bool = False


def every_source() -> Iterator[tuple[str, str]]:
    """(name of the row, its source), of all tables."""
    facts, cells = compat(), matrix()
    for section in ROWS:
        for row in getattr(facts, section):
            yield str(getattr(row, fields(row)[0].name)), row.source
    for row in cells.failures:
        yield row.failure, row.source
    yield from ((row.loss, row.source) for row in LOSSES.values())
    yield from ((row.code, row.source) for row in CODES.values())
    yield from ((kind.error, kind.source) for kind in kinds())


def releases(text: str) -> list[str]:
    """The releases with a wheel here that a text names, those between two with `to` included."""
    first_to_last = re.search(rf"{TAG.pattern} to {TAG.pattern}", text)
    if first_to_last is None:
        return [release for release in TAG.findall(text) if release in INSTALLED]
    first, last = (Version(release) for release in first_to_last.groups())
    return [release for release in INSTALLED if first <= Version(release) <= last]


def looks(of: str, source: str) -> Iterator[Look]:
    """What a source says, file by file."""
    for part in re.sub(r" \([^)]*\)", "", source).split("; "):
        where, _, not_in = part.partition(", not in ")
        found = PATH.search(where)
        if found is None:
            continue
        path, names = found[0], tuple(filter(None, where[found.end() :].strip().split(", ")))
        kind, _, sign = of.partition(":")
        names = names or ((sign,) if kind == "argument" else ())
        if path.startswith("torch/"):
            yield Look(of, None, path, names)
        elif path.startswith("megatron/core/"):
            absent = " has no " in where
            for release in releases(where[: found.start()]):
                yield Look(of, release, path, names, without=absent)
            for release in releases(not_in):
                yield Look(of, release, path, names, without=True)


LOOKS = [look for of, source in every_source() for look in looks(of, source)]


def test_a_source_shows_what_it_is_named_for() -> None:
    for look in LOOKS:
        folder = Path(torch.__file__).parents[1] if look.release is None else READERS / look.release
        if look.without and not look.names:
            assert not (folder / look.path).exists(), look
            continue
        text = _text(folder / look.path)
        for part in (part for name in look.names for part in name.split(".")):
            # Defined there, be it as a function, a class, a field, a parameter or a constant.
            defined = re.search(rf"(?:def|class) {part}\b|^ *{part} ?[:=]", text, re.MULTILINE)
            assert (defined is None) == look.without, (part, look)


@functools.cache
def _text(file: Path) -> str:
    return file.read_text()


def test_each_kind_of_source_is_looked_up() -> None:
    assert len(LOOKS) > 150
    assert {look.release for look in LOOKS} == {None, *INSTALLED}
    assert any(look.without and look.names for look in LOOKS)
    assert any(look.without and not look.names for look in LOOKS)


def test_the_form_of_a_source() -> None:
    """A tag comes with a whole path, and a path with a release; torch is the one installed."""
    for row in every_source():
        for part in row[1].split("; "):
            paths = PATH.findall(part)
            assert len(re.findall(r"[\w/]+\.py\b", part)) == len(paths) <= 1, row
            assert paths or not TAG.search(part), row
            if part.startswith("torch "):
                assert part.split()[1] == torch.__version__.partition("+")[0], row
