"""Everything that can be wrong, as one small tree of exceptions.

Each error says in one sentence what is wrong, where, and what to do; the parts are
attributes, so that a library user need not parse the sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ckptmigrate.access.places import Place
from ckptmigrate.text.printable import printable


@dataclass(frozen=True)
class Retry:
    """What to change on the command line that was refused, so that it works.

    Attributes:
        add: options with their values, in place of those that are there already.
        leave_out: options that go.
        path: what to name instead of the path that the error is about.
    """

    add: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    path: Place | None = None


class CkptMigrateError(Exception):
    """The root of the tree.

    Attributes:
        reason: what is wrong, without the place.
        path: the checkpoint or file it is about, if any.
        fix: what to do, ending with the command that works where there is one.
        layout: the layout concerned, if any.
        retry: how the command that was refused works, where that is known.
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
        """The documented JSON form: the sentence and its parts."""
        from ckptmigrate.text.secrets import masked

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
    """There is no distributed checkpoint at the path, or the tracker leads to none."""


class UnsupportedFormatError(CkptMigrateError):
    """A checkpoint, but of another format (zarr, torch, torch_dcp, fsdp_dtensor)."""


class DamagedError(CkptMigrateError):
    """A file of the checkpoint is truncated, malformed or contradicts another."""


class PickleError(DamagedError):
    """A pickle or torch zip that cannot be read, or that no checkpoint writer wrote."""


class CorruptError(CkptMigrateError):
    """The common state announces rerun shards that the checkpoint does not hold.

    Attributes:
        missing: the keys that are missing.
    """

    def __init__(self, reason: str, *, missing: tuple[str, ...], **where: Any):
        super().__init__(reason, **where)
        self.missing = missing


class RefusedError(CkptMigrateError):
    """A healthy checkpoint and a request that would lose or guess something.

    Attributes:
        losses: the names of the losses that would have to be allowed, if any.
    """

    def __init__(self, reason: str, *, losses: tuple[str, ...] = (), **where: Any):
        super().__init__(reason, **where)
        self.losses = losses


class DestinationError(CkptMigrateError):
    """The destination exists, lies in the source, or cannot be written."""


class StoreError(CkptMigrateError):
    """An object store cannot be reached, or does not let us read or write."""


class CompatError(CkptMigrateError):
    """compat_matrix.yaml does not fit its schema."""


def reason_of(error: BaseException) -> str:
    """What an error says, in a few words, to be part of another sentence."""
    if isinstance(error, CkptMigrateError):
        return error.reason
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def of_system(error: OSError, path: Place | str | None = None) -> CkptMigrateError:
    """What the system refused, in our words.

    Args:
        path: what it is about, where the error does not tell.
    """
    return CkptMigrateError(
        f"the system says: {error.strerror or error}",
        path=error.filename or path,
        fix="have that in order, then run this again",
    )
