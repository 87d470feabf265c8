"""The command `repair`: repair a checkpoint whose metadata is damaged."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from ckptmigrate import report
from ckptmigrate.batch import paths
from ckptmigrate.checkpoint.topology import Given
from ckptmigrate.cli import completion_values, options, render
from ckptmigrate.cli.batch_options import Many, several
from ckptmigrate.cli.console import output
from ckptmigrate.cli.execution import done
from ckptmigrate.cli.help import MIGRATED, Manual
from ckptmigrate.cli.report_option import reported
from ckptmigrate.cli.report_recorder import recorder
from ckptmigrate.places import Place
from ckptmigrate.planning.repairs import Wanted
from ckptmigrate.verbs import recover
from ckptmigrate.verbs import repair as repairing
from ckptmigrate.writing.links import Link

if TYPE_CHECKING:
    from ckptmigrate.batch.change_tasks import Repair
    from ckptmigrate.batch.drive import Job


@click.command(cls=Manual, files=MIGRATED)
@click.option(
    "-o",
    "--output",
    "destination",
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
@click.option("--dry-run", is_flag=True, help="Print the plan without writing anything.")
@click.option(
    "--link",
    type=click.Choice([link.value for link in Link]),
    metavar="METHOD",
    default=Link.AUTO.value,
    show_default=True,
    help=options.LINK_HELP,
)
@click.option(
    "--world-size",
    type=click.IntRange(min=1),
    metavar="N",
    help=options.GIVEN_HELP.format("World size"),
)
@options.hashed
@options.known
@options.full
@options.every
@options.iteration
@several(ledger=False)
@reported
@options.output_options
def repair(
    many: Many,
    destination: Place | None,
    in_place: bool,
    rebuild: bool,
    drop: bool,
    dry_run: bool,
    link: str,
    world_size: int | None,
    hashed: bool,
    known: tuple[str, ...],
    full: bool,
    every: bool,
    iteration: int | None,
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
    """
    if in_place and destination is not None:
        raise click.UsageError("--in-place and -o cannot be combined.")
    if rebuild and drop:
        raise click.UsageError("--rebuild-sentinel and --drop-rerun cannot be combined.")
    options.check_choice(iteration, every=every)
    wanted = Wanted(rebuild, drop, Given(world_size), known, hashed)
    if many.batch or every:
        from ckptmigrate.batch.change_tasks import Repair
        from ckptmigrate.cli.batches import run

        changed = Repair(wanted, in_place=in_place, link=Link(link), dry_run=dry_run)
        run(
            many,
            "repair",
            *_phases(many, changed, destination, iteration=iteration, every=every),
            dry_run=dry_run,
        )
        return
    path = many.only
    recovered = recover.in_place(path) if in_place and not dry_run else {}
    prepared = repairing.prepare(
        path, wanted, output=destination, in_place=in_place, iteration=iteration
    )
    recorder.add(lambda document: report.build.of_repair(document, prepared))
    used = None
    if not dry_run:
        how = Link(link)
        used = done(
            prepared.migration.plans,
            lambda told: repairing.carry_out(prepared, link=how, progress=told),
        )
    prepared = replace(prepared, migration=replace(prepared.migration, recovered=recovered))
    if output.json:
        output.object(prepared.as_json(done=not dry_run, link=used))
        return
    output.lines([*render.recovered(recovered), *render.repair(prepared, full=full)])
    if dry_run:
        click.echo("dry run: nothing was written")
    else:
        output.lines(render.outcome(prepared.migration, used, prepared.tracker))


def _phases(
    many: Many, work: Repair, output: Place | None, *, iteration: int | None, every: bool
) -> list[list[Job]]:
    """Return the phases of a batch of repairs.

    In place with --all, the first phase repairs every checkpoint of a root and the second its
    tracker file. In all other cases one task repairs a whole PATH, so that a checkpoint that
    cannot be repaired is not written to the new root.
    """
    from ckptmigrate.batch import destinations
    from ckptmigrate.cli.batches import jobs

    choose = partial(paths.chosen, iteration=iteration, every=every)
    groups = many.groups(choose, in_place=work.in_place)
    if work.in_place and every:
        roots = [replace(g, checkpoints=(g.path,)) for g in groups if g.is_root]
        return [jobs(groups, work), jobs(roots, work)]
    work = replace(work, every=every, iteration=iteration)
    wholes = [replace(g, checkpoints=() if g.error else (g.path,)) for g in groups]
    if work.in_place:
        return [jobs(wholes, work)]
    placed = destinations.place(wholes, "repaired", output, several=many.several, go_on=False)
    return [[job for group, root in placed for job in jobs([group], work, root)]]
