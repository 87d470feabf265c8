"""The command `repair`: repair a checkpoint whose metadata is damaged."""

from __future__ import annotations

from typing import Any

import click

from ckptmigrate.cli import completion_values, options
from ckptmigrate.cli.batch_options import Selection, several
from ckptmigrate.cli.help import MIGRATED, Manual
from ckptmigrate.cli.run import run
from ckptmigrate.places import Place
from ckptmigrate.verbs.repair import RepairRequest


@click.command(cls=Manual, files=MIGRATED)
@click.option(
    "-o",
    "--output",
    type=options.PLACE,
    metavar="DEST",
    shell_complete=completion_values.directories,
    help="Create the new root DEST, or one root for each PATH in directory DEST. Default: "
    "PATH.repaired, next to PATH.",
)
@click.option("--in-place", is_flag=True, help="Modify PATH instead of creating a new root.")
@click.option(
    "--rebuild-sentinel",
    "rebuild",
    is_flag=True,
    help="Write a complete idle rerun state instead of removing the rerun state.",
)
@click.option(
    "--drop-rerun",
    "drop",
    is_flag=True,
    help="Also drop a recorded fault, such as a NaN loss, that is not damaged.",
)
@click.option(
    "--drop-optimizer",
    is_flag=True,
    help="Also remove the optimizer, for example one that `verify --optimizer` finds damaged. Jobs "
    "then need --no-load-optim.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan without writing anything.")
@options.link
@options.parallelism("world")
@options.hashed
@options.known
@options.full
@options.every
@options.iteration
@several(ledger=False)
@options.output_options
def repair(
    selection: Selection,
    output: Place | None,
    in_place: bool,
    rebuild: bool,
    drop: bool,
    full: bool,
    every: bool,
    iteration: int | None,
    **others: Any,
) -> None:
    """Repair a checkpoint whose metadata is damaged.

    \b
    Damage                                       Repair
      recorded fault without its rerun shards    remove the fault
      metadata.json missing or unreadable        write it again
      .metadata without optimizer shapes         compute the shapes
      outdated hash of a valid metadata file     update integrity.json
      tracker file names no complete iteration   name the newest complete one

    Fails if there is other damage, because lost data cannot be restored. Run `ckptmigrate verify`
    to list all damage. The result is a new root next to PATH, ready for --load.

    \b
    Examples:
      ckptmigrate repair broken --dry-run
      ckptmigrate repair broken -o whole
      ckptmigrate repair broken --in-place
      ckptmigrate repair run --drop-optimizer
    """
    if in_place and output is not None:
        raise click.UsageError("--in-place and -o cannot be combined.")
    if rebuild and drop:
        raise click.UsageError("--rebuild-sentinel and --drop-rerun cannot be combined.")
    options.check_choice(iteration, every=every)
    request = RepairRequest(
        rebuild,
        drop,
        output=output,
        in_place=in_place,
        iteration=iteration,
        every=every,
        **others,
    )
    run(selection, request, batch=every, full=full)
