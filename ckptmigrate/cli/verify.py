"""The command `verify`: validate a checkpoint and list every problem with its fix."""

from __future__ import annotations

from typing import Any

import click

from ckptmigrate.cli import options
from ckptmigrate.cli.batch_options import Selection, several
from ckptmigrate.cli.help import CHECKPOINT, Manual
from ckptmigrate.cli.run import run
from ckptmigrate.verbs.verify import VerifyRequest


@click.command(
    cls=Manual,
    files=CHECKPOINT,
    found="error, or problems of severity error found; warnings and notes do not count",
)
@options.iteration
@options.every
@click.option("--load", is_flag=True, help="Also read every tensor. Requires torch.")
@options.hashed
@click.option(
    "--optimizer",
    "compare_optimizer",
    is_flag=True,
    help="Also compare the optimizer with the weights.",
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --optimizer, compare only N parts, spread evenly.",
)
@options.known
@options.full
@several(ledger=True)
@options.output_options
def verify(
    selection: Selection,
    iteration: int | None,
    every: bool,
    full: bool,
    compare_optimizer: bool,
    **flags: Any,
) -> None:
    """Validate a checkpoint and list every problem with its fix.

    Checks the tables, chunks and byte ranges of .metadata, the save plans, the common state, the
    rerun state, the classes and functions named in pickles, and integrity.json. For a root, also
    checks the tracker file (latest_checkpointed_iteration.txt). Writes nothing to the checkpoint.
    Run `ckptmigrate explain CODE` for details on a problem code.

    \b
    Examples:
      ckptmigrate verify run
      ckptmigrate verify run --all --hash
      ckptmigrate verify run --load
      ckptmigrate verify run --optimizer
      ckptmigrate verify run --known nemo.core.Config
    """
    options.check_choice(iteration, every=every)
    if flags["sample"] is not None and not compare_optimizer:
        raise click.UsageError("--sample requires --optimizer.")
    request = VerifyRequest(iteration=iteration, every=every, optimizer=compare_optimizer, **flags)
    run(selection, request, full=full)
