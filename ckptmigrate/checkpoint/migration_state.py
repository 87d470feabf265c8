"""The state of an in-place migration of a checkpoint: none, in progress, or interrupted.

Only reads. `writing/swap.py` and `writing/store_swap.py` write these files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from ckptmigrate.checkpoint import lock_owner, sidecar
from ckptmigrate.errors import DestinationError
from ckptmigrate.places import Place, Url
from ckptmigrate.storage import directories
from ckptmigrate.text.commands import command

P = TypeVar("P", Path, Url, Place)


def stage_of(checkpoint: P) -> P:
    """Return the staging directory of an in-place migration."""
    return checkpoint / sidecar.FOLDER / "stage"


def lock_of(checkpoint: P) -> P:
    """Return the lock of an in-place migration."""
    return checkpoint / sidecar.FOLDER / "lock"


def is_staged(checkpoint: Place) -> bool:
    """Return whether an in-place migration has a staging directory in a checkpoint."""
    return directories.is_dir(stage_of(checkpoint))


def is_unfinished(checkpoint: Place) -> bool:
    """Return whether an in-place migration is in progress or left files in a checkpoint."""
    if _is_locked(checkpoint) or _has_stage(checkpoint):
        return True
    folder = checkpoint / sidecar.FOLDER
    return (
        isinstance(folder, Path)
        and folder.is_dir()
        and not folder.is_symlink()
        and not os.listdir(folder)
    )


def check_complete(checkpoint: Place) -> None:
    """Raise if an in-place migration of a checkpoint is incomplete.

    Raises:
        DestinationError: it is; the message states whether the migration still runs.
    """
    if not _has_stage(checkpoint):
        return
    if _is_locked(checkpoint):
        lock = lock_of(checkpoint)
        raise lock_owner.refusal(lock_owner.owner_of(lock), checkpoint, lock)
    raise DestinationError(
        "an in-place migration was interrupted",
        path=checkpoint,
        fix=f"to recover it, run `{command('recover', checkpoint)}`",
    )


def _has_stage(checkpoint: Place) -> bool:
    stage = stage_of(checkpoint)
    return os.path.lexists(stage) if isinstance(stage, Path) else directories.is_dir(stage)


def _is_locked(checkpoint: Place) -> bool:
    lock = lock_of(checkpoint)
    return os.path.lexists(lock) if isinstance(lock, Path) else directories.is_file(lock)
