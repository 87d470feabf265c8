"""The execution of a migration with a progress bar, and its output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from ckptmigrate import report
from ckptmigrate.cli import console, render
from ckptmigrate.cli.console import output
from ckptmigrate.cli.report_recorder import recorder
from ckptmigrate.verbs import migrate
from ckptmigrate.writing.links import Link

if TYPE_CHECKING:
    from ckptmigrate.planning.planner import Plan
    from ckptmigrate.storage.progress import Progress


def carry_out(
    prepared: migrate.Migration,
    *,
    dry_run: bool,
    full: bool,
    link: Link = Link.AUTO,
    print_path: bool = False,
) -> None:
    """Carry out a migration and print the result.

    Args:
        print_path: print only the path of the root to load.
    """
    recorder.add(lambda document: report.build.of_migration(document, prepared))
    used = None
    if not dry_run:
        used = done(
            prepared.plans, lambda told: migrate.carry_out(prepared, link=link, progress=told)
        )
    if output.json:
        output.object(prepared.as_json(done=not dry_run, link=used))
        return
    if print_path:
        click.echo(str(prepared.load))
        return
    output.lines(render.recovered(prepared.recovered))
    for plan in prepared.plans:
        output.lines(render.plan(plan, full=full))
    if dry_run:
        click.echo("dry run: nothing was written")
    else:
        output.lines(render.outcome(prepared, used))


def done(plans: Sequence[Plan], do: Callable[[Progress], Link | None]) -> Link | None:
    """Carry out plans and add the result to the report, before the result is printed.

    Args:
        do: carries out the plans; it calls its argument with the number of bytes copied.

    Returns:
        The link method of the data files in the destination, or None for an in-place migration.
    """
    total = sum(plan.payload[1] for plan in plans)
    with console.progress("copying payload", total) as progress:
        used = do(progress)
    recorder.add(lambda document: report.build.carried_out(document, used))
    return used
