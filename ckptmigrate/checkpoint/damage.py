"""The damage of a checkpoint that its reader found."""

from __future__ import annotations

from dataclasses import dataclass

from ckptmigrate.errors import CkptMigrateError


@dataclass(frozen=True)
class Damage:
    """A part of a checkpoint that is missing, unreadable or contradicts another.

    Attributes:
        code: its code in `verify`, see checks/findings.py; None if a check of `verify` finds it.
        what: a description with names and numbers, as in a finding.
        items: all affected keys, or the reasons.
        fix: a remedy that replaces that of the code, or None.
        error: raised by commands that need an intact checkpoint; None if they accept the damage.
    """

    code: str | None
    what: str = ""
    items: tuple[str, ...] = ()
    fix: str | None = None
    error: CkptMigrateError | None = None


def raise_first(found: tuple[Damage, ...]) -> None:
    """Raise the error of the first damage that is not accepted.

    Raises:
        CkptMigrateError: there is one.
    """
    for each in found:
        if each.error is not None:
            raise each.error


def fix_of(error: CkptMigrateError) -> str | None:
    """Return the fix of an error if the system could not read a file; None for other errors.

    Such a file can still be intact.
    """
    return error.fix if isinstance(error.__cause__, OSError) else None
