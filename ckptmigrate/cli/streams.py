"""Standard output and error that may go away while a verb is at work."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from ckptmigrate.access import opener
from ckptmigrate.errors import CkptMigrateError


class Stream:
    """A text stream; what comes after its reader went away (`| head`) is dropped.

    The verb goes on and has its own exit status. Any other failure is an error where what is
    written is the answer.
    """

    def __init__(self, stream: Any, *, is_answer: bool) -> None:
        self._stream = stream
        self._is_answer = is_answer

    def write(self, text: str) -> int:
        """Write, as of a text stream."""
        if text == "":  # click asks so whether it can be written to, and drops the error
            return 0
        try:
            return int(self._stream.write(text))
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Flush, as of a text stream."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self, error: OSError) -> None:
        """Have all the rest, and what is still in a buffer, go nowhere."""
        nowhere = opener.nowhere()
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if self._is_answer and not isinstance(error, BrokenPipeError):
            raise CkptMigrateError(
                f"the output cannot be written ({error.strerror})", fix=_FIX
            ) from error


_FIX: Final = "have it go elsewhere, and see with `ckptmigrate inspect PATH` what was done"


def take_over() -> None:
    """Have everything in this process print through such streams."""
    if sys.stdout is not None:
        sys.stdout = Stream(sys.stdout, is_answer=True)
    if sys.stderr is not None:
        sys.stderr = Stream(sys.stderr, is_answer=False)
