"""The command `undo`: undo the last in-place migration."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import click

from ckptmigrate.batch import paths
from ckptmigrate.cli import options
from ckptmigrate.cli.batch_options import Many, several
from ckptmigrate.cli.execution import carry_out
from ckptmigrate.cli.help import MIGRATED, Manual
from ckptmigrate.cli.report_option import reported
from ckptmigrate.verbs import migrate, recover


@click.command(cls=Manual, files=MIGRATED)
@click.option("--dry-run", is_flag=True, help="Print the plan without writing anything.")
@options.full
@options.every
@options.iteration
@several(ledger=False)
@reported
@options.output_options
def undo(many: Many, dry_run: bool, full: bool, every: bool, iteration: int | None) -> None:
    """Undo the last in-place migration, byte for byte.

    Run it again to undo earlier migrations. `undo` fails if a file changed after the migration.

    A migration without --in-place does not modify PATH, and `undo` fails on its result. To discard
    the result, delete the new root.

    \b
    Examples:
      ckptmigrate undo run --dry-run
      ckptmigrate undo run
    """
    options.check_choice(iteration, every=every)
    if many.batch or every:
        from ckptmigrate.batch.change_tasks import Undo
        from ckptmigrate.cli.batches import jobs, run

        choose = partial(paths.located, iteration=iteration, every=every)
        found = jobs(many.groups(choose, in_place=True), Undo(dry_run))
        run(many, "undo", found, dry_run=dry_run)
        return
    path = many.only
    recovered = {} if dry_run else recover.in_place(path)
    prepared = migrate.prepare_undo(path, iteration=iteration)
    carry_out(replace(prepared, recovered=recovered), dry_run=dry_run, full=full)
