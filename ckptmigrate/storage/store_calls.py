"""Calls to the library of a store, with a time limit and progress reports."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from ckptmigrate.places import Place, Url
from ckptmigrate.storage import progress

# Libraries whose calls are coroutines, which can be cancelled. A call in a thread cannot be stopped
# and may still write after its timeout, so for other libraries only reading calls have a limit.
_COROUTINES: Final = ("s3", "s3a", "gs", "gcs", "http", "https")
_READING: Final = ("ls", "find", "info", "cat_file")
_LIMIT: Final = 60.0  # seconds for one call, all its retries included
_AFTER_ONE: Final = 10.0  # seconds for one call after a timeout, so that later calls fail sooner
_SLOWEST: Final = 100_000  # bytes per second; adds the transfer time of the data to the limit
_REPORTED: Final = 5.0  # seconds between two reports of one call
_GRACE: Final = 5.0  # seconds for a call to end when the user interrupts it


class Calls:
    """Callable that calls one store."""

    def __init__(self, root: Url, filesystem: Any) -> None:
        """Wrap an fsspec file system."""
        self._fs = filesystem
        self._in_coroutines = root.protocol in _COROUTINES
        self._limit = _LIMIT

    def __call__(
        self, name: str, place: Place | str, *arguments: Any, size: int = 0, **options: Any
    ) -> Any:
        """Call a method of the file system.

        Args:
            name: name of the method.
            place: its first argument, the path that it acts on.
            size: bytes that the call moves.

        Raises:
            TimeoutError: the call does not return within the limit.
            Exception: the library raises an error.
        """
        if not self._in_coroutines:
            method = getattr(self._fs, name)
            if name not in _READING:
                return method(str(place), *arguments, **options)
            return self._given_up(
                _in_thread(lambda: method(str(place), *arguments, **options)), place, size
            )
        call = getattr(self._fs, f"_{name}")(str(place), *arguments, **options)
        limit = self._limit + size / _SLOWEST
        over = threading.Event()

        async def within_limit() -> Any:
            try:
                return await asyncio.wait_for(call, limit)
            finally:
                over.set()

        start = time.monotonic()
        future = asyncio.run_coroutine_threadsafe(within_limit(), self._fs.loop)
        try:
            while not concurrent.futures.wait([future], _REPORTED).done:
                progress.on_wait(place, time.monotonic() - start)
            found = future.result()
        except asyncio.TimeoutError as error:
            if time.monotonic() - start < limit:  # raised by the library itself
                raise
            self._limit = _AFTER_ONE
            raise TimeoutError(f"no response within {limit:.0f} s") from error
        except BaseException:
            if not future.done():
                # Let the call end first: an undo would miss what it writes later.
                over.wait(_GRACE)
                future.cancel()
                over.wait(_GRACE)
            raise
        self._limit = _LIMIT
        return found

    def _given_up(
        self, future: concurrent.futures.Future[Any], place: Place | str, size: int
    ) -> Any:
        """Return the result of a call in a thread; stop waiting after the limit.

        Raises:
            TimeoutError: the call does not end within the limit.
        """
        limit, start = self._limit + size / _SLOWEST, time.monotonic()
        while not concurrent.futures.wait([future], min(_REPORTED, limit)).done:
            waited = time.monotonic() - start
            if waited >= limit:
                self._limit = _AFTER_ONE
                raise TimeoutError(f"no response within {limit:.0f} s")
            progress.on_wait(place, waited)
        found = future.result()
        self._limit = _LIMIT
        return found


def _in_thread(call: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    """Start a call in a daemon thread, which does not keep the process alive."""
    future = concurrent.futures.Future[Any]()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future
