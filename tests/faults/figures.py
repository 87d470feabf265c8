"""What `make faults` measured, per scenario: figures.json, which the pages quote.

A run of all faults, or of all crash states, of a scenario records what it covered. So the figures
of the pages are those of a run that passed, and a new scenario needs only its own run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

FILE: Final = Path(__file__).with_name("figures.json")


def stated() -> dict[str, dict[str, dict[str, int]]]:
    """Return suite -> scenario -> figures."""
    found: dict[str, dict[str, dict[str, int]]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def total(suite: str, figure: str) -> int:
    """Return the sum of a figure over the scenarios of a suite."""
    return sum(each[figure] for each in stated()[suite].values())


def record(suite: str, found: Mapping[str, Mapping[str, int]]) -> None:
    """Write the figures of scenarios that passed; keep those of the others."""
    figures = stated()
    figures[suite].update({name: dict(each) for name, each in found.items()})
    FILE.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
