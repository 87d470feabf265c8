"""The parallel sizes of a checkpoint without `args`, as a file of its framework states them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ckptmigrate.places import Place


@dataclass(frozen=True)
class SavedSizes:
    """The parallel sizes that a file beside a checkpoint states, by the names of `args`.

    Attributes:
        values: name -> size in ranks, or a truth value for the rank order.
        path: the file; None if there is none.
        problem: why the file cannot be read, or None.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    path: Place | None = None
    problem: str | None = None


NO_SIZES: Final = SavedSizes()
