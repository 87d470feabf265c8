"""The verb `verify`: say everything that is wrong with a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from ckptmigrate import render, verifying
from ckptmigrate.cli import console, options
from ckptmigrate.cli.console import output
from ckptmigrate.cli.manual import CHECKPOINT, Manual
from ckptmigrate.cli.reports import recorder, reported
from ckptmigrate.reporting import building
from ckptmigrate.verifying import roots
from ckptmigrate.verifying.loading import require_torch


@click.command(
    cls=Manual,
    files=CHECKPOINT,
    found="refused, or there is an error; warnings and notes are allowed",
)
@options.path
@options.iteration
@options.every
@click.option("--load", is_flag=True, help="Read every tensor with torch, too.")
@options.hashed
@options.known
@options.full
@reported
@options.output_options
def verify(
    path: Path,
    iteration: int | None,
    every: bool,
    load: bool,
    hashed: bool,
    known: tuple[str, ...],
    full: bool,
) -> None:
    """Say everything that is wrong with a checkpoint, and what to do.

    Checked are byte ranges, chunks, the tables of .metadata, plans, the rerun state, sharded
    objects and the symbols they name, integrity.json, and, given a root, its tracker file.
    Nothing is written. `ckptmigrate explain CODE` tells more of a finding.

    \b
    Examples:
      ckptmigrate verify run
      ckptmigrate verify run --all --hash
      ckptmigrate verify run --load
      ckptmigrate verify run --known nemo.core.Config
    """
    options.check_choice(iteration, every=every)
    if load:
        require_torch()
    with console.progress("verifying", _total(path, iteration, every, load + hashed)) as progress:
        found = verifying.verify(
            path,
            load=load,
            hashed=hashed,
            iteration=iteration,
            every=every,
            known=known,
            progress=progress if load or hashed else None,
        )
    recorder.record(building.of_verify, found)
    if output.json:
        output.object(found.as_json())
    else:
        output.lines(render.verification(found, full=full))
    if not found.clean:
        raise SystemExit(1)


def _total(path: Path, iteration: int | None, every: bool, passes: int) -> int:
    """How many payload bytes will be read, in that many passes."""
    if not passes:
        return 0
    chosen = roots.choose(path, iteration=iteration, every=every)
    sizes = (file.stat().st_size for each in chosen.checkpoints for file in each.glob("*.distcp"))
    return passes * sum(sizes)
