"""The time that a sidecar, a lock, a ledger and a report record."""

from __future__ import annotations

import time


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return in_utc(time.time())


def in_utc(seconds: float) -> str:
    """Return a time in ISO 8601; a clock may be wrong, so years need not have four digits.

    Args:
        seconds: since 1970.
    """
    there = time.gmtime(seconds)
    year = f"{there.tm_year:04}" if 0 <= there.tm_year <= 9999 else f"{there.tm_year:+07}"
    return year + time.strftime("-%m-%dT%H:%M:%S+00:00", there)
