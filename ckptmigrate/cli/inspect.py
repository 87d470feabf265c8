"""The command `inspect`: show what a checkpoint contains and which release wrote it."""

from __future__ import annotations

import click

from ckptmigrate.checkpoint import locate
from ckptmigrate.cli import options
from ckptmigrate.cli.batch_options import Selection, several
from ckptmigrate.cli.console import output
from ckptmigrate.cli.help import MIGRATED, Manual
from ckptmigrate.cli.run import run, selects_several
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.report import terminal
from ckptmigrate.verbs.inspect import InspectRequest


@click.command(cls=Manual, files=MIGRATED, found="error, or the rerun state is corrupt")
@options.iteration
@options.every
@options.full
@several(ledger=True, report=False)
@options.output_options
def inspect(selection: Selection, iteration: int | None, every: bool, full: bool) -> None:
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
    if selection.batch or not (every or selects_several(selection, iteration)):
        run(selection, InspectRequest(iteration, every), full=full)
        return
    shown, healthy = [], True
    found_at = locate.find(selection.only, iteration=iteration, every=every)
    for checkpoint in found_at.checkpoints:
        try:
            found = InspectRequest().run(checkpoint)
        except CkptMigrateError as error:
            healthy = False
            shown.append({"path": str(checkpoint), "error": error.as_json()})
            output.lines([] if output.json else [str(error)])
            continue
        healthy = healthy and found.healthy
        shown.append(found.as_json())
        lines = terminal.lines(found.document(), full=full, facts=True)
        output.lines([] if output.json else lines)
    if output.json:
        output.object(shown)
    if not healthy:
        raise SystemExit(1)
