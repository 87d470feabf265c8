"""What is done already: a file with a line of JSON for every task that came to an end.

Lines are only ever added, each by one write in append mode and on disk before the next task is
counted, so that several runs may write to one file. A line that a crash has torn tells nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from ckptmigrate.access import opener
from ckptmigrate.access.places import Place, lies_in
from ckptmigrate.batch.work import Done, Outcome, Status, Task
from ckptmigrate.errors import DestinationError
from ckptmigrate.writing.durable import sync_directory

_FORMAT: Final = 1
_DONE: Final = (Status.DONE.value, Status.UNCHANGED.value)
_BEGINNING: Final = b'{"format": '  # of every line that is written here
_LONGEST_LINE: Final = 2**20  # bytes, by far
_OTHER: Final = "name another file with --ledger FILE"
_TRACKER: Final = re.compile(r"release|[0-9]{1,18}")


def check_place(path: Path, places: Iterable[Place]) -> None:
    """Refuse a ledger in what is worked on, before anything is done.

    Raises:
        DestinationError: it lies in one of the places.
    """
    for each in places:
        if lies_in(path, each):
            reason = f"lies in {each}, which a ledger leaves alone"
            raise DestinationError(reason, path=path, fix=_OTHER)


class Ledger:
    """A ledger, open to be added to."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it.

        Raises:
            DestinationError: it cannot be read or written, or is another file.
        """
        self.path = path
        try:
            self._handle = opener.append(path)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._done = self._read()
            sync_directory(path.absolute().parent)
        except OSError as error:
            os.close(self._handle)
            raise self._unwritable(error) from error

    def _read(self) -> dict[str, Done]:
        size = os.fstat(self._handle).st_size
        if not size:
            return {}
        if not _is_one(os.pread(self._handle, _LONGEST_LINE, 0)):
            raise OSError("it is another file, and no ledger")
        with opener.over(self._handle) as file:
            done = _done(iter(partial(file.readline, _LONGEST_LINE), b""))
        if os.pread(self._handle, 1, size - 1) != b"\n":
            os.write(self._handle, b"\n")  # the torn line stays one of its own
        return done

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._handle)

    def earlier(self, task: Task) -> Done | None:
        """What an earlier run did for the very same task, if that came to a good end."""
        return self._done.get(_key(task.identity))

    def add(self, task: Task, outcome: Outcome) -> None:
        """Write down what came of a task; it is on disk when this returns.

        Raises:
            DestinationError: it cannot be written.
        """
        row = {"format": _FORMAT, **task.identity, **outcome.as_json()}
        row.pop("detail", None)
        line = json.dumps(row).encode() + b"\n"
        try:
            if os.write(self._handle, line) != len(line):
                raise OSError("the disk is full")
            os.fsync(self._handle)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> DestinationError:
        reason = f"cannot be written ({error.strerror or error})"
        return DestinationError(reason, path=self.path, fix=_OTHER)


def _is_one(begins: bytes) -> bool:
    """Whether a file begins as a ledger: of a line, a crash may leave a part of it, or zeros."""
    for line in begins.split(b"\n"):
        left = line.lstrip(b"\0")
        if left.startswith(_BEGINNING):
            return True
        if not _BEGINNING.startswith(left):
            return False
    return True


def _done(lines: Iterable[bytes]) -> dict[str, Done]:
    """Of each task the last line, where it tells of a good end."""
    found: dict[str, Done] = {}
    for line in lines:
        try:
            row = json.loads(line)
            key = _key({name: row[name] for name in ("path", "verb", "target", "into", "options")})
            if row["format"] != _FORMAT or row["status"] not in _DONE:
                found.pop(key, None)
                continue
            found[key] = _as_done(row)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # torn, or none of ours
    return found


def _as_done(row: dict[str, Any]) -> Done:
    """What a line tells.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is none that `add` writes.
    """
    path, result, tracker, digests = (row[n] for n in ("path", "result", "tracker", "digests"))
    told = [row["text"], *(each for each in (result, tracker, row["link"]) if each is not None)]
    told += [each for names in digests.values() for each in names.values() if each is not None]
    if (
        not all(isinstance(each, str) for each in told)
        or not (result in (None, path) or os.path.dirname(result) == row["into"])
        or not (tracker is None or _TRACKER.fullmatch(tracker))
        or not digests[path]
        or not digests.keys() <= {path, result}
    ):
        raise ValueError
    return Done(Status.SKIPPED, row["text"], result, tracker, row["link"], digests)


def _key(identity: dict[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)
