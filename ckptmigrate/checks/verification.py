"""The validation of checkpoints for `verify`: all problems at once, without loading.

Other commands read a checkpoint with `material.load`, which raises at the first problem. `verify`
reads as much as possible (`material.gather`) and runs a list of checks on the result. It writes
nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ckptmigrate.checkpoint import formats, locate, nested, root_reading
from ckptmigrate.checkpoint.locate import Located
from ckptmigrate.checkpoint.manifest import METADATA_FILES
from ckptmigrate.checkpoint.material import Material, gather
from ckptmigrate.checks import (
    data_files,
    hashes,
    key_tables,
    root_checks,
    sharded_objects,
    states,
    tiling,
    torch_load,
)
from ckptmigrate.checks.code import Severity
from ckptmigrate.checks.codes import CODES
from ckptmigrate.checks.findings import Finding, of_damage
from ckptmigrate.errors import (
    CkptMigrateError,
    DamagedError,
    NotACheckpointError,
    UnsupportedFormatError,
    of_system,
)
from ckptmigrate.pickles.reader import uncollected
from ckptmigrate.places import Place
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import Directory
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.commands import command

if TYPE_CHECKING:
    from ckptmigrate.optimizer.comparison import Comparison

Check = Callable[[Material], Iterator[Finding]]

_DIGEST: Final = "integrity-mismatch"
# In the order in which their findings are printed.
CHECKS: Final[tuple[Check, ...]] = (
    states.history,
    data_files.ranges,
    key_tables.check,
    tiling.check,
    data_files.ranks,
    states.sizes,
    states.sizes_file,
    states.reruns,
    states.shapes,
    states.optimizer,
    data_files.orphans,
)


# A checkpoint nested in another one has no rerun state, no args and no migration history.
NESTED_CHECKS: Final[tuple[Check, ...]] = (
    data_files.ranges,
    key_tables.check,
    tiling.check,
    data_files.ranks,
    data_files.orphans,
)


@dataclass(frozen=True)
class Verified:
    """The result for one checkpoint.

    Attributes:
        path: the directory of the checkpoint.
        entries: number of keys that could be read.
        payload_files, payload_bytes: number and size, in bytes, of the data files.
        findings: the problems found, errors first.
        compared: the comparison of the optimizer with the weights; None if there is none.
        unused_bytes: the number of bytes of the data files that no key refers to.
    """

    path: Place
    entries: int
    payload_files: int
    payload_bytes: int
    findings: tuple[Finding, ...]
    compared: Comparison | None = None
    unused_bytes: int = 0

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Return the findings that are errors."""
        return tuple(f for f in self.findings if f.severity is Severity.ERROR)

    @property
    def lost(self) -> tuple[Finding, ...]:
        """Return the errors that `repair` cannot repair."""
        return tuple(
            error
            for error in self.errors
            if CODES[error.code].repair is None
            # Only these files are validated enough to recompute their hashes.
            or (error.code == _DIGEST and not set(error.items) <= set(METADATA_FILES))
        )


@dataclass(frozen=True)
class Verification:
    """The result of `verify` for a PATH.

    Attributes:
        path: the PATH, absolute.
        checkpoints: the result for each checkpoint.
        findings: all problems, errors first; within a severity, those of the root come first.
    """

    path: Place
    checkpoints: tuple[Verified, ...]
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Return whether there are no errors; warnings and notes are allowed."""
        return not self.count(Severity.ERROR)

    def beside(self, findings: Collection[Finding]) -> Verification:
        """Return a copy with additional findings about the root."""
        return replace(self, findings=_ordered([*findings, *self.findings]))

    def count(self, severity: Severity) -> int:
        """Return the number of findings of a severity."""
        return sum(finding.severity is severity for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (docs/json.md, `verify --json`)."""
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
                    "unused_bytes": each.unused_bytes,
                    "optimizer": None if each.compared is None else each.compared.as_json(),
                }
                for each in self.checkpoints
            ],
        }


def verify(
    path: Place,
    *,
    load: bool = False,
    hashed: bool = False,
    optimizer: bool = False,
    sample: int | None = None,
    iteration: int | None = None,
    every: bool = False,
    known: Collection[str] = (),
    progress: Progress | None = None,
) -> Verification:
    """Verify the checkpoints of a PATH without writing anything.

    Arguments and errors are those of `library.verify`, which also accepts a path as text.
    """
    if load:
        torch_load.require_torch()
    chosen = root_checks.choose(path, iteration=iteration, every=every)
    one = partial(
        verify_one,
        load=load,
        hashed=hashed,
        optimizer=optimizer,
        sample=sample,
        known=known,
        progress=progress,
    )
    several = every and chosen.is_root
    about = root_checks.findings(chosen)
    done = tuple(
        _verified_or_finding(one, each) if several else one(each) for each in chosen.checkpoints
    )
    of_root = _of_root(chosen, about, partial(verify_one, known=known))
    found = [*of_root, *(finding for each in done for finding in each.findings)]
    return Verification(chosen.path, done, _ordered(found))


