"""What a verb has to report so far, for --report (see `reports`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptmigrate.reporting.report import Report


@dataclass
class Recorder:
    """What there is to report so far.

    A verb adds to it where it is there, and imports what makes reports only then.

    Attributes:
        report: None where no report is asked for.
    """

    report: Report | None = None


recorder = Recorder()
