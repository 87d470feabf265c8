"""An audit hook that tells what a process did beside reading a checkpoint.

CPython raises an audit event for every import, exec, open, system call of the `os` module, socket
and so on (PEP 578), below anything that a pickle could replace. The hook goes by an allow-list:
what is not named here is a violation. It cannot be taken out again, so it is installed in a
process of its own (`runner.py`, or a worker of the fuzzer), before ckptmigrate is imported.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterable
from typing import Any

# Looking, and what Python does to itself; none of them runs code or leaves the process.
_HARMLESS = frozenset(
    {
        "array.__new__",  # memory, no more of it than the file has bytes
        "object.__getattr__",  # marked read-only attributes
        "object.__setattr__",
        "object.__delattr__",
        "builtins.id",
        "sys._getframe",
        "sys._getframemodulename",
        "os.listdir",
        "os.scandir",
        "os.getxattr",
        "os.listxattr",
        "glob.glob",
        "glob.glob/2",
        "signal.pthread_kill",
        "gc.get_objects",
        "fcntl.ioctl",  # FICLONE into the destination, which an open has made
    }
)
# What changes files: position of each path among the arguments.
_WRITES = {
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "os.truncate": (0,),
    "os.setxattr": (0,),
    "os.removexattr": (0,),
    "shutil.copymode": (1,),
    "shutil.copystat": (1,),
    "shutil.copyfile": (1,),
    "shutil.rmtree": (0,),
}
_ENOUGH = 20  # violations told


class Guard:
    """Collects violations while it is armed.

    Attributes:
        readable: folders below which files may be opened for reading.
        writable: folders below which anything may be written; empty for a verb that only reads.
        violations: what happened that should not have, in words.
        seen: how many events were judged.
    """

    def __init__(self) -> None:
        self.armed = False
        self.readable: tuple[str, ...] = ()
        self.writable: tuple[str, ...] = ()
        self.violations: list[str] = []
        self.seen = 0
        self._imported: set[str] = set()
        self._sweeping = False  # shutil.rmtree of a writable folder, by names relative to it
        self._ours = tuple(
            {os.path.realpath(path) + os.sep for path in (sys.prefix, sys.base_prefix, *sys.path)}
        )
        sys.addaudithook(self._hook)

    def allow(self, *, read: Iterable[object] = (), write: Iterable[object] = ()) -> None:
        """Where files may be read, and where written."""
        self.writable = tuple(os.path.abspath(str(path)) for path in write)
        self.readable = (*(os.path.abspath(str(path)) for path in read), *self.writable)
        self._sweeping = False

    def learn(self) -> None:
        """What is imported by now, a clean run behind us, may be imported again."""
        codecs.lookup("cp437")  # of zipfile, for names that are not marked as UTF-8
        codecs.lookup("unicode_escape")  # of printable
        self._imported.update(sys.modules)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed or event in _HARMLESS:
            return
        self.armed = False  # what happens in here is ours
        try:
            self.seen += 1
            if len(self.violations) < _ENOUGH and not self._allowed(event, arguments):
                self.violations.append(f"{event} {arguments!r}"[:300])
        finally:
            self.armed = True

    def _allowed(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "import":
            return arguments[0] in self._imported
        if event == "open":
            return self._may_open(*arguments[:3])
        if event in _WRITES:
            paths = [arguments[at] for at in _WRITES[event]]
            if self._sweeping and all(not os.path.isabs(path) for path in paths):
                return event in ("os.remove", "os.rmdir")
            may = all(self._below(path, self.writable) for path in paths)
            self._sweeping |= may and event == "shutil.rmtree"
            return may
        return False

    def _may_open(self, path: Any, mode: Any, flags: Any) -> bool:
        if isinstance(path, int):
            return True  # a descriptor that an earlier event opened
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes:
            return self._below(path, self.writable)
        if self._sweeping and not os.path.isabs(path):
            return True
        if flags & os.O_DIRECTORY and any(f"{f}/".startswith(f"{path}/") for f in self.writable):
            return True  # the folder of a destination, to sync it
        found = os.path.realpath(os.fsdecode(path))
        return self._below(found, self.readable) or found.startswith(self._ours)

    @staticmethod
    def _below(path: Any, folders: tuple[str, ...]) -> bool:
        if isinstance(path, int):
            return bool(folders)
        place = _place(path)
        return any(f"{place}/".startswith(f"{_place(folder)}/") for folder in folders)


def _place(path: Any) -> str:
    """A path with its folder resolved and its name not: a link is made and removed for itself."""
    folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
    return os.path.join(os.path.realpath(folder), name)
