"""Conversion of any exception that ends a command to an error with one sentence."""

from __future__ import annotations

import click

from ckptmigrate.cli import corrected_command
from ckptmigrate.errors import CkptMigrateError, of_system


def told(error: Exception, group: click.Group, words: list[str]) -> CkptMigrateError:
    """Return the error to print; the fix of a CkptMigrateError ends with the command that works.

    Args:
        group: the command that has all commands as subcommands.
        words: the command line that failed, without the name of the program.
    """
    if isinstance(error, CkptMigrateError):
        corrected_command.with_command(error, group, words)
        return error
    if isinstance(error, OSError):
        return of_system(error)
    if isinstance(error, MemoryError):
        return CkptMigrateError(
            "the memory does not suffice; restore what is too large from a copy"
        )
    what = f"{type(error).__name__}: {error}"
    return CkptMigrateError(
        f"internal error ({what}); run it again with -v and report what it prints"
    )
