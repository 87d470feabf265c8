"""What a verb has to report so far, for --report (see `reports`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptmigrate.reporting.report import Report


@dataclass
class Recorder:
    """What there is to report so far.

    Attributes:
        report: None where no report is asked for.
    """

    report: Report | None = None

    def add(self, to: Callable[[Report], Report]) -> None:
        """Add to the report, where one is asked for."""
        if self.report is not None:
            self.report = to(self.report)


recorder = Recorder()
