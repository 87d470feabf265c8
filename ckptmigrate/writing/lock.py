"""Locks: a symbolic link, or an object in a store, whose text names the owner.

Both are created only if missing, in one step, so a lock always names its owner. flock and
byte-range locks are not used because NFS and Lustre may not support them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from ckptmigrate.checkpoint.lock_owner import (
    Holder,
    content_of,
    holder,
    owner_of,
    parse,
    refusal,
    this_process,
)
from ckptmigrate.errors import DestinationError, StoreError
from ckptmigrate.places import Place
from ckptmigrate.text.commands import command
from ckptmigrate.writing.durable import sync_directory

# The tokens of the locks that this process holds. A lock of a failed run may remain while the
# process continues to run; its token is not in here.
_held: Final[set[str]] = set()


@contextlib.contextmanager
def held(lock: Place, about: Place, *, synced: bool = True) -> Iterator[None]:
    """Hold a lock during a block. The block must `release` it; else `recover` must remove it.

    Args:
        lock: the place of the lock, in an existing directory.
        about: what the lock protects, for error messages.
        synced: whether the lock is on disk before the block begins.

    Raises:
        DestinationError: another process holds the lock, or ended without releasing it.
        OSError, StoreError: the lock cannot be created.
    """
    # The token distinguishes a repeated request from the lock of another thread.
    token = secrets.token_hex(8)
    content = json.dumps({**asdict(this_process()), "token": token}).encode()
    _held.add(token)
    try:
        try:
            _create(lock, content)
            if synced and isinstance(lock, Path):
                sync_directory(lock.parent)
        except FileExistsError as error:
            raise refusal(owner_of(lock), about, lock) from error
        except BaseException as error:
            _remove_own(lock, content, about, error)
            raise
        yield
    finally:
        _held.discard(token)


def _create(lock: Place, content: bytes) -> None:
    if isinstance(lock, Path):
        os.symlink(content, os.fsencode(lock))
    else:
        from ckptmigrate.storage.store import store_of  # local checkpoints do not need it

        store_of(lock).create(lock, content)


def _remove_own(lock: Place, content: bytes, about: Place, why: BaseException) -> None:
    """Remove a lock that may have been written; if that fails, add a fix to the error."""
    try:
        if content_of(lock) == content:
            release(lock)
    except (OSError, StoreError):
        if isinstance(why, StoreError):
            why.fix = f"{why.fix}; to remove a remaining lock, run `{command('recover', about)}`"


def release(lock: Place) -> None:
    """Remove a lock that this process holds or has taken over.

    Raises:
        OSError, StoreError: the lock cannot be removed.
    """
    if isinstance(lock, Path):
        os.unlink(lock)
    else:
        from ckptmigrate.storage.store import store_of

        store_of(lock).remove(lock)


@contextlib.contextmanager
def taken_over(lock: Place, about: Place, *, break_lock: bool = False) -> Iterator[None]:
    """Take over the lock of a process that has ended, run the block, and remove the lock.

    The lock exists until the block ends, so it remains if this process is killed. If the block
    raises, a lock that was taken over remains, and a lock that was created here is removed because
    this process may continue to run. If no lock exists, one is created.

    Args:
        lock, about: as for `held`.
        break_lock: whether to take over a lock whose process cannot be seen from this host.

    Raises:
        DestinationError: the process still runs or cannot be seen from this host, or another
            process is recovering the same lock.
    """
    content = content_of(lock)
    if content is None:
        with held(lock, about):
            try:
                yield
            except BaseException:
                with contextlib.suppress(OSError, StoreError):
                    release(lock)
                raise
            release(lock)
        return
    with _only_recovery(lock, content, about):
        owner = parse(content)
        found = Holder.DEAD if _is_left(content) else holder(owner)
        if found is Holder.ALIVE or (found is Holder.UNKNOWN and not break_lock):
            raise refusal(owner, about, lock)
        yield
        release(lock)


def _is_left(content: bytes) -> bool:
    """Return whether a lock belongs to an earlier, failed run in this process."""
    owner = parse(content)
    if owner is None or owner.pid != os.getpid():
        return False
    if replace(this_process(), since=owner.since) != owner:
        return False
    return json.loads(content).get("token") not in _held


@contextlib.contextmanager
def _only_recovery(lock: Place, content: bytes, about: Place) -> Iterator[None]:
    """Raise if another process of this host is recovering the same lock.

    A host-local guard is enough because a host can only tell that its own processes have ended. An
    abstract socket has no file, and the kernel closes it when this process ends.
    """
    # A copy of a checkpoint has a copy of its lock. A local lock is one inode, whatever path leads
    # to it.
    which = str(lock)
    if isinstance(lock, Path):
        with contextlib.suppress(FileNotFoundError):
            found = lock.lstat()
            which = f"{found.st_dev}:{found.st_ino}"
    name = hashlib.sha256(content + which.encode(errors="surrogateescape")).hexdigest()
    with socket.socket(socket.AF_UNIX) as guard:
        try:
            guard.bind(b"\0ckptmigrate-" + name.encode())
            if content_of(lock) != content:  # another recovery has finished meanwhile
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise DestinationError(
                "is being recovered by another process", path=about, fix="wait until it ends"
            ) from error
        yield
