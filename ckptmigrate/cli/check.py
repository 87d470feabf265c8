"""The command `check`: predict whether a release can resume from a checkpoint."""

from __future__ import annotations

from functools import partial

import click

from ckptmigrate import report
from ckptmigrate.batch import paths
from ckptmigrate.checkpoint import locate
from ckptmigrate.checkpoint.rerun import MODE_OF_ARGUMENT
from ckptmigrate.cli import completion_values, options, render
from ckptmigrate.cli.batch_options import Many, several
from ckptmigrate.cli.console import output
from ckptmigrate.cli.help import CHECKPOINT, Manual
from ckptmigrate.cli.report_option import reported
from ckptmigrate.cli.report_recorder import recorder
from ckptmigrate.releases import prediction
from ckptmigrate.releases.environment import environment
from ckptmigrate.releases.job import DEFAULT_STRICTNESS, RAISE_ALL, STRICTNESS, Job
from ckptmigrate.releases.readers import reader, readers
from ckptmigrate.storage import directories
from ckptmigrate.versions.detection import read


@click.command(
    cls=Manual,
    files=CHECKPOINT,
    found="error, or the release of --reader cannot resume",
)
@click.option(
    "--reader",
    "release",
    type=options.RELEASE,
    metavar="RELEASE",
    shell_complete=completion_values.releases,
    help="Check this release only, for example 0.13.1. 0.13 means its latest patch release.",
)
@options.torch
@options.python
@options.numpy
@options.strict
@click.option(
    "--strictness",
    type=click.Choice(STRICTNESS),
    metavar="POLICY",
    default=DEFAULT_STRICTNESS,
    show_default=True,
    help=f"--dist-ckpt-strictness of the job: {', '.join(STRICTNESS)}.",
)
@click.option(
    "--job-tp", type=click.IntRange(min=1), metavar="N", help="Tensor parallel size of the job."
)
@click.option(
    "--job-pp", type=click.IntRange(min=1), metavar="N", help="Pipeline parallel size of the job."
)
@click.option(
    "--job-cp", type=click.IntRange(min=1), metavar="N", help="Context parallel size of the job."
)
@click.option("--job-world", type=click.IntRange(min=1), metavar="N", help="World size of the job.")
@click.option(
    "--rerun-mode",
    type=click.Choice(sorted(MODE_OF_ARGUMENT)),
    metavar="MODE",
    default="validate_results",
    show_default=True,
    help=f"--rerun-mode of the job: {', '.join(sorted(MODE_OF_ARGUMENT))}.",
)
@click.option("--finetune", is_flag=True, help="The job runs with --finetune.")
@click.option("--no-load-optim", is_flag=True, help="The job runs with --no-load-optim.")
@click.option("--no-load-rng", is_flag=True, help="The job runs with --no-load-rng.")
@options.iteration
@options.every
@several(ledger=True)
@reported
@options.output_options
def check(
    many: Many,
    release: str | None,
    torch: str | None,
    python: str | None,
    numpy: str | None,
    strict: bool,
    strictness: str,
    job_tp: int | None,
    job_pp: int | None,
    job_cp: int | None,
    job_world: int | None,
    rerun_mode: str,
    finetune: bool,
    no_load_optim: bool,
    no_load_rng: bool,
    iteration: int | None,
    every: bool,
) -> None:
    """Predict whether a Megatron release can resume from a checkpoint.

    Without --reader, print one line for each release. With --reader, print each reason, the error
    that the job would raise, and a command that fixes it. ckptmigrate plans the command and
    validates its result before printing it.

    The release does not need to be installed. By default, the job is assumed to have the
    parallelism of the checkpoint, the usual PyTorch version of the release, --rerun-mode
    validate_results and Megatron's default strictness.

    \b
    Examples:
      ckptmigrate check run
      ckptmigrate check run --reader 0.13
      ckptmigrate check run --reader 0.17.1 --strict
      ckptmigrate check run --reader 0.16 --job-world 1 --job-tp 1 --no-load-optim
    """
    from ckptmigrate.releases.facts import compat

    options.check_choice(iteration, every=every)
    job = Job(
        tensor=job_tp,
        pipeline=job_pp,
        context=job_cp,
        world=job_world,
        rerun_mode=rerun_mode,
        finetune=finetune,
        no_load_optim=no_load_optim,
        no_load_rng=no_load_rng,
        strictness=RAISE_ALL if strict else strictness,
    )
    where = environment(python, numpy)
    if many.batch or every:
        from ckptmigrate.batch.read_tasks import Check
        from ckptmigrate.cli.batches import jobs, run

        choose = partial(paths.located, iteration=iteration, every=every)
        run(many, "check", jobs(many.groups(choose), Check(release, torch, where, job)))
        return
    located = locate.locate(many.only, iteration=iteration)
    found = read(directories.directory(located.checkpoints[0]))
    asked = (
        [reader(release, compat(), torch, where)] if release else readers(compat(), torch, where)
    )
    verdicts = [prediction.check(found, each, job) for each in asked]
    advised = None
    if release:
        from ckptmigrate.planning import fixes

        advised = fixes.advise(found, verdicts[0], job, located.words(iteration))
    recorder.add(
        lambda document: report.build.of_check(document, found.manifest.path, verdicts, advised)
    )
    if advised is not None:
        if output.json:
            output.object({**verdicts[0].as_json(), "fix": advised.as_json()})
        else:
            output.lines(render.verdict(found.manifest.path, verdicts[0], advised))
    elif output.json:
        output.object([verdict.as_json() for verdict in verdicts])
    else:
        output.lines(render.verdicts(found.manifest.path, verdicts))
    if release and not verdicts[0].resumes:
        raise SystemExit(1)
