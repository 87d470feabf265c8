"""The command `recover`: complete or roll back an interrupted migration."""

from __future__ import annotations

import click

from ckptmigrate.cli import options
from ckptmigrate.cli.console import output
from ckptmigrate.cli.help import Manual
from ckptmigrate.places import Place, absolute
from ckptmigrate.verbs import recover as recovery


@click.command(
    cls=Manual,
    files={"PATH/../.NAME.ckptmigrate*": "staging directory and lock of a migration, next to PATH"},
)
@options.path
@click.option(
    "--break-lock",
    is_flag=True,
    help="Remove a lock held by a process on another host. Use it only if that process has ended.",
)
@click.option(
    "--keep",
    is_flag=True,
    help="Keep the finished data files of an interrupted conversion. The same command continues "
    "with the others.",
)
@options.output_options
def recover(path: Place, break_lock: bool, keep: bool) -> None:
    """Complete or roll back an interrupted migration.

    An interrupted in-place migration is completed if it was committed, and rolled back otherwise.
    The staging directory of any other interrupted migration is deleted. So are the new data files
    of an interrupted conversion, unless --keep is given.

    PATH is a checkpoint, a root (all its checkpoints are examined), or the new root that the
    migration was to create.

    \b
    Examples:
      ckptmigrate recover run
      ckptmigrate recover run --break-lock
      ckptmigrate recover run --keep
    """
    done = recovery.recover(path, break_lock=break_lock, keep=keep)
    if output.json:
        output.object({"recovered": {str(each): what for each, what in done.items()}})
    else:
        nothing = f"{absolute(path)}: nothing to recover"
        output.lines([f"{each}: {what}" for each, what in done.items()] or [nothing])
