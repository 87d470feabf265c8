"""The owner of a lock: who holds it, and whether that process still runs.

A local lock is a symbolic link whose text names the owner; in an object store, an object with that
text. `writing/lock.py` and `writing/store_lock.py` create and remove locks.
"""

from __future__ import annotations

import errno
import getpass
import json
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from ckptmigrate import clock
from ckptmigrate.errors import DamagedError, DestinationError
from ckptmigrate.places import Place
from ckptmigrate.storage import local_files
from ckptmigrate.text.commands import command, shell

_TEXTS: Final = ("user", "host", "since", "boot", "namespace")
_LONGEST: Final = 256  # characters of each


class Holder(Enum):
    """The state of the process that holds a lock."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"  # on another host or in another container


@dataclass(frozen=True)
class Owner:
    """The owner of a lock.

    Attributes:
        user, host, pid: user name, host name and process id, for error messages.
        since: when the lock was taken, ISO 8601 in UTC.
        boot: the boot id of the host (/proc/sys/kernel/random/boot_id), which identifies the host.
        namespace: the pid namespace (/proc/self/ns/pid).
        ticks: start time of the process, in clock ticks since boot, because pids are reused.
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
    """Return this process as the owner of a new lock."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in containers
        user = str(os.geteuid())
    pid = os.getpid()
    return Owner(
        user=user,
        host=os.uname().nodename,
        pid=pid,
        since=clock.now(),
        boot=_boot(),
        namespace=_namespace(),
        ticks=_started(pid) or 0,
    )


def _boot() -> str:
    return local_files.read_text(Path("/proc/sys/kernel/random/boot_id")).strip()


def _namespace() -> str:
    return os.readlink("/proc/self/ns/pid")


def _started(pid: int) -> int | None:
    """Return the start time of a process, in ticks since boot; None if it has ended.

    Raises:
        OSError: /proc does not show the process.
    """
    # The name, in parentheses, may contain any character; after it: state, ..., start (proc(5)).
    content = local_files.read(Path(f"/proc/{pid}/stat"), local_files.LARGEST_TEXT)
    fields = content.rpartition(b")")[2].split()
    return None if fields[0] in b"ZX" else int(fields[19])


def holder(owner: Owner | None) -> Holder:
    """Return whether the owner of a lock still runs; UNKNOWN if this host cannot tell."""
    if owner is None:
        return Holder.UNKNOWN
    if owner.boot != _boot():
        # The same host name with another boot id: the host rebooted. Any host may be `localhost`.
        same = owner.host == os.uname().nodename and not owner.host.startswith("localhost")
        return Holder.DEAD if same else Holder.UNKNOWN
    if owner.namespace != _namespace():
        return Holder.UNKNOWN
    try:
        return Holder.ALIVE if _started(owner.pid) == owner.ticks else Holder.DEAD
    except OSError:
        # The process may exist: /proc can hide the processes of other users (hidepid).
        try:
            os.kill(owner.pid, 0)
        except ProcessLookupError:
            return Holder.DEAD
        except PermissionError:
            pass
        return Holder.UNKNOWN


def owner_of(lock: Place) -> Owner | None:
    """Return the owner of a lock; None if the lock does not exist or its text is not valid.

    Raises:
        DamagedError: a lock on a local file system is not a symbolic link.
        StoreError: the store cannot be read.
    """
    content = content_of(lock)
    return None if content is None else parse(content)


def content_of(lock: Place) -> bytes | None:
    """Return the text of a lock; None if the lock does not exist. Errors as for `owner_of`."""
    if not isinstance(lock, Path):
        from ckptmigrate.storage.store import store_of  # local checkpoints do not need it

        try:
            return store_of(lock).read(lock)
        except FileNotFoundError:
            return None
    try:
        return os.readlink(os.fsencode(lock))
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise DamagedError(
                "is not a lock of ckptmigrate",
                path=lock,
                fix=f"if nothing else needs it, run `{shell('rm', '-r', lock)}`",
            ) from error
        return None


def parse(text: str | bytes) -> Owner | None:
    """Return the owner in the text of a lock; None if `take` does not write such a text."""
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


def refusal(owner: Owner | None, about: Place, lock: Place) -> DestinationError:
    """Return the error for a lock that cannot be taken."""
    if owner is None:
        return DestinationError(
            f"is locked, and {lock} does not name the process",
            path=about,
            fix=f"if no migration is running, run `{command('recover', about, '--break-lock')}`",
        )
    who, found = owner, holder(owner)
    if found is Holder.ALIVE:
        return DestinationError(
            f"is locked by a running migration of {who}", path=about, fix="wait until it ends"
        )
    if found is Holder.DEAD:
        return DestinationError(
            f"a migration by {who} was interrupted",
            path=about,
            fix=f"to recover it, run `{command('recover', about)}`",
        )
    return DestinationError(
        f"is locked by {who}, and this host cannot tell whether that process is still running",
        path=about,
        fix="if the process has ended (check on that host with "
        f"`{shell('ps', '-p', str(owner.pid))}`), run "
        f"`{command('recover', about, '--break-lock')}`",
    )
