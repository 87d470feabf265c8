"""What is done already: a file with a line of JSON for every task that came to an end.

Lines are only ever added, each by one write in append mode and on disk before the next task is
counted, so that several runs may write to one file. A line that a crash has torn tells nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from ckptmigrate.batch.work import Done, Outcome, Status, Task
from ckptmigrate.errors import DestinationError
from ckptmigrate.writing.durable import sync_directory

_FORMAT: Final = 1
_DONE: Final = (Status.DONE.value, Status.UNCHANGED.value)


class Ledger:
    """A ledger, open to be added to."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it.

        Raises:
            DestinationError: it cannot be read or written.
        """
        self.path = path
        try:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._handle = os.open(path, flags, 0o666)
            with open(path, "rb") as file:
                content = file.read()
            if content and not content.endswith(b"\n"):
                os.write(self._handle, b"\n")  # the torn line stays one of its own
            sync_directory(path.absolute().parent)
        except OSError as error:
            raise self._unwritable(error) from error
        self._done = _done(content.splitlines())

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
        return DestinationError(reason, path=self.path, fix="name another file with --ledger FILE")


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
            found[key] = Done(
                Status.SKIPPED,
                row["text"],
                row["result"],
                row["tracker"],
                row["link"],
                row["digests"],
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # torn, or none of ours
    return found


def _key(identity: dict[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)
