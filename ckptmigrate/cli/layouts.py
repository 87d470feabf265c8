"""The command `layouts`: list the layouts."""

from __future__ import annotations

import click

from ckptmigrate.cli import options
from ckptmigrate.cli.console import output
from ckptmigrate.cli.help import Manual
from ckptmigrate.text.lines import Line


@click.command(cls=Manual)
@options.output_options
def layouts() -> None:
    """List the layouts and the releases that write them.

    A layout is how a range of releases stores the common state (common.pt) and the rerun state (of
    the RerunStateMachine). Loading can fail if a release finds a layout that it does not expect.

    Run `ckptmigrate inspect PATH` for the layout of a checkpoint, and `ckptmigrate explain LAYOUT`
    for details on a layout.

    \b
    Examples:
      ckptmigrate layouts
      ckptmigrate layouts --json
    """
    from ckptmigrate.releases.facts import compat

    rows = compat().layouts
    if output.json:
        keys = ("layout", "releases", "summary", "source")
        output.object([{key: getattr(row, key) for key in keys} for row in rows])
        return
    output.lines([Line("what it is", f"{'layout':17}{'releases':14}", style="bold")])
    output.lines(Line(row.summary, f"{row.layout:17}{row.releases:14}") for row in rows)
