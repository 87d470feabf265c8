"""The command `verify`: validate a checkpoint and list every problem with its fix."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

import click

from ckptmigrate import report
from ckptmigrate.batch import paths
from ckptmigrate.checkpoint.manifest import PAYLOAD
from ckptmigrate.checks import root_checks, verification
from ckptmigrate.checks.torch_load import require_torch
from ckptmigrate.cli import console, options, render
from ckptmigrate.cli.batch_options import Many, several
from ckptmigrate.cli.console import output
from ckptmigrate.cli.help import CHECKPOINT, Manual
from ckptmigrate.cli.report_option import reported
from ckptmigrate.cli.report_recorder import recorder
from ckptmigrate.places import Place
from ckptmigrate.storage import directories

if TYPE_CHECKING:
    from ckptmigrate.batch.drive import Job
    from ckptmigrate.batch.read_tasks import Verify


@click.command(
    cls=Manual,
    files=CHECKPOINT,
    found="error, or problems of severity error found; warnings and notes do not count",
)
@options.iteration
@options.every
@click.option("--load", is_flag=True, help="Also read every tensor. Requires torch.")
@options.hashed
@options.known
@options.full
@several(ledger=True)
@reported
@options.output_options
def verify(
    many: Many,
    iteration: int | None,
    every: bool,
    load: bool,
    hashed: bool,
    known: tuple[str, ...],
    full: bool,
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
      ckptmigrate verify run --known nemo.core.Config
    """
    options.check_choice(iteration, every=every)
    if load:
        require_torch()
    if many.batch:
        from ckptmigrate.batch.read_tasks import Verify
        from ckptmigrate.cli.batches import jobs, run

        choose = partial(paths.chosen, iteration=iteration, every=every)
        tasks = jobs(many.groups(choose), Verify(load, hashed, known))
        run(many, "verify", [_with_tracker(job) for job in tasks])
        return
    path = many.only
    with console.progress("verifying", _total(path, iteration, every, load + hashed)) as progress:
        found = verification.verify(
            path,
            load=load,
            hashed=hashed,
            iteration=iteration,
            every=every,
            known=known,
            progress=progress if load or hashed else None,
        )
    recorder.add(lambda document: report.build.of_verify(document, found))
    if output.json:
        output.object(found.as_json())
    else:
        output.lines(render.verification(found, full=full))
    if not found.clean:
        raise SystemExit(1)


def _with_tracker(job: Job) -> Job:
    """Return the job with the check of the tracker file added to the first task of a root."""
    if not job.group.is_root:
        return job
    first, *others = job.tasks
    work = cast("Verify", first.work)
    return replace(job, tasks=(replace(first, work=replace(work, tracker=True)), *others))


def _total(path: Place, iteration: int | None, every: bool, passes: int) -> int:
    """Return the bytes of the data files to read in that many passes."""
    if not passes:
        return 0
    chosen = root_checks.choose(path, iteration=iteration, every=every)
    return passes * sum(
        size
        for each in chosen.checkpoints
        for name, size in directories.directory(each).files().items()
        if PAYLOAD.fullmatch(name)
    )
