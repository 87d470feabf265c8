"""`verify`: everything that can be told of a checkpoint without loading it, told at once.

The other verbs read a checkpoint as a whole and stop at the first thing that is wrong
(`manifest.load`). Here it is read as far as it can be (`material`), and an explicit list of checks
looks at what could be read. Nothing is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from ckptmigrate import locate
from ckptmigrate.access import storage
from ckptmigrate.access.places import Place
from ckptmigrate.access.storage import Directory, Progress
from ckptmigrate.checkpoint import nesting, recognise
from ckptmigrate.checkpoint.manifest import METADATA_FILES, PAYLOAD
from ckptmigrate.errors import (
    CkptMigrateError,
    DamagedError,
    NotACheckpointError,
    UnsupportedFormatError,
    of_system,
)
from ckptmigrate.inert.reader import uncollected
from ckptmigrate.text.commands import command
from ckptmigrate.verifying import (
    digests,
    loading,
    objects,
    payload,
    roots,
    states,
    tables,
    tiling,
)
from ckptmigrate.verifying.findings import CODES, Finding, Severity
from ckptmigrate.verifying.material import Material, gather

Check = Callable[[Material], Iterator[Finding]]

_DIGEST: Final = "integrity-mismatch"
# In the order in which their findings are told.
CHECKS: Final[tuple[Check, ...]] = (
    states.history,
    payload.ranges,
    tables.check,
    tiling.check,
    payload.ranks,
    states.sizes,
    states.reruns,
    states.shapes,
    payload.orphans,
)


# Of a checkpoint nested in another one: it has no rerun states, no args and no sidecar.
NESTED_CHECKS: Final[tuple[Check, ...]] = (
    payload.ranges,
    tables.check,
    tiling.check,
    payload.ranks,
    payload.orphans,
)


@dataclass(frozen=True)
class Verified:
    """One checkpoint, verified.

    Attributes:
        path: its directory.
        entries: number of entries that could be read.
        payload_files, payload_bytes: payload files and their size.
        findings: what was found, errors first.
    """

    path: Place
    entries: int
    payload_files: int
    payload_bytes: int
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(f for f in self.findings if f.severity is Severity.ERROR)

    @property
    def lost(self) -> tuple[Finding, ...]:
        """The errors that no repair removes."""
        return tuple(
            error
            for error in self.errors
            if CODES[error.code].repair is None
            # Of the small files these alone are looked at closely enough to vouch for them.
            or (error.code == _DIGEST and not set(error.items) <= set(METADATA_FILES))
        )


@dataclass(frozen=True)
class Verification:
    """Everything that a PATH means, verified.

    Attributes:
        path: the PATH, absolute.
        checkpoints: one by one.
        findings: of the root first, then of the checkpoints.
    """

    path: Place
    checkpoints: tuple[Verified, ...]
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether there is no error; warnings and notes are allowed."""
        return not self.count(Severity.ERROR)

    def beside(self, findings: Collection[Finding]) -> Verification:
        """The same with findings about the root."""
        return replace(self, findings=_ordered([*findings, *self.findings]))

    def count(self, severity: Severity) -> int:
        """How many findings are of a severity."""
        return sum(finding.severity is severity for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """The documented JSON form (docs/json.md, `verify --json`)."""
        return {
            "path": str(self.path),
            "clean": self.clean,
            "errors": self.count(Severity.ERROR),
            "warnings": self.count(Severity.WARNING),
            "notes": self.count(Severity.NOTE),
            "findings": [finding.as_json() for finding in self.findings],
            "checkpoints": [
                {
                    "path": str(each.path),
                    "clean": not each.errors,
                    "entries": each.entries,
                    "payload": {"files": each.payload_files, "bytes": each.payload_bytes},
                }
                for each in self.checkpoints
            ],
        }


def verify(
    path: Place,
    *,
    load: bool = False,
    hashed: bool = False,
    iteration: int | None = None,
    every: bool = False,
    known: Collection[str] = (),
    progress: Progress | None = None,
) -> Verification:
    """Verify what a PATH means; writes nothing.

    Arguments and errors are those of `library.verify`, which reads a path from text, too.
    """
    if load:
        loading.require_torch()
    chosen = roots.choose(path, iteration=iteration, every=every)
    one = partial(verify_one, load=load, hashed=hashed, known=known, progress=progress)
    several = every and chosen.is_root
    done = tuple(_told(one, each) if several else one(each) for each in chosen.checkpoints)
    of_root = _of_root(chosen, partial(verify_one, known=known))
    found = [*of_root, *(finding for each in done for finding in each.findings)]
    return Verification(chosen.path, done, _ordered(found))


def verify_one(
    path: Place,
    *,
    load: bool = False,
    hashed: bool = False,
    known: Collection[str] = (),
    progress: Progress | None = None,
) -> Verified:
    """Verify one checkpoint directory with those in it; arguments and errors as of `verify`."""
    directory = storage.directory(path)
    _require_ours(directory)
    look = partial(_look, load=load, hashed=hashed, known=known, progress=progress)
    parts = [look(directory, CHECKS)]
    inside: list[Directory] = []
    others: list[Finding] = []
    try:
        inside = [each for _, each in nesting.nested(directory)]
    except DamagedError as error:
        others.append(Finding("nested-linked", path, f"{error.path} {error.reason}"))
    for each in inside:
        try:
            _require_ours(each)
            parts.append(look(each, NESTED_CHECKS))
        except UnsupportedFormatError as error:
            others.append(Finding("not-verified", each.path, error.reason, fix=error.fix))
    verified = Verified(
        path,
        sum(part.entries for part in parts),
        sum(part.payload_files for part in parts),
        sum(part.payload_bytes for part in parts),
        _ordered([*(finding for part in parts for finding in part.findings), *others]),
    )
    return _with_repairs(verified, known)


def _look(
    directory: Directory,
    checks: Collection[Check],
    *,
    load: bool,
    hashed: bool,
    known: Collection[str],
    progress: Progress | None,
) -> Verified:
    """Verify one checkpoint without those in it."""
    with uncollected():
        material = gather(directory)
        found = list(material.findings)
        for check in checks:
            found += check(material)
        found += objects.check(material, known)
    found += digests.check(material, payload=hashed, progress=progress)
    if load:
        found += loading.check(material, progress)
    held = [size for name, size in directory.files().items() if PAYLOAD.fullmatch(name)]
    return Verified(directory.path, len(material.entries), len(held), sum(held), tuple(found))


def _with_repairs(verified: Verified, known: Collection[str]) -> Verified:
    """Name the command that repairs each finding, where one does."""
    if verified.lost:
        return verified
    vouched = [word for name in known for word in ("--known", name)]

    def named(finding: Finding) -> Finding:
        if CODES[finding.code].repair is None:
            return finding
        options = dict.fromkeys(
            option
            for each in (*verified.errors, finding)
            for option in (*(CODES[each.code].repair or ()), *each.options)
        )
        words = (*locate.words(verified.path), *options, *vouched)
        return replace(finding, repair=command("repair", *words))

    return replace(verified, findings=tuple(map(named, verified.findings)))


def _of_root(chosen: roots.Chosen, verify: Callable[[Place], Verified]) -> Iterator[Finding]:
    """The findings about a root, with the command that repairs its tracker where one does."""
    for finding in chosen.findings:
        if CODES[finding.code].repair is None or finding.fix is not None:
            yield finding
        else:
            yield replace(finding, repair=_tracker_repair(chosen, verify))


def _tracker_repair(chosen: roots.Chosen, verify: Callable[[Place], Verified]) -> str | None:
    """The command after which the tracker names a checkpoint that is whole."""
    if chosen.named is not None:
        there = verify(chosen.named)
        if not there.lost:
            again = command("repair", chosen.path, "--in-place")
            return next((error.repair for error in there.errors), again)
    for each in reversed(locate.all_of(chosen.path)):
        with contextlib.suppress(CkptMigrateError):
            if each != chosen.named and not verify(each).errors:
                return command("repair", chosen.path, "--in-place")
    return None


def _told(verify: Callable[[Place], Verified], path: Place) -> Verified:
    """One of several: that it cannot be verified is told of it, and the others are all the same."""
    try:
        return verify(path)
    except (CkptMigrateError, OSError) as error:
        told = error if isinstance(error, CkptMigrateError) else of_system(error, path)
        return Verified(path, 0, 0, 0, (Finding("not-verified", path, told.reason),))


def _ordered(found: list[Finding]) -> tuple[Finding, ...]:
    order = list(Severity)
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


def _require_ours(directory: Directory) -> None:
    """Refuse another format; what is ours and broken is verified."""
    try:
        recognise.require_torch_dist(directory)
    except DamagedError:
        return
    except NotACheckpointError:  # of a root, or staged, with nothing in it
        return
