"""The ledger: a file with one line of JSON for every finished task.

Lines are only appended. Each is one write in append mode and is synced to disk before the next task
is counted, so several runs can share one file. A line that a crash truncated is ignored.
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

from ckptmigrate.batch.tasks import Done, Task, TaskOutcome
from ckptmigrate.errors import DestinationError
from ckptmigrate.places import Place, lies_in
from ckptmigrate.storage import local_files
from ckptmigrate.verbs.result import Status
from ckptmigrate.writing.durable import sync_directory

_FORMAT: Final = 1
_DONE: Final = (Status.OK.value, Status.DONE.value, Status.UNCHANGED.value)
_BEGINNING: Final = b'{"format": '  # start of every line
_LONGEST_LINE: Final = 2**20  # bytes; real lines are much shorter
_OTHER: Final = "name another file with --ledger FILE"
_TRACKER: Final = re.compile(r"release|[0-9]{1,18}")


def check_place(path: Path, places: Iterable[Place]) -> None:
    """Raise if a ledger is inside a checkpoint or root that the batch works on.

    Raises:
        DestinationError: it is inside one of `places`.
    """
    for each in places:
        if lies_in(path, each):
            reason = f"is in {each}, where a ledger cannot be"
            raise DestinationError(reason, path=path, fix=_OTHER)


class Ledger:
    """A ledger, open for appending."""

    def __init__(self, path: Path) -> None:
        """Open a ledger, or create it.

        Raises:
            DestinationError: the file cannot be read or written, or is not a ledger.
        """
        self.path = path
        try:
            self._handle = local_files.append(path)
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
        with local_files.over(self._handle) as file:
            done = _done(iter(partial(file.readline, _LONGEST_LINE), b""))
        if os.pread(self._handle, 1, size - 1) != b"\n":
            os.write(self._handle, b"\n")  # end the truncated line
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
        """Return the result of the same task in an earlier run if that succeeded, or None."""
        return self._done.get(_key(task.identity))

    def add(self, task: Task, outcome: TaskOutcome) -> None:
        """Append the outcome of a task and sync it to disk.

        Raises:
            DestinationError: the ledger cannot be written.
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
    """Return whether a file starts like a ledger; a crash may leave a part of a line, or zeros."""
    for line in begins.split(b"\n"):
        left = line.lstrip(b"\0")
        if left.startswith(_BEGINNING):
            return True
        if not _BEGINNING.startswith(left):
            return False
    return True


def _done(lines: Iterable[bytes]) -> dict[str, Done]:
    """Return the result in the last line of each task, if the task succeeded."""
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
            continue  # truncated, or not written by `add`
    return found


def _as_done(row: dict[str, Any]) -> Done:
    """Return the result in a line.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: `add` does not write such a line.
    """
    path, result, tracker, digests = (row[n] for n in ("path", "result", "tracker", "digests"))
    texts = [row["text"], *(each for each in (result, tracker, row["link"]) if each is not None)]
    texts += [each for names in digests.values() for each in names.values() if each is not None]
    if (
        not all(isinstance(each, str) for each in texts)
        or not (result in (None, path) or os.path.dirname(result) == row["into"])
        or not (tracker is None or _TRACKER.fullmatch(tracker))
        or not digests[path]
        or not digests.keys() <= {path, result}
    ):
        raise ValueError
    return Done(Status.SKIPPED, row["text"], result, tracker, row["link"], digests)


def _key(identity: dict[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)
