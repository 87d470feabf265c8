"""The report of the running command, for --report (see `reports`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptmigrate.report.document import Report


@dataclass
class Recorder:
    """The report of the running command.

    Attributes:
        report: the report so far, or None without --report.
    """

    report: Report | None = None

    def add(self, to: Callable[[Report], Report]) -> None:
        """Update the report, if --report was passed."""
        if self.report is not None:
            self.report = to(self.report)


recorder = Recorder()
