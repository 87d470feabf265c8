"""Keep two runs apart: a symbolic link whose text says who holds the lock.

A link is made whole or not at all, and never over another, so there is no moment in which a
lock does not name its owner. flock and byte ranges are not: NFS and Lustre may lack them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from ckptmigrate import clock
from ckptmigrate.access import opener
from ckptmigrate.access.places import Place
from ckptmigrate.errors import DamagedError, DestinationError
from ckptmigrate.text.commands import command, shell
from ckptmigrate.writing.durable import sync_directory

_TEXTS: Final = ("user", "host", "since", "boot", "namespace")
_LONGEST: Final = 256  # characters of each


class Holder(Enum):
    """What is known of the process that holds a lock."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"  # on another machine, or out of sight in another container


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes:
        user, host, pid: for people.
        since: when it was taken, ISO 8601 in UTC.
        boot: the running kernel (/proc/sys/kernel/random/boot_id): the same id, the same machine.
        namespace: of the pid (/proc/self/ns/pid).
        ticks: when the process started, in clock ticks since the boot: a pid is used again.
    """

    user: str
    host: str
    pid: int
    since: str
    boot: str
    namespace: str
    ticks: int

    def __str__(self) -> str:
        return f"{self.user} on {self.host} (pid {self.pid}, since {self.since})"


def this_process() -> Owner:
    """The owner that a lock taken now has."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as containers have
        user = str(os.geteuid())
    pid = os.getpid()
    return Owner(
        user=user,
        host=socket.gethostname(),
        pid=pid,
        since=clock.now(),
        boot=_boot(),
        namespace=_namespace(),
        ticks=_started(pid) or 0,
    )


def _boot() -> str:
    return opener.read_text(Path("/proc/sys/kernel/random/boot_id")).strip()


def _namespace() -> str:
    return os.readlink("/proc/self/ns/pid")


def _started(pid: int) -> int | None:
    """When a process started, in ticks since the boot; None where it has ended.

    Raises:
        OSError: that is not told.
    """
    # The name, in parentheses, may hold anything; after it: state, ..., start (proc(5)).
    content = opener.read(Path(f"/proc/{pid}/stat"), opener.LARGEST_TEXT)
    fields = content.rpartition(b")")[2].split()
    return None if fields[0] in b"ZX" else int(fields[19])


def holder(owner: Owner | None) -> Holder:
    """Whether the process that took a lock still runs. What cannot be seen is not assumed dead."""
    if owner is None:
        return Holder.UNKNOWN
    if owner.boot != _boot():
        # This host under another kernel: it was booted since. `localhost` is any host.
        same = owner.host == socket.gethostname() and not owner.host.startswith("localhost")
        return Holder.DEAD if same else Holder.UNKNOWN
    if owner.namespace != _namespace():
        return Holder.UNKNOWN
    try:
        return Holder.ALIVE if _started(owner.pid) == owner.ticks else Holder.DEAD
    except OSError:
        # It may be there all the same: /proc can hide the processes of other users (hidepid).
        try:
            os.kill(owner.pid, 0)
        except ProcessLookupError:
            return Holder.DEAD
        except PermissionError:
            pass
        return Holder.UNKNOWN


def take(lock: Path, about: Path) -> None:
    """Take a lock.

    Args:
        lock: its place; the directory of it must exist.
        about: what it locks, for messages.

    Raises:
        DestinationError: somebody has it, or had and did not finish.
        OSError: it cannot be made.
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


def owner_of(lock: Path) -> Owner | None:
    """Who holds a lock that exists; None where its text does not say so.

    Raises:
        DamagedError: it is not a link, as every lock is.
    """
    try:
        text = os.readlink(lock)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise DamagedError(
                "is not a lock of ckptmigrate",
                path=lock,
                fix=f"if nothing else needs it, run `{shell('rm', '-r', lock)}`",
            ) from error
        return None
    return parse(text)


def parse(text: str | bytes) -> Owner | None:
    """The owner that the text of a lock names; None where it is not one that `take` writes."""
    try:
        found = json.loads(text)
        texts = {name: found[name] for name in _TEXTS}
        pid, ticks = found["pid"], found["ticks"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not all(isinstance(each, str) and len(each) <= _LONGEST for each in texts.values()):
        return None
    if not (type(pid) is type(ticks) is int and 0 < pid < 2**31 and 0 <= ticks < 2**63):
        return None
    return Owner(pid=pid, ticks=ticks, **texts)


def refusal(owner: Owner | None, about: Place, lock: Place | None = None) -> DestinationError:
    """Why a lock that somebody holds cannot be had, and what to do."""
    if owner is None:
        return DestinationError(
            f"is locked, and {lock or 'its lock'} does not say by whom",
            path=about,
            fix=f"if no migration of it runs, run `{command('recover', about, '--break-lock')}`",
        )
    who, found = owner, holder(owner)
    if found is Holder.ALIVE:
        return DestinationError(
            f"is being migrated by {who}", path=about, fix="wait until that is done"
        )
    if found is Holder.DEAD:
        return DestinationError(
            f"a migration by {who} did not finish on it",
            path=about,
            fix=f"make it whole with `{command('recover', about)}`",
        )
    return DestinationError(
        f"is being migrated by {who}, or was: that process cannot be seen from here",
        path=about,
        fix=f"if it is over, which root sees there with `{shell('ps', '-p', str(owner.pid))}`, run "
        f"`{command('recover', about, '--break-lock')}`",
    )


@contextlib.contextmanager
def of_the_dead(lock: Path, about: Path, *, break_lock: bool = False) -> Iterator[None]:
    """Work under the lock of a process that is gone, and remove it at the end.

    The lock stays until then, so that being killed here, too, leaves it behind. After an error that
    of the dead stays; one that was taken here goes, as this process may live on.

    Args:
        lock: its place.
        about: what it locks, for messages.
        break_lock: whether the user says that a process that cannot be seen is gone.

    Raises:
        DestinationError: the process lives, or cannot be seen; or another one is at this, too.
    """
    handle = opener.directory(lock.parent)
    try:
        # Only the dead of this machine are known to be dead, so a lock of this machine is enough
        # to keep two that bury them apart; where there is no flock, nothing does.
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DestinationError(
                "is being recovered by another run", path=about, fix="wait until that is done"
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
