"""The file of a report: it never replaces a file and is never inside the reported checkpoint."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ckptmigrate.errors import DestinationError, Retry
from ckptmigrate.places import Place, lies_in
from ckptmigrate.report import html, markdown
from ckptmigrate.report.document import Report
from ckptmigrate.text.commands import command, shell
from ckptmigrate.writing import durable


def _json(report: Report) -> str:
    return json.dumps(report.as_json(), indent=2) + "\n"


_OTHER: Final = "name another file with --report"
RENDERERS: Final[Mapping[str, Callable[[Report], str]]] = {
    ".html": html.page,
    ".md": markdown.page,
    ".json": _json,
}


def check_place(file: Path, source: Place) -> None:
    """Raise if a report cannot be written to a file; called before the command does anything.

    Raises:
        DestinationError: the file exists, is inside `source`, or has no writable directory.
    """
    folder = Path(os.path.realpath(file.parent))
    if os.path.lexists(file):
        raise DestinationError(
            "exists already, and a report overwrites nothing",
            path=file,
            fix=_OTHER,
            retry=Retry(add=("--report", str(_free(file)))),
        )
    if lies_in(folder, source):
        reason, fix = f"is in {source}, where a report cannot be", _OTHER
    elif not folder.is_dir():
        make = shell("mkdir", "-p", folder)
        reason, fix = "is in a directory that does not exist", f"run `{make}`, or {_OTHER}"
    elif len(os.fsencode(file.name)) > os.pathconf(folder, "PC_NAME_MAX"):
        reason, fix = "has a name that is too long for its file system", _OTHER
    elif not os.access(folder, os.W_OK):
        reason, fix = "is in a directory that you cannot write to", _OTHER
    else:
        return
    raise DestinationError(reason, path=file, fix=fix)


def _free(file: Path) -> Path:
    """Return the path of a file next to it that does not exist."""
    names = (file.with_name(f"{file.stem}.{n}{file.suffix}") for n in itertools.count(2))
    return next(each for each in names if not os.path.lexists(each))


def write(report: Report, file: Path) -> None:
    """Write a report in the format of the file extension, without replacing a file.

    Raises:
        DestinationError: the report cannot be written.
    """
    content = RENDERERS[file.suffix](report).encode()
    try:
        durable.write(file, content)
    except OSError as error:
        if not isinstance(error, FileExistsError):
            with contextlib.suppress(OSError):
                file.unlink()  # remove an incomplete report
        raise DestinationError(
            f"cannot be written ({error.strerror}); the report is lost, and what it tells is not",
            path=file,
            fix=f"run `{command('inspect', report.paths[0])}` for what is there",
        ) from error
