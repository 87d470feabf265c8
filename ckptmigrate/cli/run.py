"""The run of a command on its PATHs: print the result, write the report, exit with the status."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptmigrate.cli import console
from ckptmigrate.cli.batch_options import Selection
from ckptmigrate.cli.console import output
from ckptmigrate.cli.corrected_command import completed
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.report import terminal
from ckptmigrate.report.document import CommandOutcome, Document, Refusal, Report
from ckptmigrate.storage.urls import place
from ckptmigrate.text.printable import printable

if TYPE_CHECKING:
    from ckptmigrate.verbs.result import VerbRequest

# Runs and prints; returns the document and the exit status. The argument is whether a report needs
# what the checkpoint contained before the change.
Runner = Callable[[bool], tuple[Document, int]]


def run(
    selection: Selection,
    request: Any,
    *,
    batch: bool = False,
    full: bool = False,
    path_only: bool = False,
) -> None:
    """Run a request on its PATHs.

    Args:
        batch: whether it is a batch even if there is one PATH and no option of a batch.
        full: whether to print long lists in full.
        path_only: print only the path of the root to load.
    """
    if selection.batch or batch:
        from ckptmigrate.cli import batches

        runner: Runner = partial(batches.run, selection, request)
    else:
        runner = partial(_one, selection, request, full=full, path_only=path_only)
    status = (
        _reported(runner, request.verb, selection.absolute, selection.report)
        if selection.report
        else (runner(False)[1])
    )
    if status:
        raise SystemExit(status)


def selects_several(selection: Selection, iteration: int | None) -> bool:
    """Return whether the PATH of a command selects several checkpoints, as a save of verl does."""
    from ckptmigrate.checkpoint import locate

    if selection.batch:
        return False
    with contextlib.suppress(CkptMigrateError, OSError):  # the command reports it
        return len(locate.find(selection.only, iteration=iteration).checkpoints) > 1
    return False


def _one(
    selection: Selection, request: VerbRequest, reported: bool, *, full: bool, path_only: bool
) -> tuple[Document, int]:
    result: Any = request.run(selection.only, reported=reported, watch=console.progress)
    document = result.document()
    if output.json:
        output.object(result.as_json())
    elif path_only:
        click.echo(str(result.load))
    else:
        facts = request.verb == "inspect"
        shown = terminal.lines(document, full=full, facts=facts, changes=output.verbose)
        output.lines(shown)
    return document, 0 if result.status.good else 1


def _reported(runner: Runner, verb: str, paths: list[str], file: Path) -> int:
    """Run a command and write its report, also if it fails; return the exit status."""
    from ckptmigrate import clock
    from ckptmigrate.report import output_file
    from ckptmigrate.version import __version__

    for path in paths:
        output_file.check_place(file, place(path))
    report = partial(Report, verb, tuple(paths), __version__, clock.now())
    try:
        document, status = runner(True)
    except Exception as error:
        if not isinstance(error, click.ClickException):
            group = click.get_current_context().find_root().command
            assert isinstance(group, click.Group)
            _write(report(_refused(completed(error, group, sys.argv[1:]))), file)
        raise
    return status if _write(report(document), file) else status or 1


def _refused(error: CkptMigrateError) -> Document:
    path = None if error.path is None else str(error.path)
    answer = f"{error.reason}." if path is None else f"{path}: {error.reason}."
    refusal = Refusal(type(error).__name__, path, error.reason, error.fix)
    return Document(CommandOutcome.REFUSED, answer, refusal=refusal)


def _write(report: Report, file: Path) -> bool:
    """Write the report; return False if that fails, which leaves the printed result valid."""
    from ckptmigrate.report import output_file

    try:
        output_file.write(report, file)
    except CkptMigrateError as error:
        click.echo(f"ckptmigrate: {error}", err=True)
        return False
    if not output.json:
        click.echo(printable(f"report: {file}"))
    return True
