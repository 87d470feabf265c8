"""The run of a batch and its output; imported only for a batch, because imports are slow."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from ckptmigrate import report
from ckptmigrate.batch.drive import Batch, Job, drive
from ckptmigrate.batch.executors import Executor, Stop, here
from ckptmigrate.batch.ledger import Ledger, check_place
from ckptmigrate.batch.paths import Group
from ckptmigrate.batch.shard import Shard
from ckptmigrate.batch.tasks import Task, Work
from ckptmigrate.cli import batch_text, console, corrected_command
from ckptmigrate.cli.batch_options import RETRIES, Many
from ckptmigrate.cli.console import output
from ckptmigrate.cli.report_recorder import recorder
from ckptmigrate.errors import Retry
from ckptmigrate.places import Place, lies_in
from ckptmigrate.storage.urls import place
from ckptmigrate.text.commands import command


def jobs(groups: Sequence[Group], work: Work, root: str | None = None) -> list[Job]:
    """Return the tasks of each PATH, one per checkpoint.

    Args:
        root: the new root to write, or None if no root is created.
    """
    task = partial(
        Task, work=work, root=root, detail=output.json, reported=recorder.report is not None
    )
    return [Job(group, tuple(map(task, group.checkpoints))) for group in groups]


def run(many: Many, verb: str, *phases: Sequence[Job], dry_run: bool = False) -> None:
    """Run a batch, print the result, and exit with its status unless the status is 0.

    Args:
        phases: the jobs; a phase starts after all jobs of the previous phase have ended.
        dry_run: do not write the ledger either.
    """
    if many.shard is not None:
        phases = tuple(_part(each, many.shard) for each in phases)
    sources = _sources(phases)
    stop = Stop()
    total = sum(len(job.tasks) or 1 for each in phases for job in each)
    with contextlib.ExitStack() as open_:
        ledger = None
        if many.ledger is not None and not dry_run:
            check_place(many.ledger, sources)
            ledger = open_.enter_context(Ledger(many.ledger))
        open_.enter_context(stop.listening())
        progress = open_.enter_context(console.counting("checkpoints", total))
        executor = _executor(many)
        done = [drive(p, executor, stop, ledger=ledger, progress=progress) for p in phases]
    batch = functools.reduce(Batch.followed_by, done)
    again = None if dry_run else _again(many, sources)
    recorder.add(lambda document: report.batch_report.of_batch(document, batch, verb, again))
    if output.json:
        output.object(batch_text.as_json(batch, verb, again))
    else:
        output.lines(batch_text.lines(batch, verb))
        if dry_run:
            click.echo("dry run: nothing was written")
    if batch.good:
        return
    reason = batch_text.what_is_left(batch, again)
    if reason:
        output.lines([f"ckptmigrate: {reason}"], err=True)
    sys.exit(1 if batch.signal is None else 128 + batch.signal)


def _executor(many: Many) -> Executor:
    """Return the executor that the options select."""
    if many.scheduler is not None:
        from ckptmigrate.batch.dask_cluster import Cluster

        return Cluster(many.scheduler, RETRIES if many.retries is None else many.retries)
    if many.jobs is not None and many.jobs > 1:
        from ckptmigrate.batch.processes import Processes

        return Processes(many.jobs)
    return here


def _part(found: Sequence[Job], shard: Shard) -> list[Job]:
    """Return the jobs of a partition (--shard); a PATH without checkpoints counts as one task."""
    one_each = [Job(job.group, (task,)) for job in found for task in job.tasks]
    one_each += [job for job in found if not job.tasks]
    taken: dict[str, Job] = {}
    for job in shard.of(one_each):
        before = taken.get(job.group.path, Job(job.group))
        taken[job.group.path] = Job(job.group, before.tasks + job.tasks)
    return list(taken.values())


def _sources(phases: Sequence[Sequence[Job]]) -> list[Place]:
    """Return the PATHs of the jobs and the new roots that they write."""
    found = [job for each in phases for job in each if job.group.error is None]
    roots = {task.root for job in found for task in job.tasks if task.root is not None}
    return [place(path) for path in [*(job.group.path for job in found), *sorted(roots)]]


def _again(many: Many, sources: Sequence[Place]) -> str | None:
    """Return the command that resumes this batch, or None if the command has no ledger."""
    if not many.ledgered:
        return None
    add: tuple[str, ...] = ()
    if many.ledger is None:
        current = Path.cwd()
        there = next(
            folder
            for folder in (current, *current.parents)
            if not any(lies_in(folder, each) for each in sources) or folder == folder.parent
        )
        add = ("--ledger", "ledger.jsonl" if there == current else str(there / "ledger.jsonl"))
    verb = click.get_current_context().command
    return command(*corrected_command.changed(sys.argv[1:], Retry(add=add), verb, None))
