"""Many checkpoints at once: the options that the verbs share, and how a batch is run and told."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from ckptmigrate.access.places import Place, place
from ckptmigrate.batch import paths
from ckptmigrate.batch.driving import Batch, Job, drive
from ckptmigrate.batch.ledger import Ledger
from ckptmigrate.batch.paths import Group
from ckptmigrate.batch.running import Executor, Stop, here
from ckptmigrate.batch.shard import Shard, parse
from ckptmigrate.batch.work import Task, Work
from ckptmigrate.cli import batch_text, completing, console, retrying
from ckptmigrate.cli.console import output
from ckptmigrate.cli.options import Command
from ckptmigrate.cli.recording import recorder
from ckptmigrate.errors import Retry
from ckptmigrate.text.commands import command

_RETRIES = 2  # of a task on a cluster, by default


@dataclass(frozen=True)
class Many:
    """The PATHs of a command, and the options that make a batch of them.

    Attributes:
        given: the PATHs as they were given.
        jobs: how many processes, or None.
        ledger: the file that tells what is done, or None.
        scheduler: the address of a Dask scheduler, or None.
        retries: how often a task is tried again there, or None.
        shard: the part of the checkpoints that this run is to take, or None.
        ledgered: whether the verb has a ledger at all.
    """

    given: tuple[str, ...]
    jobs: int | None = None
    ledger: Path | None = None
    scheduler: str | None = None
    retries: int | None = None
    shard: Shard | None = None
    ledgered: bool = True

    @property
    def several(self) -> bool:
        """Whether there may be several PATHs."""
        return len(self.given) > 1 or paths.is_glob(self.given[0])

    @property
    def batch(self) -> bool:
        """Whether anything here asks for a batch."""
        options = (self.jobs, self.ledger, self.scheduler, self.shard)
        return self.several or any(option is not None for option in options)

    @property
    def only(self) -> Place:
        """The PATH, where there is one."""
        return place(self.given[0])

    @property
    def paths(self) -> list[str]:
        """The PATHs, absolute; patterns as what they match, or as they are."""
        found = paths.expand(self.given)
        return [path if isinstance(path, str) else str(path.path) for path in found]

    @property
    def goes_on(self) -> bool:
        """Whether what this makes may be there in part, from another run of the same."""
        return self.ledger is not None or self.shard is not None

    def executor(self) -> Executor:
        """What performs the tasks."""
        if self.scheduler is not None:
            from ckptmigrate.batch.cluster import Cluster

            return Cluster(self.scheduler, _RETRIES if self.retries is None else self.retries)
        if self.jobs is not None and self.jobs > 1:
            from ckptmigrate.batch.processes import Processes

            return Processes(self.jobs)
        return here

    def groups(self, choose: Callable[[Place], Group]) -> list[Group]:
        """What the PATHs mean.

        Raises:
            CkptMigrateError: there is one PATH, and it means no checkpoint or matches nothing.
        """
        found = paths.groups(paths.expand(self.given), choose)
        one = len(self.given) == 1 and (not self.several or paths.is_glob(found[0].path))
        if one and found[0].error is not None:
            raise found[0].error
        return found


def _shard(context: click.Context, parameter: click.Parameter, value: str | None) -> Shard | None:
    try:
        return None if value is None else parse(value, os.environ)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_GIVEN = click.argument(
    "given", nargs=-1, required=True, metavar="PATH...", shell_complete=completing.directories
)
_JOBS = click.option(
    "-j", "--jobs", type=click.IntRange(min=1), metavar="N",
    help="Work on N checkpoints at a time, each in a process of its own. Default: 1.",
)  # fmt: skip
_LEDGER = click.option(
    "--ledger", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write down what is done, in lines of JSON. Run again, what is done is skipped, and what "
    "failed or was not begun is done, into the same DEST.",
)  # fmt: skip
_SHARD = click.option(
    "--shard", callback=_shard, metavar="I/N",
    help="Take the I-th of N parts of the checkpoints, I from 0 to N-1; `slurm` takes both from "
    "the Slurm array that runs this.",
)  # fmt: skip
_SCHEDULER = click.option(
    "--scheduler", metavar="ADDRESS",
    help="Work on the Dask cluster of this scheduler (or scheduler file) instead of here.",
)  # fmt: skip
_RETRY = click.option(
    "--retries", type=click.IntRange(min=0), metavar="N",
    help=f"With --scheduler: try N times more what failed for lack of luck. Default: {_RETRIES}.",
)  # fmt: skip


def several(*, ledger: bool) -> Callable[[Command], Command]:
    """The argument PATH... and the options of a batch; the verb gets them as `many`.

    Args:
        ledger: whether what is done can be told from what is not, so that a run can be gone on
            with, in parts or elsewhere.
    """
    options = (_JOBS, _LEDGER, _SHARD, _SCHEDULER, _RETRY) if ledger else (_JOBS,)

    names = ("given", "jobs", "ledger", "shard", "scheduler", "retries")

    def decorate(verb: Command) -> Command:
        @functools.wraps(verb)
        def packed(**values: Any) -> Any:
            mine = {name: values.pop(name) for name in names if name in values}
            many = Many(**mine, ledgered=ledger)
            if many.scheduler is not None and many.jobs is not None:
                raise click.UsageError("--scheduler and --jobs exclude each other.")
            if many.scheduler is None and many.retries is not None:
                raise click.UsageError("--retries needs --scheduler.")
            return verb(many=many, **values)

        found: Any = packed
        for option in reversed(options):
            found = option(found)
        return _GIVEN(found)  # type: ignore[no-any-return]

    return decorate


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
    stop = Stop()
    total = sum(len(job.tasks) or 1 for each in phases for job in each)
    with contextlib.ExitStack() as open_:
        ledger = None
        if many.ledger is not None and not dry_run:
            ledger = open_.enter_context(Ledger(many.ledger))
        open_.enter_context(stop.listening())
        progress = open_.enter_context(console.counting("checkpoints", total))
        executor = many.executor()
        done = [drive(p, executor, stop, ledger=ledger, progress=progress) for p in phases]
    batch = functools.reduce(Batch.followed_by, done)
    again = None if dry_run else _again(many)
    if recorder.report is not None:
        from ckptmigrate.reporting import batches

        recorder.record(batches.of_batch, batch, verb, again)
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


def _part(found: Sequence[Job], shard: Shard) -> list[Job]:
    """The same with this shard's tasks alone; a PATH that means none is a task, too."""
    one_each = [Job(job.group, (task,)) for job in found for task in job.tasks]
    one_each += [job for job in found if not job.tasks]
    taken: dict[str, Job] = {}
    for job in shard.of(one_each):
        before = taken.get(job.group.path, Job(job.group))
        taken[job.group.path] = Job(job.group, before.tasks + job.tasks)
    return list(taken.values())


def _again(many: Many) -> str | None:
    """The command that goes on with this run; None for a verb that has no ledger."""
    if not many.ledgered:
        return None
    add = () if many.ledger else ("--ledger", "ledger.jsonl")
    verb = click.get_current_context().command
    return command(*retrying.changed(sys.argv[1:], Retry(add=add), verb, None))
