"""A release as a reader: which globals it can load, from compat_matrix.yaml."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.checkpoint.manifest import COMMON_MARKER
from ckptmigrate.errors import RefusedError
from ckptmigrate.pickles.tree import Object, enum_value
from ckptmigrate.releases.dtypes import unnamed_class
from ckptmigrate.releases.environment import USUAL, Environment
from ckptmigrate.releases.facts import Compat, FormRow, MissingRow, UnmeasuredRow, matches, minor

# Modules that every reader has besides Megatron; other modules belong to no release.
_EVERYWHERE: Final = frozenset({"torch", "numpy", "__builtin__", *sys.stdlib_module_names})
_ONE: Final = "use a release such as 0.13.1; to list all, run `ckptmigrate explain`"
_WEIGHTS_ONLY_SINCE: Final = ">=2.6"  # torch.load's default (torch 2.6 release notes)


@dataclass(frozen=True)
class Reader:
    """One release under one torch.

    Attributes:
        release: for example `0.13.1`.
        torch: for example `2.13.0`.
        layout: the name of the layout that it writes, which also decides how it loads rerun state.
        compat: the facts about releases.
        environment: the Python and the NumPy of the job.
    """

    release: str
    torch: str
    layout: str
    compat: Compat
    environment: Environment = USUAL

    def is_in(self, specifier: str) -> bool:
        """Return whether a specifier of releases includes this release."""
        return matches(self.release, specifier)

    @property
    def like(self) -> str | None:
        """The known release whose rules apply, if this one is newer or older than all known ones.

        None if this release is in the known range.
        """
        oldest, newest = self.compat.readers[0].release, self.compat.known_releases[-1]
        if minor(self.release) < minor(oldest):
            return oldest
        return newest if minor(self.release) > minor(newest) else None

    @property
    def caveat(self) -> str | None:
        """A note that the rules of another release are used; None for a known release."""
        if self.like is None:
            return None
        age = "newer" if minor(self.release) > minor(self.like) else "older"
        return (
            f"{self.release} is {age} than every known release: this is the result for {self.like}"
        )

    @property
    def weights_only(self) -> bool:
        """Whether common.pt is loaded with torch's weights_only and its allow-list."""
        rows = (r for r in self.compat.common_loading if self.is_in(r.releases))
        by_default = any(row.symbols == "torch-default" for row in rows)
        return by_default and matches(self.torch, _WEIGHTS_ONLY_SINCE)

    def resolves(self, path: str) -> bool:
        """Return whether a global of this dotted name can be imported."""
        rows = self.compat.symbol(path)
        if rows:
            return any(self.is_in(row.releases) for row in rows)
        if path.partition(".")[0] not in _EVERYWHERE:
            return False
        return self.environment.imports(path, self.compat)

    def makes(self, obj: Object) -> bool:
        """Return whether this release has the enum member that an object is, by its value.

        True for an object that is not an enum member.
        """
        value = enum_value(obj)
        rows = [] if value is None else self.compat.symbol(type(obj).path)
        return all(
            value in row.members.values()
            for row in rows
            if row.members and self.is_in(row.releases)
        )

    def allows(self, path: str) -> bool:
        """Return whether weights_only allows a global of this dotted name."""
        names = {*self.compat.names(path)}
        listed = any(_fits(path, name) for name in self.compat.torch_allows) or any(
            names & {*row.symbols} for row in self.compat.allow_lists if self.is_in(row.releases)
        )
        return listed and self.environment.pickles(path, self.compat)

    def condition(self, path: str, *, by_list: bool) -> str | None:
        """Return which Python or NumPy a job needs for a global of this name; None if any works."""
        return self.environment.condition(path, self.compat, by_list=by_list)

    def forbidden_class(self, obj: Object) -> str | None:
        """Return the class of a dtype or an array's dtype if weights_only refuses it, or None."""
        name = unnamed_class(obj, self.compat)
        return None if name is None or self.allows(name) else name

    def unknown_marker_keys(self, marker: Mapping[str, Any]) -> list[str]:
        """Return the keys of metadata.json that this release refuses.

        Releases up to 0.18 load metadata.json into a dataclass of four fields (core_v0.18.2
        megatron/core/dist_checkpointing/core.py maybe_load_config).
        """
        known = {"sharded_backend", "sharded_backend_version", *COMMON_MARKER}
        return [] if self.is_in(">=0.19") else [key for key in marker if key not in known]

    def unread_forms(self, form: str) -> list[FormRow]:
        """Return the rows of a form in the table `forms` if this release cannot read the form."""
        return [r for r in self.compat.forms if r.form == form and not self.is_in(r.releases)]

    @property
    def rng_by_rank(self) -> bool:
        """Whether it saves RNG states for every rank with expert parallelism."""
        return any("DPxCP" in row.axes for row in self.compat.rng_grids if self.is_in(row.releases))

    @property
    def measured(self) -> str | None:
        """The commit that the facts of a development version describe; None for a release."""
        rows = (row.measured for row in self.compat.unmeasured if self.is_in(row.releases))
        return next(rows, None)

    def unmeasured(self, subject: str) -> UnmeasuredRow | None:
        """Return the change of a subject that is known but not measured, or None."""
        rows = (row for row in self.compat.unmeasured if row.subject == subject)
        return next((row for row in rows if self.is_in(row.releases)), None)

    @property
    def missing_common_error(self) -> str | None:
        """The error if common.pt is missing; None for a reader that does not need it."""
        return self._error(self.compat.missing_common)

    @property
    def needs_common_file(self) -> bool:
        """Whether it requires the common state to be in common.pt."""
        return self.missing_common_error is not None

    @property
    def missing_rng_error(self) -> str | None:
        """The error of a job without --no-load-rng that loads no RNG states; None if it resumes."""
        return self._error(self.compat.missing_rng)

    def _error(self, rows: Iterable[MissingRow]) -> str | None:
        return next((row.error for row in rows if self.is_in(row.releases)), None)


