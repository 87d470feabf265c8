"""Locks on a local file system: symbolic links whose text names the owner.

The creation of a link is atomic and fails if the link exists, so a lock always names its owner.
flock and byte-range locks are not used because NFS and Lustre may not support them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from ckptmigrate.checkpoint.lock_owner import Holder, holder, owner_of, refusal, this_process
from ckptmigrate.errors import DestinationError
from ckptmigrate.storage import local_files
from ckptmigrate.writing.durable import sync_directory


def take(lock: Path, about: Path) -> None:
    """Take a lock.

    Args:
        lock: the path of the lock, in an existing directory.
        about: what the lock protects, for error messages.

    Raises:
        DestinationError: another process holds the lock, or ended without releasing it.
        OSError: the lock cannot be created.
    """
    try:
        os.symlink(json.dumps(asdict(this_process())), lock)
    except FileExistsError as error:
        raise refusal(owner_of(lock), about, lock) from error
    try:
        sync_directory(lock.parent)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(lock)
        raise


@contextlib.contextmanager
def of_the_dead(lock: Path, about: Path, *, break_lock: bool = False) -> Iterator[None]:
    """Take over the lock of a process that has ended, run the block, and remove the lock.

    The lock exists until the block ends, so it remains if this process is killed. If the block
    raises, a lock that was taken over remains, and a lock that was taken here is removed because
    this process may continue to run. If no lock exists, one is taken.

    Args:
        lock: the path of the lock.
        about: what the lock protects, for error messages.
        break_lock: whether to take over a lock whose process cannot be seen from this host.

    Raises:
        DestinationError: the process still runs or cannot be seen from this host, or another
            process is recovering the same lock.
    """
    handle = local_files.directory(lock.parent)
    try:
        # This host can only tell that processes of this host have ended, so a host-local flock
        # keeps two recoveries apart. Without flock support, nothing does.
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DestinationError(
                "is being recovered by another process", path=about, fix="wait until it ends"
            ) from error
        except OSError:
            pass
        fresh = not os.path.lexists(lock)
        if fresh:
            take(lock, about)
        else:
            owner = owner_of(lock)
            found = holder(owner)
            if found is Holder.ALIVE or (found is Holder.UNKNOWN and not break_lock):
                raise refusal(owner, about, lock)
        try:
            yield
        except BaseException:
            if fresh:
                with contextlib.suppress(OSError):
                    os.unlink(lock)
            raise
        os.unlink(lock)
    finally:
        os.close(handle)
