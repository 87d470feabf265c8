"""Progress of transfers and waits, for whoever displays it."""

from __future__ import annotations

from collections.abc import Callable

from ckptmigrate.places import Place

Progress = Callable[[int], None]  # called with each number of bytes moved


def _say_nothing(place: Place | str, seconds: float) -> None:
    """Do nothing."""


# Called while a request to a store is pending, with its place and the elapsed seconds.
on_wait: Callable[[Place | str, float], None] = _say_nothing
