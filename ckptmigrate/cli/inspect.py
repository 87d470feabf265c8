"""The verb `inspect`: say what a checkpoint is."""

from __future__ import annotations

from pathlib import Path

import click

from ckptmigrate import inspection, locate, render
from ckptmigrate.cli import options
from ckptmigrate.cli.console import output
from ckptmigrate.cli.manual import MIGRATED, Manual


@click.command(cls=Manual, files=MIGRATED, found="refused, or the checkpoint is corrupt")
@options.path
@options.iteration
@options.every
@options.full
@options.output_options
def inspect(path: Path, iteration: int | None, every: bool, full: bool) -> None:
    """Say what a checkpoint is: layout, writer, rerun state, sizes, history, anomalies.

    No release writes its version into a checkpoint: the writer is told by the traces it left.

    \b
    Examples:
      ckptmigrate inspect run
      ckptmigrate inspect run --all
      ckptmigrate inspect run/iter_0000005 --json
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
