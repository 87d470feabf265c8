"""The option --report: write a report after a command, also if the command fails."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ckptmigrate.cli.batch_options import Many
from ckptmigrate.cli.console import output
from ckptmigrate.cli.failures import told
from ckptmigrate.cli.report_recorder import recorder
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.storage.urls import place
from ckptmigrate.text.printable import printable

if TYPE_CHECKING:
    from ckptmigrate.report.document import Report

Command = TypeVar("Command", bound=Callable[..., Any])


def _known_ending(_: click.Context, _parameter: click.Parameter, file: Path | None) -> Path | None:
    if file is not None:
        from ckptmigrate.report.output_file import RENDERERS

        if file.suffix not in RENDERERS:
            raise click.BadParameter(f"{str(file)!r} must end in one of {', '.join(RENDERERS)}.")
    return file


def reported(command: Command) -> Command:
    """Add --report to a command that has the parameter `many`."""

    @click.option(
        "--report", "file", type=click.Path(path_type=Path, readable=False), metavar="FILE",
        callback=_known_ending,
        help="Also write a report to FILE, which ends in .html, .md or .json. A command that fails "
        "writes one, too.",
    )  # fmt: skip
    @functools.wraps(command)
    def with_report(*, file: Path | None, many: Many, **options: Any) -> None:
        recorder.report = None
        if file is None:
            command(many=many, **options)
            return
        _reported(functools.partial(command, many=many, **options), file, many.paths)

    return with_report  # type: ignore[return-value]


def _reported(run: Callable[[], None], file: Path, paths: list[str]) -> None:
    from ckptmigrate.report import build, output_file

    for path in paths:
        output_file.check_place(file, place(path))
    recorder.report = build.begun(str(click.get_current_context().info_name), paths)
    try:
        run()
    except SystemExit as stop:
        # Status 1 is a result to report. Any other status is a signal, which only a batch reports.
        if stop.code == 1 or recorder.report.each:
            _write(recorder.report, file)
        raise
    except click.ClickException:
        raise
    except Exception as error:
        group = click.get_current_context().find_root().command
        assert isinstance(group, click.Group)
        refusal = told(error, group, sys.argv[1:])
        _write(build.refused(recorder.report, refusal), file)
        raise
    if not _write(recorder.report, file):
        raise SystemExit(1)


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
