"""How a batch is run and told; a verb imports it where there is one, to start fast without."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from ckptmigrate import reporting
from ckptmigrate.access.places import Place, lies_in, place
from ckptmigrate.batch.driving import Batch, Job, drive
from ckptmigrate.batch.ledger import Ledger, check_place
from ckptmigrate.batch.paths import Group
from ckptmigrate.batch.running import Executor, Stop, here
from ckptmigrate.batch.shard import Shard
from ckptmigrate.batch.work import Task, Work
from ckptmigrate.cli import batch_text, console, retrying
from ckptmigrate.cli.console import output
from ckptmigrate.cli.many import RETRIES, Many
from ckptmigrate.cli.recording import recorder
from ckptmigrate.errors import Retry
from ckptmigrate.text.commands import command


def jobs(groups: Sequence[Group], work: Work, root: str | None = None) -> list[Job]:
    """A task for each checkpoint of each PATH.

    Args:
        root: the new root that they go into; None where none is made.
    """
    task = partial(
        Task, work=work, root=root, detail=output.json, reported=recorder.report is not None
    )
    return [Job(group, tuple(map(task, group.checkpoints))) for group in groups]


def run(many: Many, verb: str, *phases: Sequence[Job], dry_run: bool = False) -> None:
    """Run a batch, tell what came of it, and exit with its status unless that is 0.

    Args:
        phases: the jobs; those of one are over before those of the next are begun.
        dry_run: leave the ledger alone, too.
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
    recorder.add(lambda report: reporting.batches.of_batch(report, batch, verb, again))
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
    """What performs the tasks."""
    if many.scheduler is not None:
        from ckptmigrate.batch.cluster import Cluster

        return Cluster(many.scheduler, RETRIES if many.retries is None else many.retries)
    if many.jobs is not None and many.jobs > 1:
        from ckptmigrate.batch.processes import Processes

        return Processes(many.jobs)
    return here


def _part(found: Sequence[Job], shard: Shard) -> list[Job]:
    """The same with this shard's tasks alone; a PATH that means none is a task, too."""
    one_each = [Job(job.group, (task,)) for job in found for task in job.tasks]
    one_each += [job for job in found if not job.tasks]
    taken: dict[str, Job] = {}
    for job in shard.of(one_each):
        before = taken.get(job.group.path, Job(job.group))
        taken[job.group.path] = Job(job.group, before.tasks + job.tasks)
    return list(taken.values())


def _sources(phases: Sequence[Sequence[Job]]) -> list[Place]:
    """What is worked on, and where it leads to."""
    found = [job for each in phases for job in each if job.group.error is None]
    roots = {task.root for job in found for task in job.tasks if task.root is not None}
    return [place(path) for path in [*(job.group.path for job in found), *sorted(roots)]]


def _again(many: Many, sources: Sequence[Place]) -> str | None:
    """The command that goes on with this run; None for a verb that has no ledger."""
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
    return command(*retrying.changed(sys.argv[1:], Retry(add=add), verb, None))
