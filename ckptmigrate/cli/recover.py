"""The verb `recover`: clean up after a migration that did not finish."""

from __future__ import annotations

import click

from ckptmigrate import recovery
from ckptmigrate.access.places import Place, absolute
from ckptmigrate.cli import options, render
from ckptmigrate.cli.console import output
from ckptmigrate.cli.manual import Manual


@click.command(
    cls=Manual,
    files={
        "PATH/../.NAME.ckptmigrate*": "the stage and lock of a migration under way, beside PATH"
    },
)
@options.path
@click.option(
    "--break-lock", is_flag=True, help="State that a run which cannot be seen from here is over."
)
@options.output_options
def recover(path: Place, break_lock: bool) -> None:
    """Clean up after a migration that did not finish.

    In place, it is rolled back, or forward once it was committed. Out of place, what it had staged
    beside PATH is removed. PATH is a checkpoint directory, a root, whose checkpoints are all looked
    at, or a destination.

    \b
    Examples:
      ckptmigrate recover run
      ckptmigrate recover run --break-lock
    """
    done = recovery.recover(path, break_lock=break_lock)
    if output.json:
        output.object({"recovered": {str(each): what for each, what in done.items()}})
    else:
        nothing = f"{absolute(path)}: nothing to recover"
        output.lines(render.recovered(done) or [nothing])
