"""The facts about releases, as people edit them in compat_matrix.yaml (compiling.py).

packaging is imported where it is used: a migration between layouts does without.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from ckptmigrate.access import opener

COMPILED: Final = "data/releases.json"


@dataclass(frozen=True)
class LayoutRow:
    """Which releases write a layout.

    Attributes:
        layout: its name.
        releases: a specifier (see `matches`).
        summary: one line.
        why: what it changes for a reader.
        source: the tag, file or sample it is known from.
    """

    layout: str
    releases: str
    summary: str
    why: str
    source: str


@dataclass(frozen=True)
class SignRow:
    """A trace that releases, or versions of torch, leave in a checkpoint.

    Attributes:
        sign: kind and name, for example `argument:rerun_mode`.
        present: specifier of the releases (or torch versions) where it is there.
        absent: specifier of those where it is not.
        source: the tag, file or sample it is known from.
    """

    sign: str
    present: str
    absent: str
    source: str


@dataclass(frozen=True)
class ReaderRow:
    """A release that `check` asks by default.

    Attributes:
        release: its last patch.
        torch: the version of torch that it runs under unless another is stated.
        source: the measurements that it has.
    """

    release: str
    torch: str
    source: str


@dataclass(frozen=True)
class LoadingRow:
    """Which symbols a reader's load of common.pt admits.

    Attributes:
        releases: specifier of the readers.
        symbols: `any` that can be imported, or `torch-default`: what torch.load admits.
        source: the tags and the file it is known from.
    """

    releases: str
    symbols: str
    source: str


@dataclass(frozen=True)
class MissingRow:
    """How a reader ends that does not find common.pt, or RNG states.

    Attributes:
        releases: specifier of the readers.
        error: their error; `{path}` stands for the checkpoint.
        source: where it was measured, or the tags and the file it is known from.
    """

    releases: str
    error: str
    source: str


@dataclass(frozen=True)
class AllowListRow:
    """Symbols that releases add to torch's allow-list.

    Attributes:
        releases: specifier of the readers.
        symbols: dotted names, each that of the class itself, which is what a pickle names.
        source: the tags and the file it is known from.
    """

    releases: str
    symbols: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class SymbolRow:
    """A symbol that comes and goes with the release.

    An enum has a row for each range of releases with the same members.

    Attributes:
        symbol: its dotted name.
        releases: specifier of the readers that can resolve it.
        members: member name -> value, where it is an enum whose values are told apart.
        source: the tag, file or sample it is known from.
    """

    symbol: str
    releases: str
    members: Mapping[str, int]
    source: str


@dataclass(frozen=True)
class MovedRow:
    """One of the two names of a module that Python or NumPy has moved.

    Attributes:
        module: the name; modules inside are named likewise.
        other: the other name of the same module.
        package: `Python` or `NumPy`, whose version decides.
        importable: specifier of its versions that import the module by this name.
        pickled: specifier of those that pickle by this name, and allow by it what Megatron allows.
        error: how a load ends where it cannot be imported.
        source: the tags and files it is known from.
    """

    module: str
    other: str
    package: str
    importable: str
    pickled: str
    error: str
    source: str

    def renamed(self, path: str) -> str:
        """The other dotted name of a symbol in the module."""
        return self.other + path[len(self.module) :]


@dataclass(frozen=True)
class ShardingRow:
    """A sharding type of the distributed optimizer.

    Attributes:
        type: its name in `content_metadata`.
        releases: specifier of its readers.
        error: the error of all others; empty where there are none.
        source: the tag, file or sample it is known from.
    """

    type: str
    releases: str
    error: str
    source: str


@dataclass(frozen=True)
class FormRow:
    """A form of optimizer states that some releases do not read.

    Attributes:
        form: its name; optimizer.py says how it is recognised.
        releases: specifier of its readers.
        why: the reason that all others do not read it.
        error: their error; names in braces stand for values.
        source: the tag, file or sample it is known from.
    """

    form: str
    releases: str
    why: str
    error: str
    source: str


@dataclass(frozen=True)
class RngRow:
    """The grid of `rng_state` under expert parallelism; without, every release has (PP, TP).

    Attributes:
        releases: specifier of the releases that write it, and ask for it.
        axes: what its dimensions count, in ranks: PP, TP, DPxCP.
        source: the tags and the file it is known from.
    """

    releases: str
    axes: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Compat:
    """The content of compat_matrix.yaml; the sections in the order of the file."""

    layouts: tuple[LayoutRow, ...]
    known_releases: tuple[str, ...]
    writer_signs: tuple[SignRow, ...]
    torch_signs: tuple[SignRow, ...]
    readers: tuple[ReaderRow, ...]
    common_loading: tuple[LoadingRow, ...]
    missing_common: tuple[MissingRow, ...]
    allow_lists: tuple[AllowListRow, ...]
    torch_allows: tuple[str, ...]
    symbols: tuple[SymbolRow, ...]
    moved_modules: tuple[MovedRow, ...]
    optimizer_sharding: tuple[ShardingRow, ...]
    forms: tuple[FormRow, ...]
    rng_grids: tuple[RngRow, ...]
    missing_rng: tuple[MissingRow, ...]

    def row(self, layout: str) -> LayoutRow:
        """The row of a layout."""
        return next(row for row in self.layouts if row.layout == layout)

    def symbol(self, path: str) -> list[SymbolRow]:
        """The rows of a symbol, oldest releases first."""
        return [row for row in self.symbols if row.symbol == path]

    def moved(self, path: str) -> MovedRow | None:
        """The row of the module that a symbol is in; None for a module that never moved."""
        rows = [row for row in self.moved_modules if path.startswith(f"{row.module}.")]
        return max(rows, key=lambda row: len(row.module), default=None)

    def names(self, path: str) -> tuple[str, ...]:
        """Every dotted name that a symbol has had, the given one first."""
        row = self.moved(path)
        return (path,) if row is None else (path, row.renamed(path))


# The sections of the file that are lists of rows, and those that are lists of plain text.
ROWS: Final[dict[str, type]] = {
    "layouts": LayoutRow,
    "writer_signs": SignRow,
    "torch_signs": SignRow,
    "readers": ReaderRow,
    "common_loading": LoadingRow,
    "missing_common": MissingRow,
    "allow_lists": AllowListRow,
    "symbols": SymbolRow,
    "moved_modules": MovedRow,
    "optimizer_sharding": ShardingRow,
    "forms": FormRow,
    "rng_grids": RngRow,
    "missing_rng": MissingRow,
}
TEXTS: Final = ("known_releases", "torch_allows")


@lru_cache(maxsize=1)
def compat() -> Compat:
    """The facts that are shipped."""
    return from_sections(json.loads(opener.shipped(COMPILED)))


def from_sections(sections: Mapping[str, Any]) -> Compat:
    """The facts from plain lists and mappings that fit the schema (see compiling.py)."""
    rows: dict[str, Any] = {
        name: tuple(row(**{k: _frozen(v) for k, v in each.items()}) for each in sections[name])
        for name, row in ROWS.items()
    }
    return Compat(**rows, **{name: tuple(sections[name]) for name in TEXTS})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@lru_cache(maxsize=4096)
def matches(release: str, specifier: str) -> bool:
    """Whether a release is in a specifier (PEP 440), or in one of several between `|`.

    Development versions count. An alpha, beta or release candidate is like what it leads to: PEP
    440 has `0.14.0rc7` neither in `<0.14` nor in `>=0.14`, and NVIDIA's containers have a torch
    such as `2.6.0a0+ecf3bae40a.nv25.01`.
    """
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    version = Version(release)
    if version.pre is not None:
        release = version.base_version
    # One specifier may name two ranges ("<0.8|>=0.16"): then either side will do.
    return any(
        SpecifierSet(part).contains(release, prereleases=True) for part in specifier.split("|")
    )


def minor(release: str) -> tuple[int, ...]:
    """The minor release that a release belongs to, for example (0, 13) for `0.13.1`."""
    from packaging.version import Version

    return Version(release).release[:2]
