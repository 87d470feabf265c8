"""The command `check`: predict whether a release can resume from a checkpoint."""

from __future__ import annotations

from typing import Any

import click

from ckptmigrate.checkpoint.rerun import MODE_OF_ARGUMENT
from ckptmigrate.cli import completion_values, options
from ckptmigrate.cli.batch_options import Selection, several
from ckptmigrate.cli.help import CHECKPOINT, Manual
from ckptmigrate.cli.run import run, selects_several
from ckptmigrate.releases.environment import Environment
from ckptmigrate.releases.job import DEFAULT_STRICTNESS, RAISE_ALL, STRICTNESS, Job
from ckptmigrate.verbs.check import CheckRequest


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
    shell_complete=completion_values.job_releases,
    help="Check this release only, for example 0.13.1. 0.13 means its latest patch release, and "
    f"{options.INSTALLED} that of your environment (--python).",
)
@options.versions("release")
@options.strict
@click.option(
    "--strictness",
    type=click.Choice(STRICTNESS),
    metavar="POLICY",
    default=DEFAULT_STRICTNESS,
    show_default=True,
    help=f"--dist-ckpt-strictness of the job: {', '.join(STRICTNESS)}.",
)
@options.transformer_engine
@options.job_size("--job-tp", "tensor", "Tensor parallel size")
@options.job_size("--job-pp", "pipeline", "Pipeline parallel size")
@options.job_size("--job-cp", "context", "Context parallel size")
@options.job_size("--job-ep", "expert", "Expert parallel size")
@options.job_size("--job-world", "world", "World size")
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
@options.output_options
def check(
    selection: Selection,
    release: str | None,
    torch: str | None,
    environment: Environment,
    strict: bool,
    iteration: int | None,
    every: bool,
    **job: Any,
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
    options.check_choice(iteration, every=every)
    if strict:
        job["strictness"] = RAISE_ALL
    request = CheckRequest(release, Job(**job), torch, environment, iteration, every)
    run(selection, request, batch=every or selects_several(selection, iteration))
