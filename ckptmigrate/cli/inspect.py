"""The command `inspect`: show what a checkpoint contains and which release wrote it."""

from __future__ import annotations

from functools import partial

import click

from ckptmigrate.batch import paths
from ckptmigrate.checkpoint import locate, migration_state
from ckptmigrate.cli import options, render
from ckptmigrate.cli.batch_options import Many, several
from ckptmigrate.cli.console import output
from ckptmigrate.cli.help import MIGRATED, Manual
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.verbs import inspect as inspection


@click.command(cls=Manual, files=MIGRATED, found="error, or the rerun state is corrupt")
@options.iteration
@options.every
@options.full
@several(ledger=True)
@options.output_options
def inspect(many: Many, iteration: int | None, every: bool, full: bool) -> None:
    """Show which release wrote a checkpoint, its layout, rerun state, size and problems.

    Megatron does not store its version in a checkpoint. `inspect` infers the release from the
    arguments and keys that the checkpoint contains.

    \b
    Examples:
      ckptmigrate inspect run
      ckptmigrate inspect run --all
      ckptmigrate inspect run/iter_0000005 --json
    """
    options.check_choice(iteration, every=every)
    if many.batch:
        from ckptmigrate.batch.read_tasks import Inspect
        from ckptmigrate.cli.batches import jobs, run

        choose = partial(paths.located, iteration=iteration, every=every)
        run(many, "inspect", jobs(many.groups(choose), Inspect()))
        return
    located = locate.find(many.only, iteration=iteration, every=every)
    shown, healthy = [], True
    for checkpoint in located.checkpoints:
        try:
            migration_state.check_complete(checkpoint)
            found = inspection.inspect(checkpoint)
        except CkptMigrateError as error:
            if not every:
                raise
            healthy = False
            shown.append({"path": str(checkpoint), "error": error.as_json()})
            output.lines([] if output.json else [str(error)])
            continue
        healthy = healthy and found.healthy
        shown.append(found.as_json())
        output.lines([] if output.json else render.inspection(found, full=full))
    if output.json:
        output.object(shown if every else shown[0])
    if not healthy:
        raise SystemExit(1)