def _fits(path: str, name: str) -> bool:
    """Return whether a dotted name matches a name of torch_allows; `*` is a part without dots."""
    if "*" not in name:
        return path == name
    return re.fullmatch(re.escape(name).replace(r"\*", r"[^.]*"), path) is not None


def reader(
    release: str,
    compat: Compat,
    torch: str | None = None,
    environment: Environment = USUAL,
) -> Reader:
    """Return the reader of a release; `0.16` means its last known patch.

    Args:
        torch: its version of torch; by default the version in its row of compat_matrix.yaml.
        environment: its Python and NumPy.

    Raises:
        RefusedError: the release is not a version of at least two numbers, the torch is not a
            version, or no layout of the release is known.
    """
    from packaging.version import Version

    try:
        version = Version(release)
    except ValueError as error:  # not a version, or a number with more digits than int() accepts
        raise RefusedError(f"{release!r} is not a release of Megatron-Core", fix=_ONE) from error
    try:
        stated = None if torch is None else str(Version(torch))
    except ValueError as error:
        raise RefusedError(
            f"{torch!r} is not a version of torch", fix="use a version, for example --torch 2.6.0"
        ) from error
    if len(version.release) == 1:  # 013 is a typing error for 0.13, not release 13
        raise RefusedError(f"{release!r} is not a release of Megatron-Core", fix=_ONE)
    full = str(version)
    known = [row.release for row in compat.readers if _is_patch_of(row.release, full)]
    full = known[-1] if known else full
    layouts = [row.layout for row in compat.layouts if matches(full, row.releases)]
    if not layouts:
        raise RefusedError(
            f"the layout of release {release!r} is not known",
            fix="to list the known releases, run `ckptmigrate layouts`",
        )
    # A patch without a row gets the torch of its minor release.
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
    """Return the readers that `check` uses by default, oldest first."""
    return [reader(row.release, compat, torch, environment) for row in compat.readers]
