"""The verb `layouts`: list the layouts of the rerun state."""

from __future__ import annotations

from dataclasses import asdict

import click

from ckptmigrate.cli import options
from ckptmigrate.cli.console import output
from ckptmigrate.lines import Line


@click.command()
@options.output_options
def layouts() -> None:
    """List the layouts of the rerun state and the releases that write them.

    Example: ckptmigrate layouts
    """
    from ckptmigrate.releases import compat

    rows = compat().layouts
    if output.json:
        output.object([asdict(row) for row in rows])
        return
    output.lines([Line("what it is", f"{'layout':17}{'releases':14}", style="bold")])
    output.lines(Line(row.summary, f"{row.layout:17}{row.releases:14}") for row in rows)
