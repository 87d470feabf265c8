"""The command `matrix`: show the compatibility matrix, or measure it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from ckptmigrate.cli import completion_values, matrix_run, options
from ckptmigrate.cli.console import output, terminal_width
from ckptmigrate.cli.help import ManualGroup
from ckptmigrate.cli.matrix_run import require_known, require_own
from ckptmigrate.compat import text_tables
from ckptmigrate.compat.cells import Cell, Matrix
from ckptmigrate.errors import RefusedError, Retry
from ckptmigrate.storage import local_files

_DOCTYPE: Final = len("<!DOCTYPE html>")


@click.group(cls=ManualGroup, invoke_without_command=True, subcommand_metavar="")
@click.option(
    "--scenario",
    metavar="NAME",
    shell_complete=completion_values.scenarios,
    help="Show this scenario only: idle, disabled, fault or optimizer.",
)
@click.option(
    "--writer", type=options.RELEASE, metavar="RELEASE", shell_complete=completion_values.releases,
    help="Show only checkpoints that this release wrote.",
)  # fmt: skip
@click.option(
    "--reader", type=options.RELEASE, metavar="RELEASE", shell_complete=completion_values.releases,
    help="Show only whether this release can resume. With --writer, show details.",
)  # fmt: skip
@click.option("--markdown", is_flag=True, help="Print Markdown tables.")
@click.option(
    "--into",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Update the tables in a Markdown file, after <!-- matrix: SCENARIO ... -->.",
)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the matrix as one HTML page that works offline.",
)
@options.output_options
@click.pass_context
def matrix(
    context: click.Context,
    scenario: str | None,
    writer: str | None,
    reader: str | None,
    markdown: bool,
    into: Path | None,
    html: Path | None,
) -> None:
    """Show which releases can resume from the checkpoints of each release.

    Each combination of releases has two results: one for the unmigrated checkpoint, one after
    `upgrade` or `downgrade`. With --writer and --reader, also shows whether a result is measured
    with the real release or derived from a rule.

    \b
    Scenarios:
      idle        reruns enabled, no fault
      disabled    saved with --rerun-mode disabled
      fault       saved after a fault, such as a NaN loss
      optimizer   idle, with the distributed optimizer

    \b
    Examples:
      ckptmigrate matrix --scenario idle
      ckptmigrate matrix --writer 0.17 --reader 0.11
      ckptmigrate matrix --html matrix.html
    """
    if context.invoked_subcommand is not None:
        return
    from ckptmigrate.compat.cells import matrix as shipped

    found = shipped()
    scenarios = [scenario] if scenario else [row.scenario for row in found.scenarios]
    require_known(scenarios, [row.scenario for row in found.scenarios], "scenario")
    if html is not None:
        from ckptmigrate.compat import page

        text = page.page(found)
        require_own(html, begins=text[:_DOCTYPE], option="--html")
        local_files.write_text(html, text)
        output.lines([f"wrote {html}"])
    elif into is not None:
        local_files.write_text(into, text_tables.into(_markdown(into), found))
        output.lines([f"refreshed {into}"])
    elif writer is not None or reader is not None:
        cells = _cells(found, writer, reader, scenarios)
        if not cells:
            raise RefusedError(
                f"release {writer} writes no checkpoint of the scenario {scenario!r}",
                fix="leave --scenario out to see those that it writes",
                retry=Retry(leave_out=("--scenario",)),
            )
        _tell(found, cells, one_pair=writer is not None and reader is not None)
    elif output.json:
        output.object([asdict(cell) for cell in found.cells.values() if cell.scenario in scenarios])
    elif markdown:
        click.echo(text_tables.markdown(found, scenarios))
    else:
        for each in scenarios:
            output.lines([text_tables.title(found, each)])
            output.segments([*text_tables.table(found, each, terminal_width()), []])
        output.lines([text_tables.LEGEND])


def _markdown(file: Path) -> str:
    try:
        return local_files.read_text(file)
    except UnicodeDecodeError as error:
        raise RefusedError(
            "is not text in UTF-8", path=file, fix="name a Markdown file with --into FILE"
        ) from error


def _cells(
    found: Matrix, writer: str | None, reader: str | None, scenarios: list[str]
) -> list[Cell]:
    """Return the cells of two releases, or of one with every other; None means every release."""
    written = _named(writer, found.writers("idle"), "writer")
    read = _named(reader, found.readers, "reader")
    keys = [(w, r, s) for s in scenarios for w in written for r in read]
    return [found.cells[key] for key in keys if key in found.cells]


def _named(release: str | None, known: Sequence[str], what: str) -> list[str]:
    """Return the first known release with this name, which can be the minor version only."""
    if release is None:
        return list(known)
    fitting = [each for each in known if release in (each, text_tables.short_name(each))]
    require_known([] if fitting else [release], list(known), what)
    return fitting[:1]


def _tell(found: Matrix, cells: list[Cell], *, one_pair: bool) -> None:
    if output.json:
        output.object([asdict(cell) for cell in cells])
    elif one_pair:
        for cell in cells:
            output.lines(text_tables.detail(found, cell))
    else:
        output.segments(text_tables.line(cell) for cell in cells)
        output.lines([text_tables.LEGEND])


matrix.add_command(matrix_run.add)
matrix.add_command(matrix_run.run)
