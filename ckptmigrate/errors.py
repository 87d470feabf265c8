"""The exceptions of this package.

The message of each error states the path, what is wrong and the fix. The parts are attributes, so
that a library user does not have to parse the message.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ckptmigrate.places import Place
from ckptmigrate.text.printable import printable
from ckptmigrate.text.secrets import masked


@dataclass(frozen=True)
class Retry:
    """The changes that make a refused command work.

    Attributes:
        add: options with their values; they replace options of the same name.
        leave_out: options to remove.
        path: the path to use instead of the path of the error.
    """

    add: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    path: Place | None = None


class CkptMigrateError(Exception):
    """The base class of all errors of this package.

    Attributes:
        reason: what is wrong, without the path.
        path: the checkpoint or file that the error is about, or None.
        fix: what to do, or None; ends with the command that works, if one exists.
        layout: the layout that the error is about, or None.
        retry: the changes that make the refused command work, or None if unknown.
    """

    retry: Retry | None = None

    def __init__(
        self,
        reason: str,
        *,
        path: Place | str | None = None,
        fix: str | None = None,
        layout: str | None = None,
        retry: Retry | None = None,
    ) -> None:
        self.reason = reason
        self.path = path
        self.fix = fix
        self.layout = layout
        self.retry = retry
        super().__init__(reason)

    def as_json(self) -> dict[str, object]:
        """Return the documented JSON form: the message and its parts."""
        parts = {
            name: value
            for name, value in vars(self).items()
            if value is not None and name != "retry"  # it is in the fix
        }
        return {
            "kind": type(self).__name__,
            "message": str(self),
            **{
                name: list(value) if isinstance(value, tuple) else masked(str(value))
                for name, value in parts.items()
            },
        }

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path is not None else ""
        what_to_do = f"; {self.fix}" if self.fix else ""
        return printable(f"{where}{self.reason}{what_to_do}")


class NotACheckpointError(CkptMigrateError):
    """A path that contains no distributed checkpoint, or whose tracker file names none."""


class SeveralCheckpointsError(NotACheckpointError):
    """A path that selects several checkpoints, where one is needed."""


class UnsupportedFormatError(CkptMigrateError):
    """A checkpoint of another format (zarr, torch, torch_dcp, fsdp_dtensor)."""


class DamagedError(CkptMigrateError):
    """A file of the checkpoint that is truncated, malformed or contradicts another file."""


class PickleError(DamagedError):
    """A pickle or torch zip that cannot be read, or that no checkpoint writer produces."""


class PointerError(DamagedError):
    """A file of which only a pointer was downloaded, such as one of Git LFS."""


class CorruptError(CkptMigrateError):
    """A corrupt rerun state: the common state requires rerun shards that are missing.

    Attributes:
        missing: the missing keys.
    """

    def __init__(self, reason: str, *, missing: tuple[str, ...], **where: Any):
        super().__init__(reason, **where)
        self.missing = missing


class RefusedError(CkptMigrateError):
    """A request that would drop or guess data of an intact checkpoint.

    Attributes:
        losses: the names of the data losses to allow, if that is the reason; else empty.
    """

    def __init__(self, reason: str, *, losses: tuple[str, ...] = (), **where: Any):
        super().__init__(reason, **where)
        self.losses = losses


class DestinationError(CkptMigrateError):
    """A destination that exists, is inside the source, or cannot be written."""


class StoreError(CkptMigrateError):
    """An object store that cannot be reached, or that denies a read or a write."""


class CompatError(CkptMigrateError):
    """A compat_matrix.yaml that does not match its schema."""


def reason_of(error: BaseException) -> str:
    """Return the reason of an error, to be part of another message."""
    if isinstance(error, CkptMigrateError):
        return error.reason
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def wrapped(error: Exception, path: Place | str | None = None) -> CkptMigrateError:
    """Wrap any exception in a CkptMigrateError.

    Args:
        path: the path to report if the error has none.
    """
    if isinstance(error, CkptMigrateError):
        return error
    if isinstance(error, OSError):
        return of_system(error, path)
    if isinstance(error, MemoryError):
        return CkptMigrateError(
            "the process is out of memory",
            path=path,
            fix="restore the file that is too large from a copy, or run the command where more "
            "memory is free",
        )
    return CkptMigrateError(
        f"internal error ({type(error).__name__}: {error})",
        path=path,
        fix="run it again with -v and report what it prints",
    )


def of_system(error: OSError, path: Place | str | None = None) -> CkptMigrateError:
    """Wrap an OSError in a CkptMigrateError.

    Args:
        path: the path to report if the error has no file name.
    """
    text = error.strerror or str(error)
    is_own = error.errno is not None and text != os.strerror(error.errno)
    return CkptMigrateError(
        text if is_own else f"the operating system reports: {text}",
        path=error.filename or path,
        fix="fix that, then run the command again",
    )
