"""The run of a batch and its output; imported only for a batch, because imports are slow."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ckptmigrate.batch import phases, summary
from ckptmigrate.batch.drive import Batch, drive
from ckptmigrate.batch.executors import Executor, Stop, here
from ckptmigrate.batch.ledger import Ledger, check_place
from ckptmigrate.batch.phases import Scope
from ckptmigrate.cli import console, corrected_command
from ckptmigrate.cli.batch_options import RETRIES, Selection
from ckptmigrate.cli.console import output
from ckptmigrate.errors import Retry
from ckptmigrate.places import Place, lies_in
from ckptmigrate.report import terminal
from ckptmigrate.report.document import Document
from ckptmigrate.text.commands import command


def run(selection: Selection, request: Any, reported: bool) -> tuple[Document, int]:
    """Run a batch, print the result, and return its document and exit status."""
    # Runs of the same ledger and of other partitions write to the same destination.
    add = selection.ledger is not None or selection.shard is not None
    scope = Scope(
        selection.paths,
        selection.shard,
        add,
        detail=output.json,
        reported=reported,
        jobs=selection.jobs,
    )
    found = phases.phases(request, scope)
    sources = phases.sources(found)
    dry_run = getattr(request, "dry_run", False)
    stop = Stop()
    total = sum(len(each.tasks) or 1 for phase in found for each in phase)
    with contextlib.ExitStack() as open_:
        ledger = None
        if selection.ledger is not None and not dry_run:
            check_place(selection.ledger, sources)
            ledger = open_.enter_context(Ledger(selection.ledger))
        open_.enter_context(stop.listening())
        progress = open_.enter_context(console.counting("checkpoints", total))
        executor = _executor(selection)
        done = [drive(p, executor, stop, ledger=ledger, progress=progress) for p in found]
    batch = functools.reduce(Batch.followed_by, done)
    resume = None if dry_run else _resume(selection, sources)
    document = summary.document(batch, request.verb, resume)
    if output.json:
        output.object(summary.as_json(batch, request.verb, resume))
    else:
        output.lines(terminal.lines(document))
        if dry_run:
            click.echo("dry run: nothing was written")
    if batch.good:
        return document, 0
    reason = summary.unfinished(batch, resume)
    if reason:
        output.lines([f"ckptmigrate: {reason}"], err=True)
    return document, 1 if batch.signal is None else 128 + batch.signal


def _executor(selection: Selection) -> Executor:
    """Return the executor that the options select."""
    if selection.scheduler is not None:
        from ckptmigrate.batch.dask_cluster import Cluster

        return Cluster(
            selection.scheduler, RETRIES if selection.retries is None else selection.retries
        )
    if selection.jobs is not None and selection.jobs > 1:
        from ckptmigrate.batch.processes import Processes

        return Processes(selection.jobs)
    return here


def _resume(selection: Selection, sources: Sequence[Place]) -> str | None:
    """Return the command that resumes this batch, or None if the command has no ledger."""
    if not selection.ledgered:
        return None
    add: tuple[str, ...] = ()
    if selection.ledger is None:
        current = Path.cwd()
        there = next(
            folder
            for folder in (current, *current.parents)
            if not any(lies_in(folder, each) for each in sources) or folder == folder.parent
        )
        add = ("--ledger", "ledger.jsonl" if there == current else str(there / "ledger.jsonl"))
    verb = click.get_current_context().command
    return command(*corrected_command.changed(sys.argv[1:], Retry(add=add), verb, None))
