"""The verb `inspect`: say what a checkpoint is."""

from __future__ import annotations

from pathlib import Path

import click

from ckptmigrate import inspection, locate, render
from ckptmigrate.cli import options
from ckptmigrate.cli.console import output


@click.command()
@options.path
@options.iteration
@options.every
@options.full
@options.output_options
def inspect(path: Path, iteration: int | None, every: bool, full: bool) -> None:
    """Say what a checkpoint is: layout, writer, rerun state, sizes, history, anomalies.

    Exit status 1 where it is corrupt.

    Example: ckptmigrate inspect checkpoints/run
    """
    options.check_choice(iteration, every=every)
    located = locate.locate(path, iteration=iteration, every=every)
    found = [inspection.inspect(checkpoint) for checkpoint in located.checkpoints]
    if output.json:
        shown = [each.as_json() for each in found]
        output.object(shown if every else shown[0])
    else:
        for each in found:
            output.lines(render.inspection(each, full=full))
    if not all(each.healthy for each in found):
        raise SystemExit(1)
