"""Keep two runs apart in a store: an object that says who holds the lock, created or refused."""

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

from ckptmigrate.access.places import Url
from ckptmigrate.errors import DestinationError, StoreError
from ckptmigrate.text.commands import command
from ckptmigrate.writing.lock import Holder, Owner, holder, parse, refusal, this_process

# The token of each lock that this process holds. It may live on after a run whose lock stayed.
_held: Final[dict[str, str]] = {}


@contextlib.contextmanager
def held(lock: Url, about: Url) -> Iterator[None]:
    """Hold a lock, which the block is to `release`; where it does not, `recover` has to.

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
        lock: its place.
        about: what it locks, for messages.

    Raises:
        DestinationError: somebody has it, or did not finish.
        StoreError: it cannot be written.
    """
    # The token tells a request that is sent twice from the lock of another thread.
    token = secrets.token_hex(8)
    content = json.dumps({**asdict(this_process()), "token": token}).encode()
    _held[str(lock)] = token
    try:
        lock.store.create(lock, content)
    except BaseException as error:
        del _held[str(lock)]
        if isinstance(error, FileExistsError):
            raise refusal(owner_of(lock), about) from error
        _discard(lock, content, about, error)
        raise


def _discard(lock: Url, content: bytes, about: Url, why: BaseException) -> None:
    """Remove a lock that was perhaps written; where that is not known, name the way out."""
    try:
        if _content(lock) == content:
            lock.store.remove(lock)
    except StoreError:
        if isinstance(why, StoreError):
            why.fix = f"{why.fix}; a lock that is left is removed by `{command('recover', about)}`"


def release(lock: Url) -> None:
    """Remove a lock of this process.

    Raises:
        StoreError: it cannot be removed.
    """
    lock.store.remove(lock)
    _held.pop(str(lock), None)


def owner_of(lock: Url) -> Owner | None:
    """Who holds a lock; None where that cannot be told."""
    content = _content(lock)
    return None if content is None else parse(content)


def _content(lock: Url) -> bytes | None:
    try:
        return lock.store.read(lock)
    except FileNotFoundError:
        return None


def _is_left(lock: Url, content: bytes) -> bool:
    """Whether a lock is that of a run of this process which is over."""
    owner = parse(content)
    mine = this_process()
    if owner is None or replace(owner, since=mine.since) != mine:
        return False
    return bool(json.loads(content).get("token") != _held.get(str(lock)))


@contextlib.contextmanager
def of_the_dead(lock: Url, about: Url, *, break_lock: bool = False) -> Iterator[None]:
    """Work under the lock of a process that is gone, and remove it at the end.

    Arguments and errors are those of `ckptmigrate.writing.lock.of_the_dead`.
    """
    content = _content(lock)
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
            raise refusal(owner, about)
        yield
        lock.store.remove(lock)


@contextlib.contextmanager
def _alone_here(lock: Url, content: bytes, about: Url) -> Iterator[None]:
    """Only the dead of this machine are known to be dead: keep two that bury them apart.

    An abstract socket has no file, and is let go of by the kernel whatever becomes of us.
    """
    name = hashlib.sha256(str(lock).encode() + b"\0" + content).hexdigest()
    with socket.socket(socket.AF_UNIX) as guard:
        try:
            guard.bind(b"\0ckptmigrate-" + name.encode())
            if _content(lock) != content:  # the other one has come to its end meanwhile
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise DestinationError(
                "is being recovered by another run", path=about, fix="wait until that is done"
            ) from error
        yield
