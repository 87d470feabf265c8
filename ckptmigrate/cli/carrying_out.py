"""Carry a migration out, with a progress bar, and tell of it."""

from __future__ import annotations

import click

from ckptmigrate import migration
from ckptmigrate.cli import console, render
from ckptmigrate.cli.console import output
from ckptmigrate.cli.recording import recorder
from ckptmigrate.writing.linking import Link


def carry_out(
    prepared: migration.Migration, *, dry_run: bool, full: bool, link: Link = Link.AUTO
) -> None:
    if recorder.report is not None:
        from ckptmigrate.reporting import building

        recorder.report = building.of_migration(recorder.report, prepared)
    used = None
    if not dry_run:
        # Before anything is printed: a reader of the output that goes away stops nothing.
        total = sum(plan.payload[1] for plan in prepared.plans)
        with console.progress("copying payload", total) as progress:
            used = migration.carry_out(prepared, link=link, progress=progress)
        if recorder.report is not None:
            from ckptmigrate.reporting import building

            recorder.report = building.carried_out(recorder.report, used)
    if output.json:
        output.object(prepared.as_json(done=not dry_run, link=used))
        return
    output.lines(render.recovered(prepared.recovered))
    for plan in prepared.plans:
        output.lines(render.plan(plan, full=full))
    if dry_run:
        click.echo("dry run: nothing was written")
    else:
        output.lines(render.outcome(prepared, used))
