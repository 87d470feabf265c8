"""The verb `layouts`: list the layouts of the rerun state."""

from __future__ import annotations

import click

from ckptmigrate.cli import options
from ckptmigrate.cli.console import output
from ckptmigrate.cli.manual import Manual
from ckptmigrate.text.lines import Line


@click.command(cls=Manual)
@options.output_options
def layouts() -> None:
    """List the layouts of the rerun state and the releases that write them.

    `ckptmigrate explain LAYOUT` tells more of one.

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
