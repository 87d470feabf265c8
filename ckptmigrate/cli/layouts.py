"""The verb `layouts`: list the layouts of the rerun state."""

from __future__ import annotations

from dataclasses import asdict

import click

from ckptmigrate.cli import options
from ckptmigrate.cli.console import output


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
    from rich.console import Console
    from rich.table import Table

    table = Table("layout", "releases", "what it is", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row.layout, row.releases, row.summary)
    Console(no_color=output.color is False, highlight=False).print(table)
