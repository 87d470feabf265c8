"""A kind of finding of `verify`, and its severity."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ckptmigrate.places import Place
from ckptmigrate.text.commands import filled

_NO_REPAIR: Final = "restore an intact checkpoint from a copy"


class Severity(str, Enum):
    """Severity of a finding.

    error: a job fails or loads wrong data; warning: needs a look; note: for information.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Code:
    """A kind of finding.

    Attributes:
        code: its stable name.
        severity: its severity.
        meaning: its effect on a job, as a sentence.
        remedy: what to do; `{path}` stands for the checkpoint or root (see `commands.filled`), and
            `{repair}` for the command that repairs it, or for advice if no command does.
        source: the files of releases, or of torch, that define it.
        since: the releases that it affects.
        repair: the options that `repair` needs to remove it; None if `repair` cannot remove it.
    """

    code: str
    severity: Severity
    meaning: str
    remedy: str
    source: str
    since: str = "every release"
    repair: tuple[str, ...] | None = None

    def remedy_for(self, path: Place | str, repair: str | None) -> str:
        """Return the remedy for a path, given the command that repairs it, or None."""
        command = f"run `{repair}`" if repair else _NO_REPAIR
        return command.join(filled(part, path) for part in self.remedy.split("{repair}"))
