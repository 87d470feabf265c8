"""Whatever ends a verb, as one error with a sentence."""

from __future__ import annotations

from ckptmigrate.errors import CkptMigrateError


def told(error: Exception) -> CkptMigrateError:
    """The error that a user is told of; one of ours as it is."""
    if isinstance(error, CkptMigrateError):
        return error
    if isinstance(error, OSError):
        return CkptMigrateError(f"{error.filename or 'the system'}: {error.strerror}")
    if isinstance(error, MemoryError):
        return CkptMigrateError(
            "the memory does not suffice; restore what is too large from a copy"
        )
    what = f"{type(error).__name__}: {error}"
    return CkptMigrateError(
        f"internal error ({what}); run it again with -v and report what it prints"
    )