def verify_one(
    path: Place,
    *,
    load: bool = False,
    hashed: bool = False,
    optimizer: bool = False,
    sample: int | None = None,
    known: Collection[str] = (),
    progress: Progress | None = None,
) -> Verified:
    """Verify one checkpoint and those nested in it; arguments and errors as in `verify`."""
    directory = directories.directory(path)
    _require_ours(directory)
    one_directory = partial(
        _verify_directory, load=load, hashed=hashed, known=known, progress=progress
    )
    whole = one_directory(directory, CHECKS)
    compared = None
    if optimizer:
        from ckptmigrate.checks import optimizer_values  # slow to import

        compared, found = optimizer_values.check(gather(directory), sample, progress)
        is_known = compared is not None and (
            compared.is_damaged or compared.compared == compared.cells
        )
        kept = [f for f in whole.findings if not (is_known and f.code == optimizer_values.SUSPECT)]
        whole = replace(whole, findings=(*kept, *found))
    parts = [whole]
    inside: list[Directory] = []
    others: list[Finding] = []
    try:
        inside = [each for _, each in nested.nested(directory)]
    except DamagedError as error:
        others.append(Finding("nested-linked", path, f"{error.path} {error.reason}"))
    for each in inside:
        try:
            _require_ours(each)
            parts.append(one_directory(each, NESTED_CHECKS))
        except UnsupportedFormatError as error:
            others.append(Finding("not-verified", each.path, error.reason, fix=error.fix))
    verified = Verified(
        path,
        sum(part.entries for part in parts),
        sum(part.payload_files for part in parts),
        sum(part.payload_bytes for part in parts),
        _ordered([*(finding for part in parts for finding in part.findings), *others]),
        compared,
        sum(part.unused_bytes for part in parts),
    )
    return _with_repairs(verified, known)


def _verify_directory(
    directory: Directory,
    checks: Collection[Check],
    *,
    load: bool,
    hashed: bool,
    known: Collection[str],
    progress: Progress | None,
) -> Verified:
    """Verify one checkpoint without those nested in it."""
    with uncollected():
        material = gather(directory)
        found = of_damage(material)
        for check in checks:
            found += check(material)
        found += sharded_objects.check(material, known)
    found += hashes.check(material, payload=hashed, progress=progress)
    if load:
        found += torch_load.check(material, progress)
    return Verified(
        directory.path,
        len(material.entries),
        len(material.payload),
        sum(material.payload.values()),
        tuple(found),
        unused_bytes=sum(material.unused_bytes.values()),
    )


def _with_repairs(verified: Verified, known: Collection[str]) -> Verified:
    """Return a copy in which each repairable finding has the command that repairs it."""
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


def _of_root(
    chosen: Located, about: Collection[Finding], verify: Callable[[Place], Verified]
) -> Iterator[Finding]:
    """Yield the findings about a root, with the command that repairs its tracker file, if any."""
    for finding in about:
        if CODES[finding.code].repair is None or finding.fix is not None:
            yield finding
        else:
            yield replace(finding, repair=_tracker_repair(chosen, verify))


def _tracker_repair(chosen: Located, verify: Callable[[Place], Verified]) -> str | None:
    """Return the command that makes the tracker file name an intact save, or None."""
    again = command("repair", chosen.path, "--in-place")
    root = root_reading.read(chosen.path)
    named = root.named
    if named is not None:
        there = [verify(each) for each in chosen.kind.checkpoints(named)]
        if not any(each.lost for each in there):
            return next((error.repair for each in there for error in each.errors), again)
    for save in reversed(root.saves):
        with contextlib.suppress(CkptMigrateError):
            checkpoints = chosen.kind.checkpoints(save)
            if save != named and not any(verify(each).errors for each in checkpoints):
                return again
    return None


def _verified_or_finding(verify: Callable[[Place], Verified], path: Place) -> Verified:
    """Verify one of several checkpoints; return an error as a finding, so that others proceed."""
    try:
        return verify(path)
    except (CkptMigrateError, OSError) as error:
        failure = error if isinstance(error, CkptMigrateError) else of_system(error, path)
        return Verified(path, 0, 0, 0, (Finding("not-verified", path, failure.reason),))


def _ordered(found: list[Finding]) -> tuple[Finding, ...]:
    order = list(Severity)
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


def _require_ours(directory: Directory) -> None:
    """Raise if a directory has another format; accept a damaged torch_dist checkpoint."""
    # Not a checkpoint: an empty iteration of a root, or a swap hides its files.
    with contextlib.suppress(DamagedError, NotACheckpointError):
        formats.require_torch_dist(directory)
