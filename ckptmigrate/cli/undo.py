"""The verb `undo`: take the last migration in place back."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import click

from ckptmigrate import migration, recovery
from ckptmigrate.batch import paths
from ckptmigrate.batch.changing import Undo
from ckptmigrate.cli import options
from ckptmigrate.cli.carrying_out import carry_out
from ckptmigrate.cli.many import Many, jobs, run, several


@click.command()
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@options.every
@options.iteration
@several(ledger=False)
@options.output_options
def undo(many: Many, dry_run: bool, every: bool, iteration: int | None) -> None:
    """Take back the last migration in place, byte for byte.

    Again and again, as far as the sidecar tells. Refused where a file was changed since.

    Example: ckptmigrate undo checkpoints/run
    """
    options.check_choice(iteration, every=every)
    if many.batch or every:
        choose = partial(paths.located, iteration=iteration, every=every)
        run(many, "undo", jobs(many.groups(choose), Undo(dry_run)), dry_run=dry_run)
        return
    path = many.only
    recovered = {} if dry_run else recovery.in_place(path)
    prepared = migration.prepare_undo(path, iteration=iteration)
    carry_out(replace(prepared, recovered=recovered), dry_run=dry_run)
