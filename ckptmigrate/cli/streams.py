"""Standard output and error that can be closed while a command runs."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.storage import local_files


class Stream:
    """A text stream that drops its output after the reader closed it (`| head`).

    The command continues and keeps its exit status. Any other write error is raised for the stream
    that carries the answer.
    """

    def __init__(self, stream: Any, *, is_answer: bool) -> None:
        self._stream = stream
        self._is_answer = is_answer

    def write(self, text: str) -> int:
        """Write text and return its length, as a text stream does."""
        if text == "":  # click writes "" as a test, and ignores the error
            return 0
        try:
            return int(self._stream.write(text))
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Flush the stream, as a text stream does."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self, error: OSError) -> None:
        """Discard all further output and the content of buffers."""
        nowhere = local_files.nowhere()
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if self._is_answer and not isinstance(error, BrokenPipeError):
            raise CkptMigrateError(
                f"the output cannot be written ({error.strerror})", fix=_FIX
            ) from error


_FIX: Final = "have it go elsewhere, and see with `ckptmigrate inspect PATH` what was done"


def take_over() -> None:
    """Replace sys.stdout and sys.stderr by streams of this class."""
    if sys.stdout is not None:
        sys.stdout = Stream(sys.stdout, is_answer=True)
    if sys.stderr is not None:
        sys.stderr = Stream(sys.stderr, is_answer=False)
