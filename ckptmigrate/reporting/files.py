"""Where a report goes: it overwrites nothing, and stays out of what it reports on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ckptmigrate import durable
from ckptmigrate.commands import command, shell
from ckptmigrate.errors import DestinationError
from ckptmigrate.reporting import html, markdown
from ckptmigrate.reporting.report import Report


def _json(report: Report) -> str:
    return json.dumps(report.as_json(), indent=2) + "\n"


RENDERERS: Final[Mapping[str, Callable[[Report], str]]] = {
    ".html": html.page,
    ".md": markdown.page,
    ".json": _json,
}


def check_place(file: Path, source: Path) -> None:
    """Refuse a place for a report before anything is done.

    Raises:
        DestinationError: it is there already, in what it reports on, or in no directory.
    """
    beside = "name a file beside it with --report"
    if os.path.lexists(file):
        raise DestinationError("exists already, and a report overwrites nothing", path=file,
                               fix="remove it, or name another file with --report")  # fmt: skip
    folder = Path(os.path.realpath(file.parent))
    if folder.is_relative_to(os.path.realpath(source)):
        raise DestinationError(f"lies in {source}, which a report leaves alone", path=file,
                               fix=beside)  # fmt: skip
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DestinationError("cannot be written: there is no such directory that may be written",
                               path=file, fix=f"run `{shell('mkdir', '-p', folder)}`, or {beside}")  # fmt: skip


def write(report: Report, file: Path) -> None:
    """Write a report as the ending of the file says; a file that is there stays as it is.

    Raises:
        DestinationError: it cannot be written.
    """
    content = RENDERERS[file.suffix](report).encode()
    try:
        durable.write(file, content)
    except OSError as error:
        if not isinstance(error, FileExistsError):
            file.unlink(missing_ok=True)  # half a report is none
        raise DestinationError(
            f"cannot be written ({error.strerror}); the report is lost, and what it tells is not",
            path=file,
            fix=f"run `{command('inspect', report.path)}` for what is there",
        ) from error
