"""A release as a reader: which symbols it can load, from compat_matrix.yaml."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.checkpoint.manifest import COMMON_MARKER
from ckptmigrate.errors import RefusedError
from ckptmigrate.inert.tree import Object, enum_value
from ckptmigrate.releases.dtypes import unnamed_class
from ckptmigrate.releases.environment import USUAL, Environment
from ckptmigrate.releases.facts import Compat, FormRow, MissingRow, matches, minor

# Without Megatron every reader has these; what else a pickle names is of no release.
_EVERYWHERE: Final = frozenset({"torch", "numpy", "__builtin__", *sys.stdlib_module_names})
_ONE: Final = "name one such as 0.13.1; for all run `ckptmigrate explain`"
_WEIGHTS_ONLY_SINCE: Final = ">=2.6"  # torch.load's default (torch 2.6 release notes)


@dataclass(frozen=True)
class Reader:
    """One release under one torch.

    Attributes:
        release: for example `0.13.1`.
        torch: for example `2.13.0`.
        layout: the name of the layout it writes, by whose rule it asks for rerun state.
        compat: where the facts come from.
        environment: the Python and the NumPy of the job.
    """

    release: str
    torch: str
    layout: str
    compat: Compat
    environment: Environment = USUAL

    def is_in(self, specifier: str) -> bool:
        """Whether a specifier of releases names this one."""
        return matches(self.release, specifier)

    @property
    def like(self) -> str | None:
        """The release that it is taken to be like, where it is newer or older than all known."""
        oldest, newest = self.compat.readers[0].release, self.compat.known_releases[-1]
        if minor(self.release) < minor(oldest):
            return oldest
        return newest if minor(self.release) > minor(newest) else None

    @property
    def caveat(self) -> str | None:
        """That no rule that it is judged by is about it; None where it is known."""
        if self.like is None:
            return None
        age = "newer" if minor(self.release) > minor(self.like) else "older"
        return f"{self.release} is {age} than all that is known, and taken to be like {self.like}"

    @property
    def weights_only(self) -> bool:
        """Whether common.pt is loaded by torch's weights_only machine and its allow-list."""
        rows = (r for r in self.compat.common_loading if self.is_in(r.releases))
        by_default = any(row.symbols == "torch-default" for row in rows)
        return by_default and matches(self.torch, _WEIGHTS_ONLY_SINCE)

    def resolves(self, path: str) -> bool:
        """Whether a symbol of this dotted name is there to be imported."""
        rows = self.compat.symbol(path)
        if rows:
            return any(self.is_in(row.releases) for row in rows)
        if path.partition(".")[0] not in _EVERYWHERE:
            return False
        return self.environment.imports(path, self.compat)

    def makes(self, obj: Object) -> bool:
        """Whether an object that is an enum member is one of this release, by its value."""
        value = enum_value(obj)
        rows = [] if value is None else self.compat.symbol(type(obj).path)
        return all(
            value in row.members.values()
            for row in rows
            if row.members and self.is_in(row.releases)
        )

    def allows(self, path: str) -> bool:
        """Whether the weights_only machine admits a symbol of this dotted name."""
        names = {*self.compat.names(path)}
        listed = any(_fits(path, name) for name in self.compat.torch_allows) or any(
            names & {*row.symbols} for row in self.compat.allow_lists if self.is_in(row.releases)
        )
        return listed and self.environment.pickles(path, self.compat)

    def condition(self, path: str, *, by_list: bool) -> str | None:
        """Which Python or NumPy a job needs for a symbol of this name; None where any will do."""
        return self.environment.condition(path, self.compat, by_list=by_list)

    def forbidden_class(self, obj: Object) -> str | None:
        """The class of a dtype, or of that of an array, which the weights_only machine refuses."""
        name = unnamed_class(obj, self.compat)
        return None if name is None or self.allows(name) else name

    def unknown_marker_keys(self, marker: Mapping[str, Any]) -> list[str]:
        """The keys of metadata.json that this release refuses.

        Up to 0.18 it goes into a dataclass of four fields (core_v0.18.2
        megatron/core/dist_checkpointing/core.py maybe_load_config).
        """
        known = {"sharded_backend", "sharded_backend_version", *COMMON_MARKER}
        return [] if self.is_in(">=0.19") else [key for key in marker if key not in known]

    def unread_forms(self, form: str) -> list[FormRow]:
        """The row of a form of the table `forms`, where this release does not read it."""
        return [r for r in self.compat.forms if r.form == form and not self.is_in(r.releases)]

    @property
    def rng_by_rank(self) -> bool:
        """Whether, with expert parallelism, it has RNG states for every rank."""
        return any("DPxCP" in row.axes for row in self.compat.rng_grids if self.is_in(row.releases))

    @property
    def missing_common_error(self) -> str | None:
        """The error where there is no common.pt; None for a reader that needs none."""
        return self._error(self.compat.missing_common)

    @property
    def needs_common_file(self) -> bool:
        """Whether it looks for the common state in common.pt alone."""
        return self.missing_common_error is not None

    @property
    def missing_rng_error(self) -> str | None:
        """How a job ends that loaded no RNG states unasked; None for one that goes on."""
        return self._error(self.compat.missing_rng)

    def _error(self, rows: Iterable[MissingRow]) -> str | None:
        return next((row.error for row in rows if self.is_in(row.releases)), None)


def _fits(path: str, name: str) -> bool:
    """Whether a dotted name fits one of torch_allows, where `*` stands for a part without dots."""
    if "*" not in name:
        return path == name
    return re.fullmatch(re.escape(name).replace(r"\*", r"[^.]*"), path) is not None


def reader(
    release: str,
    compat: Compat,
    torch: str | None = None,
    environment: Environment = USUAL,
) -> Reader:
    """The reader of a release; `0.16` means the last patch known of it.

    Args:
        torch: its version of torch; by default the one its row in compat_matrix.yaml names.
        environment: its Python and NumPy.

    Raises:
        RefusedError: the release is no version of two numbers or more, the torch no version, or
            no layout of the release is known.
    """
    from packaging.version import Version

    try:
        version = Version(release)
    except ValueError as error:  # no version, or one of more digits than Python reads
        raise RefusedError(f"there is no release {release!r}", fix=_ONE) from error
    try:
        stated = None if torch is None else str(Version(torch))
    except ValueError as error:
        raise RefusedError(
            f"there is no torch {torch!r}", fix="name a version such as --torch 2.6.0"
        ) from error
    if len(version.release) == 1:  # 013 is a slip, and not the release 13 of some later year
        raise RefusedError(f"there is no release {release!r}", fix=_ONE)
    full = str(version)
    known = [row.release for row in compat.readers if _is_patch_of(row.release, full)]
    full = known[-1] if known else full
    layouts = [row.layout for row in compat.layouts if matches(full, row.releases)]
    if not layouts:
        raise RefusedError(
            f"no layout is known of release {release!r}",
            fix="for those that are known run `ckptmigrate layouts`",
        )
    # A patch without a row of its own runs under the torch of its minor release.
    rows = [row for row in compat.readers if minor(row.release) <= minor(full)]
    usual = rows[-1].torch if rows else compat.readers[0].torch
    return Reader(full, stated or usual, layouts[0], compat, environment)


def _is_patch_of(release: str, minor: str) -> bool:
    return release == minor or (minor.count(".") == 1 and release.startswith(f"{minor}."))


def readers(
    compat: Compat,
    torch: str | None = None,
    environment: Environment = USUAL,
) -> list[Reader]:
    """The readers that a checkpoint is checked against by default, oldest first."""
    return [reader(row.release, compat, torch, environment) for row in compat.readers]
