"""The command `undo`: undo the last in-place migration."""

from __future__ import annotations

import click

from ckptmigrate.cli import options
from ckptmigrate.cli.batch_options import Selection, several
from ckptmigrate.cli.help import MIGRATED, Manual
from ckptmigrate.cli.run import run
from ckptmigrate.verbs.undo import UndoRequest


@click.command(cls=Manual, files=MIGRATED)
@click.option("--dry-run", is_flag=True, help="Print the plan without writing anything.")
@click.option(
    "--forget",
    is_flag=True,
    help="Remove the original files instead, also data files that only they use. Then no "
    "migration can be undone.",
)
@options.full
@options.every
@options.iteration
@several(ledger=False)
@options.output_options
def undo(
    selection: Selection,
    dry_run: bool,
    forget: bool,
    full: bool,
    every: bool,
    iteration: int | None,
) -> None:
    """Undo the last in-place migration, byte for byte.

    Run it again to undo earlier migrations. `undo` fails if a file changed after the migration.

    A migration without --in-place does not modify PATH, and `undo` fails on its result. To discard
    the result, delete the new root.

    \b
    Examples:
      ckptmigrate undo run --dry-run
      ckptmigrate undo run
      ckptmigrate undo run --forget
    """
    options.check_choice(iteration, every=every)
    run(selection, UndoRequest(iteration, every, dry_run, forget), batch=every, full=full)
