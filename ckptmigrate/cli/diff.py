"""The verb `diff`: say what differs in meaning."""

from __future__ import annotations

from pathlib import Path

import click

import ckptmigrate
from ckptmigrate import render
from ckptmigrate.cli import options
from ckptmigrate.cli.console import output


@click.command()
@click.argument("a", type=click.Path(path_type=Path, readable=False))
@click.argument("b", type=click.Path(path_type=Path, readable=False))
@options.iteration
@options.full
@options.output_options
def diff(a: Path, b: Path, iteration: int | None, full: bool) -> None:
    """Say what differs in meaning from checkpoint A to checkpoint B.

    Compared are the common state, entries, plans, attributes, backend marker and payload bytes.
    Exit status 1 where anything differs.

    Example: ckptmigrate diff checkpoints/run checkpoints/run.pre-rerun
    """
    found = ckptmigrate.diff(a, b, iteration=iteration)
    if output.json:
        output.object(
            {"equal": not found, "differences": [difference.as_json() for difference in found]}
        )
    else:
        output.lines(render.differences(found, full=full))
    if found:
        raise SystemExit(1)
