"""The verb `diff`: say what differs in meaning."""

from __future__ import annotations

import click

import ckptmigrate
from ckptmigrate.access.places import Place
from ckptmigrate.cli import completing, options, render
from ckptmigrate.cli.console import output
from ckptmigrate.cli.manual import Manual


@click.command(cls=Manual, found="refused, or something differs")
@click.argument("a", type=options.PLACE, shell_complete=completing.directories)
@click.argument("b", type=options.PLACE, shell_complete=completing.directories)
@options.iteration
@options.full
@options.output_options
def diff(a: Place, b: Place, iteration: int | None, full: bool) -> None:
    """Say what differs in meaning from checkpoint A to checkpoint B.

    Compared are the common state, entries, plans, attributes, backend marker and payload bytes.

    \b
    Examples:
      ckptmigrate diff run run.pre-rerun
      ckptmigrate diff run other --iteration 5 --full
    """
    found = ckptmigrate.diff(a, b, iteration=iteration)
    if output.json:
        output.object(
            {"equal": not found, "differences": [difference.as_json() for difference in found]}
        )
    else:
        output.lines(render.differences(found, full=full))
    if found:
        raise SystemExit(1)
