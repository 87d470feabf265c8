"""The time that a sidecar, a lock, a ledger and a report record."""

from __future__ import annotations

from datetime import datetime, timezone


def now() -> str:
    """Now, in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
