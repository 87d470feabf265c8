"""Calls to the library of a store: limited in time, reported while they wait, never left behind."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from ckptmigrate.access import storage
from ckptmigrate.access.places import Place, Url

# Libraries whose calls are coroutines, which can be given up. What a thread does cannot be stopped,
# and may still write when all is thought to be over: of others only calls that read are given up.
_COROUTINES: Final = ("s3", "s3a", "gs", "gcs", "http", "https")
_READING: Final = ("ls", "find", "info", "cat_file")
_LIMIT: Final = 60.0  # seconds for one call, all its retries included
_AFTER_ONE: Final = 10.0  # the same, once a call was given up: what follows shall not take as long
_SLOWEST: Final = 100_000  # bytes a second of what is moved, which is added to the limit
_REPORTED: Final = 5.0  # seconds between two reports of one call
_GRACE: Final = 5.0  # seconds for a call to end when the user interrupts it


class Calls:
    """The calls to one store."""

    def __init__(self, root: Url, filesystem: Any) -> None:
        """Wrap the file system of fsspec that has the store."""
        self._fs = filesystem
        self._in_coroutines = root.protocol in _COROUTINES
        self._limit = _LIMIT

    def __call__(
        self, name: str, place: Place | str, *arguments: Any, size: int = 0, **options: Any
    ) -> Any:
        """Call a method.

        Args:
            name: of the method.
            place: its first argument, which it is about.
            size: bytes that it moves.

        Raises:
            TimeoutError: it does not answer within the limit.
            Exception: what the library raises.
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
                storage.on_wait(place, time.monotonic() - start)
            found = future.result()
        except asyncio.TimeoutError as error:
            if time.monotonic() - start < limit:  # it is the library's own
                raise
            self._limit = _AFTER_ONE
            raise TimeoutError(f"no answer within {limit:.0f} s") from error
        except BaseException:
            if not future.done():
                # What is written afterwards would not be undone.
                over.wait(_GRACE)
                future.cancel()
                over.wait(_GRACE)
            raise
        self._limit = _LIMIT
        return found

    def _given_up(
        self, future: concurrent.futures.Future[Any], place: Place | str, size: int
    ) -> Any:
        """Return what a call of a thread returns; after the limit nobody waits for it.

        Raises:
            TimeoutError: it does not end within the limit.
        """
        limit, start = self._limit + size / _SLOWEST, time.monotonic()
        while not concurrent.futures.wait([future], min(_REPORTED, limit)).done:
            waited = time.monotonic() - start
            if waited >= limit:
                self._limit = _AFTER_ONE
                raise TimeoutError(f"no answer within {limit:.0f} s")
            storage.on_wait(place, waited)
        found = future.result()
        self._limit = _LIMIT
        return found


def _in_thread(call: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    """Start a call in a thread that keeps no process from ending."""
    future = concurrent.futures.Future[Any]()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future
