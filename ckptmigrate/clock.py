"""The times that migration histories, locks, ledgers and reports record."""

from __future__ import annotations

import time


def now() -> str:
    """Return the current time in UTC as ISO 8601, to the second."""
    return in_utc(time.time())


def in_utc(seconds: float) -> str:
    """Return a time in UTC as ISO 8601.

    Args:
        seconds: seconds since 1970. The clock may be wrong, so a year outside 0 to 9999 is written
            with a sign and at least six digits.
    """
    there = time.gmtime(seconds)
    year = f"{there.tm_year:04}" if 0 <= there.tm_year <= 9999 else f"{there.tm_year:+07}"
    return year + time.strftime("-%m-%dT%H:%M:%S+00:00", there)
