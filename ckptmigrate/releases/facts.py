"""The facts about releases, compiled from compat_matrix.yaml (see compiling.py).

`packaging` is imported inside functions, because a migration between layouts does not need it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from ckptmigrate.storage import local_files

COMPILED: Final = "data/releases.json"


@dataclass(frozen=True)
class LayoutRow:
    """Which releases write a layout.

    Attributes:
        layout: its name.
        releases: a specifier (see `matches`).
        summary: one line.
        why: its effect on a reader.
        source: the tag, file or sample of this fact.
    """

    layout: str
    releases: str
    summary: str
    why: str
    source: str


@dataclass(frozen=True)
class SignRow:
    """A sign of the release, or of the torch version, that wrote a checkpoint.

    Attributes:
        sign: kind and name, for example `argument:rerun_mode`.
        present: specifier of the releases (or torch versions) if the sign is present.
        absent: specifier of the releases (or torch versions) if the sign is absent.
        source: the tag, file or sample of this fact.
    """

    sign: str
    present: str
    absent: str
    source: str


@dataclass(frozen=True)
class ReaderRow:
    """A release that `check` includes by default.

    Attributes:
        release: its last patch.
        torch: its default version of torch.
        source: the measurements of the release.
    """

    release: str
    torch: str
    source: str


@dataclass(frozen=True)
class LoadingRow:
    """Which globals a reader allows in common.pt.

    Attributes:
        releases: specifier of the readers.
        symbols: `any` (everything that can be imported) or `torch-default` (what torch.load
            allows by default).
        source: the tags and the file of this fact.
    """

    releases: str
    symbols: str
    source: str


@dataclass(frozen=True)
class MissingRow:
    """The error of a reader if common.pt, or the RNG states, are missing.

    Attributes:
        releases: specifier of the readers.
        error: their error; `{path}` stands for the checkpoint.
        source: the measurement, or the tags and the file, of this fact.
    """

    releases: str
    error: str
    source: str


@dataclass(frozen=True)
class AllowListRow:
    """Globals that releases add to torch's allow-list.

    Attributes:
        releases: specifier of the readers.
        symbols: dotted names of the classes, as a pickle names them.
        source: the tags and the file of this fact.
    """

    releases: str
    symbols: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class SymbolRow:
    """A global that only some releases have.

    An enum has a row for each range of releases with the same members.

    Attributes:
        symbol: its dotted name.
        releases: specifier of the readers that can resolve it.
        members: member name -> value, for an enum whose values matter.
        source: the tag, file or sample of this fact.
    """

    symbol: str
    releases: str
    members: Mapping[str, int]
    source: str


@dataclass(frozen=True)
class MovedRow:
    """One of the two names of a module that Python or NumPy has moved.

    Attributes:
        module: the name, which is also the prefix of its submodules.
        other: the other name of the same module.
        package: `Python` or `NumPy`, whose version decides which name works.
        importable: specifier of the package's versions that can import the module by this name.
        pickled: specifier of the package's versions that pickle by this name; Megatron's
            allow-list has this name there.
        error: the load error if the module cannot be imported.
        source: the tags and files of this fact.
    """

    module: str
    other: str
    package: str
    importable: str
    pickled: str
    error: str
    source: str

    def renamed(self, path: str) -> str:
        """Return the other dotted name of a global in the module."""
        return self.other + path[len(self.module) :]


@dataclass(frozen=True)
class ShardingRow:
    """A sharding type of the distributed optimizer.

    Attributes:
        type: its name in `content_metadata`.
        releases: specifier of its readers.
        error: the error of all other releases; empty if there are none.
        resized_error: the error of a job with other TP or PP sizes than the checkpoint; empty if it
            loads the optimizer.
        source: the tag, file or sample of this fact.
    """

    type: str
    releases: str
    error: str
    resized_error: str
    source: str


@dataclass(frozen=True)
class FormRow:
    """A form of optimizer states that some releases cannot read.

    Attributes:
        form: its name; optimizer.py detects it.
        releases: specifier of its readers.
        why: the reason why all other releases cannot read it.
        error: the error of these other releases; names in braces stand for values.
        source: the tag, file or sample of this fact.
    """

    form: str
    releases: str
    why: str
    error: str
    source: str


@dataclass(frozen=True)
class RngRow:
    """The global shape of `rng_state` with expert parallelism; without, it is always (PP, TP).

    Attributes:
        releases: specifier of the releases that save and request it.
        axes: the meaning of its dimensions, in ranks: PP, TP, DPxCP.
        source: the tags and the file of this fact.
    """

    releases: str
    axes: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class ModuleRow:
    """Modules that have an `_extra_state` in a job.

    Attributes:
        weights: name of a module with a weight, of one or two parts -> the dimensions of the weight
            in one layer.
        sibling: the name, beside that module, of the one that has the `_extra_state`; empty if it
            is the module itself.
        releases: specifier of the releases whose jobs request it.
        engines: specifier of the versions of Transformer Engine; 0 is a job without it.
        source: the tags and the files of this fact.
    """

    weights: Mapping[str, int]
    sibling: str
    releases: str
    engines: str
    source: str


@dataclass(frozen=True)
class NoStateRow:
    """A value of an `_extra_state` that means "no state".

    Attributes:
        value: its name in checkpoint/extra_state.py.
        engines: specifier of the versions of Transformer Engine that load it.
        error: the error of all other versions.
        source: the tags, the file and the lines of this fact.
    """

    value: str
    engines: str
    error: str
    source: str


@dataclass(frozen=True)
class UnmeasuredRow:
    """A change of a development version after the commit that was measured.

    Attributes:
        subject: what it changes; rng.py uses `rng-grid`.
        releases: specifier of the releases that may have the change.
        measured: the commit that the other rows describe.
        change: what is known about the change, and what is not.
        source: the pull requests of this fact.
    """

    subject: str
    releases: str
    measured: str
    change: str
    source: str


@dataclass(frozen=True)
class Compat:
    """The content of compat_matrix.yaml, with the sections in the order of the file."""

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
    unmeasured: tuple[UnmeasuredRow, ...]
    missing_rng: tuple[MissingRow, ...]
    extra_state_modules: tuple[ModuleRow, ...]
    extra_state_values: tuple[NoStateRow, ...]

    def row(self, layout: str) -> LayoutRow:
        """Return the row of a layout."""
        return next(row for row in self.layouts if row.layout == layout)

    def symbol(self, path: str) -> list[SymbolRow]:
        """Return the rows of a global, oldest releases first."""
        return [row for row in self.symbols if row.symbol == path]

    def moved(self, path: str) -> MovedRow | None:
        """Return the row of the module that contains a global; None if the module never moved."""
        rows = [row for row in self.moved_modules if path.startswith(f"{row.module}.")]
        return max(rows, key=lambda row: len(row.module), default=None)

    def names(self, path: str) -> tuple[str, ...]:
        """Return every dotted name of a global, the given name first."""
        row = self.moved(path)
        return (path,) if row is None else (path, row.renamed(path))


# The sections of the file that are lists of rows, and those that are lists of text.
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
    "unmeasured": UnmeasuredRow,
    "missing_rng": MissingRow,
    "extra_state_modules": ModuleRow,
    "extra_state_values": NoStateRow,
}
TEXTS: Final = ("known_releases", "torch_allows")


@lru_cache(maxsize=1)
def compat() -> Compat:
    """Return the facts that the package ships."""
    return from_sections(json.loads(local_files.shipped(COMPILED)))


def from_sections(sections: Mapping[str, Any]) -> Compat:
    """Return the facts from plain lists and mappings that match the schema (see compiling.py)."""
    rows: dict[str, Any] = {
        name: tuple(row(**{k: _frozen(v) for k, v in each.items()}) for each in sections[name])
        for name, row in ROWS.items()
    }
    return Compat(**rows, **{name: tuple(sections[name]) for name in TEXTS})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@lru_cache(maxsize=4096)
def matches(release: str, specifier: str) -> bool:
    """Return whether a release matches a PEP 440 specifier, or one of several separated by `|`.

    Development versions match, too. An alpha, beta or release candidate counts as its final
    release: in PEP 440, `0.14.0rc7` matches neither `<0.14` nor `>=0.14`, and NVIDIA's containers
    have a torch such as `2.6.0a0+ecf3bae40a.nv25.01`.
    """
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    version = Version(release)
    if version.pre is not None:
        release = version.base_version
    # A specifier may contain two ranges ("<0.8|>=0.16"); one match is sufficient.
    return any(
        SpecifierSet(part).contains(release, prereleases=True) for part in specifier.split("|")
    )


def minor(release: str) -> tuple[int, ...]:
    """Return the minor release of a release, for example (0, 13) for `0.13.1`."""
    from packaging.version import Version

    return Version(release).release[:2]
