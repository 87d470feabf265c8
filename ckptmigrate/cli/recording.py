"""What a verb has to report so far, for --report (see `reports`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec

from ckptmigrate.reporting.report import Report

Parts = ParamSpec("Parts")


@dataclass
class Recorder:
    """What there is to report so far; nothing where no report is asked for."""

    report: Report | None = None

    def record(
        self, make: Callable[Concatenate[Report, Parts], Report], *what: Parts.args,
        **more: Parts.kwargs,
    ) -> None:  # fmt: skip
        """Go on to another report, computed only where one is wanted."""
        if self.report is not None:
            self.report = make(self.report, *what, **more)


recorder = Recorder()
