"""The verbs that look after a checkpoint: verify and repair."""

from __future__ import annotations

from dataclasses import replace

import click

from ckptmigrate import console, recovery, render, repairing, storage, verifying
from ckptmigrate.console import output
from ckptmigrate.linking import Link
from ckptmigrate.manifest import PAYLOAD
from ckptmigrate.places import Place
from ckptmigrate.repairing import Wanted
from ckptmigrate.topology import Given
from ckptmigrate.verifying import roots
from ckptmigrate.verifying.loading import require_torch

_known = click.option(
    "--known", multiple=True, metavar="SYMBOL",
    help="A symbol in its pickles that you vouch for, such as nemo.core.Config.",
)  # fmt: skip
_hash = click.option(
    "--hash", "hashed", is_flag=True, help="Hash payload files against integrity.json, too."
)


@click.command()
@console.path
@console.iteration
@console.every
@click.option("--load", is_flag=True, help="Read every tensor with torch, too.")
@_hash
@_known
@click.option("--full", is_flag=True, help="Do not cut long lists.")
@console.output_options
def verify(
    path: Place,
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
    Nothing is written. Exit status 1 where there is an error; warnings and notes are allowed.

    Example: ckptmigrate verify checkpoints/run --all
    """
    console.check_choice(iteration, every=every)
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
    if output.json:
        output.object(found.as_json())
    else:
        output.lines(render.verification(found, full=full))
    if not found.clean:
        raise SystemExit(1)


def _total(path: Place, iteration: int | None, every: bool, passes: int) -> int:
    """How many payload bytes will be read, in that many passes."""
    if not passes:
        return 0
    chosen = roots.choose(path, iteration=iteration, every=every)
    return passes * sum(
        size
        for each in chosen.checkpoints
        for name, size in storage.directory(each).files().items()
        if PAYLOAD.fullmatch(name)
    )


@click.command()
@console.path
@click.option(
    "-o",
    "--output",
    "destination",
    type=console.PLACE,
    metavar="DEST",
    help="The root to create. Default: PATH.repaired beside PATH.",
)
@click.option("--in-place", is_flag=True, help="Change PATH itself.")
@click.option(
    "--rebuild-sentinel",
    "rebuild",
    is_flag=True,
    help="Write an idle rerun state with all of its shards, instead of none at all.",
)
@click.option(
    "--drop-rerun",
    "drop",
    is_flag=True,
    help="Drop a fault context that is whole, too: the job resumes as idle.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option(
    "--link",
    type=click.Choice([link.value for link in Link]),
    default=Link.AUTO.value,
    show_default=True,
    help="How payload files get into DEST.",
)
@click.option(
    "--world-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Ranks of the job, where args do not tell.",
)
@_hash
@_known
@console.every
@console.iteration
@console.output_options
def repair(
    path: Place,
    destination: Place | None,
    in_place: bool,
    rebuild: bool,
    drop: bool,
    dry_run: bool,
    link: str,
    world_size: int | None,
    hashed: bool,
    known: tuple[str, ...],
    every: bool,
    iteration: int | None,
) -> None:
    """Make a checkpoint resume again where nothing but its metadata is wrong.

    A rerun that the common state announces without its shards goes, digests of small files are
    renewed, and a tracker file that leads to no good iteration is pointed to the newest that is.
    What is lost is not invented: everything else is refused.

    Example: ckptmigrate repair checkpoints/run --in-place
    """
    if in_place and destination is not None:
        raise click.UsageError("--in-place and -o exclude each other.")
    if rebuild and drop:
        raise click.UsageError("--rebuild-sentinel and --drop-rerun exclude each other.")
    console.check_choice(iteration, every=every)
    wanted = Wanted(rebuild, drop, Given(world_size), known, hashed)
    recovered = recovery.in_place(path) if in_place and not dry_run else {}
    prepared = repairing.prepare(
        path, wanted, output=destination, in_place=in_place, iteration=iteration, every=every
    )
    used = None
    if not dry_run:
        total = sum(plan.payload[1] for plan in prepared.migration.plans)
        with console.progress("copying payload", total) as progress:
            used = repairing.carry_out(prepared, link=Link(link), progress=progress)
    prepared = replace(prepared, migration=replace(prepared.migration, recovered=recovered))
    if output.json:
        output.object(prepared.as_json(done=not dry_run, link=used))
        return
    output.lines([*render.recovered(recovered), *render.repair(prepared)])
    if dry_run:
        click.echo("dry run: nothing was written")
    else:
        output.lines(render.outcome(prepared.migration, used, prepared.tracker))
