"""Locks in an object store: objects that name the owner and are created only if missing."""

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
from ckptmigrate.places import Url
from ckptmigrate.storage.store import store_of
from ckptmigrate.text.commands import command

# Lock -> token, of the locks that this process holds. A lock of a failed run may remain in the
# store while the process continues to run; its token is not in here.
_held: Final[dict[str, str]] = {}


@contextlib.contextmanager
def held(lock: Url, about: Url) -> Iterator[None]:
    """Hold a lock during a block. The block must `release` it; else `recover` must remove it.

    Arguments and errors are those of `take`.
    """
    take(lock, about)
    try:
        yield
    finally:
        _held.pop(str(lock), None)


def take(lock: Url, about: Url) -> None:
    """Create a lock.

    Args:
        lock: the URL of the lock.
        about: what the lock protects, for error messages.

    Raises:
        DestinationError: another process holds the lock, or ended without releasing it.
        StoreError: the lock cannot be written.
    """
    # The token distinguishes a repeated request from the lock of another thread.
    token = secrets.token_hex(8)
    content = json.dumps({**asdict(this_process()), "token": token}).encode()
    _held[str(lock)] = token
    try:
        store_of(lock).create(lock, content)
    except BaseException as error:
        del _held[str(lock)]
        if isinstance(error, FileExistsError):
            raise refusal(owner_of(lock), about, lock) from error
        _discard(lock, content, about, error)
        raise


def _discard(lock: Url, content: bytes, about: Url, why: BaseException) -> None:
    """Remove a lock that may have been written; if that fails, add a fix to the error."""
    try:
        if content_of(lock) == content:
            store_of(lock).remove(lock)
    except StoreError:
        if isinstance(why, StoreError):
            why.fix = f"{why.fix}; to remove a remaining lock, run `{command('recover', about)}`"


def release(lock: Url) -> None:
    """Remove a lock of this process.

    Raises:
        StoreError: the lock cannot be removed.
    """
    store_of(lock).remove(lock)
    _held.pop(str(lock), None)


def _is_left(lock: Url, content: bytes) -> bool:
    """Return whether a lock belongs to an earlier, failed run in this process."""
    owner = parse(content)
    mine = this_process()
    if owner is None or replace(owner, since=mine.since) != mine:
        return False
    return bool(json.loads(content).get("token") != _held.get(str(lock)))


@contextlib.contextmanager
def of_the_dead(lock: Url, about: Url, *, break_lock: bool = False) -> Iterator[None]:
    """Take over the lock of a process that has ended, run the block, and remove the lock.

    Arguments and errors are those of `ckptmigrate.writing.lock.of_the_dead`.
    """
    content = content_of(lock)
    if content is None:
        with held(lock, about):
            try:
                yield
            except BaseException:
                with contextlib.suppress(StoreError):
                    release(lock)
                raise
            release(lock)
        return
    with _alone_here(lock, content, about):
        owner = parse(content)
        found = Holder.DEAD if _is_left(lock, content) else holder(owner)
        if found is Holder.ALIVE or (found is Holder.UNKNOWN and not break_lock):
            raise refusal(owner, about, lock)
        yield
        store_of(lock).remove(lock)


@contextlib.contextmanager
def _alone_here(lock: Url, content: bytes, about: Url) -> Iterator[None]:
    """Raise if another process of this host is recovering the same lock.

    A host-local guard is enough because a host can only tell that its own processes have ended. An
    abstract socket has no file, and the kernel closes it when this process ends.
    """
    name = hashlib.sha256(str(lock).encode() + b"\0" + content).hexdigest()
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
