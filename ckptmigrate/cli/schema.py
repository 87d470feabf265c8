"""The command `schema`: print the JSON Schema of the --json output of a command."""

from __future__ import annotations

import click

from ckptmigrate import schemas
from ckptmigrate.cli import options
from ckptmigrate.cli.console import output
from ckptmigrate.cli.help import Manual


@click.command(cls=Manual, found="no schema with that name")
@click.argument("verb", nargs=-1, required=True, metavar="COMMAND...")
@options.output_options
def schema(verb: tuple[str, ...]) -> None:
    """Print the JSON Schema of the --json output of a command.

    The COMMAND `report` prints the schema of --report FILE.json. New versions of ckptmigrate add
    keys, but do not rename or remove them.

    \b
    Examples:
      ckptmigrate schema check
      ckptmigrate schema report
    """
    output.object(schemas.schema("-".join(verb)))
