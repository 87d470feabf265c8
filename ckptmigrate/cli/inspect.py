"""The verb `inspect`: say what a checkpoint is."""

from __future__ import annotations

from functools import partial

import click

from ckptmigrate import inspection, locate, render
from ckptmigrate.batch import paths
from ckptmigrate.batch.looking import Inspect
from ckptmigrate.cli import options
from ckptmigrate.cli.console import output
from ckptmigrate.cli.many import Many, jobs, run, several


@click.command()
@options.iteration
@options.every
@several(ledger=True)
@options.output_options
def inspect(many: Many, iteration: int | None, every: bool) -> None:
    """Say what a checkpoint is: layout, writer, rerun state, sizes, history, anomalies.

    Exit status 1 where it is corrupt.

    Example: ckptmigrate inspect checkpoints/run
    """
    options.check_choice(iteration, every=every)
    if many.batch:
        choose = partial(paths.located, iteration=iteration, every=every)
        run(many, "inspect", jobs(many.groups(choose), Inspect()))
        return
    located = locate.locate(many.only, iteration=iteration, every=every)
    found = [inspection.inspect(checkpoint) for checkpoint in located.checkpoints]
    if output.json:
        shown = [each.as_json() for each in found]
        output.object(shown if every else shown[0])
    else:
        for each in found:
            output.lines(render.inspection(each))
    if not all(each.healthy for each in found):
        raise SystemExit(1)
