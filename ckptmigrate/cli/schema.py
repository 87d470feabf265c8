"""The verb `schema`: print the JSON Schema of what a verb prints with --json."""

from __future__ import annotations

import click

from ckptmigrate import schemas
from ckptmigrate.cli import options
from ckptmigrate.cli.console import output
from ckptmigrate.cli.manual import Manual


@click.command(cls=Manual, found="there is no schema of that name")
@click.argument("verb", nargs=-1, required=True)
@options.output_options
def schema(verb: tuple[str, ...]) -> None:
    """Print the JSON Schema of what VERB prints with --json.

    `report` is that of --report FILE.json. The keys are a contract: they stay from release to
    release.

    \b
    Examples:
      ckptmigrate schema upgrade
      ckptmigrate schema report
    """
    output.object(schemas.schema("-".join(verb)))
