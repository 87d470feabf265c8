"""The command line. It parses, calls the library, and turns values and errors into words."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from dataclasses import asdict, replace
from typing import Any, NoReturn

import click

import ckptmigrate
from ckptmigrate import (
    advice,
    caring,
    checking,
    inspection,
    locate,
    migration,
    recovery,
    render,
    storage,
    versions,
)
from ckptmigrate.console import PLACE
from ckptmigrate.console import Command as _Command
from ckptmigrate.console import check_choice as _check_choice
from ckptmigrate.console import every as _every
from ckptmigrate.console import iteration as _iteration
from ckptmigrate.console import output as _output
from ckptmigrate.console import output_options as _output_options
from ckptmigrate.console import path as _path
from ckptmigrate.console import progress as _progress
from ckptmigrate.converting import LOSSES
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.linking import Link
from ckptmigrate.matrix_verb import matrix
from ckptmigrate.places import Place, absolute
from ckptmigrate.printable import printable
from ckptmigrate.readers import reader, readers
from ckptmigrate.reading import read
from ckptmigrate.rerun import MODE_OF_ARGUMENT
from ckptmigrate.topology import Given


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(ckptmigrate.__version__, prog_name="ckptmigrate")
@_output_options
def cli() -> None:
    """Inspect and migrate Megatron-Core torch_dist checkpoints, metadata only.

    PATH is a checkpoint directory or a root; a root means the iteration that its tracker file
    names. Tensors are never rewritten, pickles never executed, the source never changed unless
    --in-place asks for it. Exit status: 0 done, 1 refused or found wanting, 2 usage.
    """


@cli.command()
@_path
@_iteration
@_every
@_output_options
def inspect(path: Place, iteration: int | None, every: bool) -> None:
    """Say what a checkpoint is: layout, writer, rerun state, sizes, history, anomalies.

    Exit status 1 where it is corrupt.

    Example: ckptmigrate inspect checkpoints/run
    """
    _check_choice(iteration, every=every)
    located = locate.locate(path, iteration=iteration, every=every)
    found = [inspection.inspect(checkpoint) for checkpoint in located.checkpoints]
    if _output.json:
        shown = [each.as_json() for each in found]
        _output.object(shown if every else shown[0])
    else:
        for each in found:
            _output.lines(render.inspection(each))
    if not all(each.healthy for each in found):
        raise SystemExit(1)


def _migration_options(command: _Command) -> _Command:
    links = click.Choice([link.value for link in Link])
    for option in (
        click.option(
            "-o", "--output", type=PLACE, metavar="DEST",
            help="The root to create. Default: PATH.<target> beside PATH.",
        ),
        click.option("--in-place", is_flag=True, help="Change PATH itself."),
        click.option("--dry-run", is_flag=True, help="Print the plan and write nothing."),
        click.option(
            "--link", type=links, default=Link.AUTO.value, show_default=True,
            help="How payload files get into DEST. auto: reflink, else hardlink, else copy.",
        ),
        click.option(
            "--hash", "hash_payload", is_flag=True,
            help="Read all payload, and refuse where it is not as integrity.json says.",
        ),
        click.option(
            "--allow-loss", multiple=True, type=click.Choice(sorted(LOSSES)),
            help="Accept a named loss. "
            + " ".join(f"{name}: {text}." for name, text in LOSSES.items()),
        ),
        click.option(
            "--torch", metavar="V",
            help="The reader's torch, for a release. Default: the one the release usually has.",
        ),
        click.option(
            "--native", is_flag=True,
            help="Give a release its own layout, even where it needs less.",
        ),
        click.option(
            "--strict", is_flag=True,
            help="Make a release resume under --dist-ckpt-strictness raise_all, too.",
        ),
        click.option(
            "--world-size", type=click.IntRange(min=1), metavar="N",
            help="Ranks of the job, where args do not tell.",
        ),
        click.option(
            "--tensor-parallel", type=click.IntRange(min=1), metavar="N",
            help="Tensor parallel size, where args do not tell.",
        ),
        click.option(
            "--pipeline-parallel", type=click.IntRange(min=1), metavar="N",
            help="Pipeline parallel size, where args do not tell.",
        ),
        _every,
        _iteration,
    ):  # fmt: skip
        command = option(command)
    return command


_TO_HELP = (
    f"A layout ({', '.join(layout.ID for layout in versions.LAYOUTS)}), a release such as 0.13.1 "
    "or 0.16, which gets the least that it needs to resume, or "
    f"{versions.UNIVERSAL}: sharded-rerun, idle, which every release from 0.9 on reads. Readers "
    "that run with --dist-ckpt-strictness raise_all want no rerun entry at all, but for 0.10 "
    "and 0.11: give those pre-rerun or none-emitting."
)


@cli.command()
@_path
@click.option(
    "--to", default=versions.NEWEST.ID, show_default=True, metavar="TARGET", help=_TO_HELP
)
@_migration_options
@_output_options
def upgrade(path: Place, to: str, **options: Any) -> None:
    """Make a checkpoint readable by a newer release.

    Example: ckptmigrate upgrade checkpoints/run --to common-state
    """
    _migrate("upgrade", path, to, **options)


@cli.command()
@_path
@click.option("--to", required=True, metavar="TARGET", help=_TO_HELP)
@_migration_options
@_output_options
def downgrade(path: Place, to: str, **options: Any) -> None:
    """Make a checkpoint readable by an older release.

    Example: ckptmigrate downgrade checkpoints/run --to split-rerun
    """
    _migrate("downgrade", path, to, **options)


def _migrate(
    verb: str,
    path: Place,
    to: str,
    *,
    output: Place | None,
    in_place: bool,
    dry_run: bool,
    link: str,
    hash_payload: bool,
    allow_loss: tuple[str, ...],
    world_size: int | None,
    tensor_parallel: int | None,
    pipeline_parallel: int | None,
    torch: str | None,
    native: bool,
    strict: bool,
    every: bool,
    iteration: int | None,
) -> None:
    if in_place and output is not None:
        raise click.UsageError("--in-place and -o exclude each other.")
    _check_choice(iteration, every=every)
    recovered = recovery.in_place(path) if in_place and not dry_run else {}
    with _progress("hashing", None) as progress:
        prepared = migration.prepare(
            path,
            to,
            verb=verb,
            output=output,
            in_place=in_place,
            iteration=iteration,
            every=every,
            allowed=allow_loss,
            given=Given(world_size, tensor_parallel, pipeline_parallel),
            torch=torch,
            native=native,
            strict=strict,
            hash_payload=hash_payload,
            progress=progress if hash_payload else None,  # small files take no time
        )
    prepared = replace(prepared, recovered=recovered)
    _carry_out(prepared, dry_run=dry_run, link=Link(link))


def _carry_out(prepared: migration.Migration, *, dry_run: bool, link: Link = Link.AUTO) -> None:
    used = None
    if not dry_run:
        # Before anything is printed: a reader of the output that goes away stops nothing.
        total = sum(plan.payload[1] for plan in prepared.plans)
        with _progress("copying payload", total) as progress:
            used = migration.carry_out(prepared, link=link, progress=progress)
    if _output.json:
        _output.object(prepared.as_json(done=not dry_run, link=used))
        return
    _output.lines(render.recovered(prepared.recovered))
    for plan in prepared.plans:
        _output.lines(render.plan(plan))
    if dry_run:
        click.echo("dry run: nothing was written")
    else:
        _output.lines(render.outcome(prepared, used))


@cli.command()
@_path
@click.option("--reader", "release", metavar="RELEASE", help="Ask this release alone.")
@click.option("--torch", metavar="V", help="The reader's torch. Default: the release's usual one.")
@click.option("--strict", is_flag=True, help="Short for --strictness raise_all.")
@click.option(
    "--strictness",
    type=click.Choice(checking.STRICTNESS),
    default=checking.DEFAULT_STRICTNESS,
    show_default=True,
    help="The job's --dist-ckpt-strictness.",
)
@click.option("--job-tp", type=click.IntRange(min=1), metavar="N", help="The job's TP.")
@click.option("--job-pp", type=click.IntRange(min=1), metavar="N", help="The job's PP.")
@click.option("--job-cp", type=click.IntRange(min=1), metavar="N", help="The job's CP.")
@click.option("--job-world", type=click.IntRange(min=1), metavar="N", help="The job's world size.")
@click.option(
    "--rerun-mode",
    type=click.Choice(sorted(MODE_OF_ARGUMENT)),
    default="validate_results",
    show_default=True,
    help="The job's --rerun-mode.",
)
@click.option("--finetune", is_flag=True, help="The job runs with --finetune.")
@click.option("--no-load-optim", is_flag=True, help="The job runs with --no-load-optim.")
@click.option("--no-load-rng", is_flag=True, help="The job runs with --no-load-rng.")
@_iteration
@_output_options
def check(
    path: Place,
    release: str | None,
    torch: str | None,
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
) -> None:
    """Predict, without the release at hand, whether a job of it resumes.

    By default the job has the topology of the checkpoint, reruns enabled and Megatron's default
    strictness. Without --reader, one line per release. Exit status 1 where the release, or any
    of them, does not resume.

    Example: ckptmigrate check checkpoints/run --reader 0.13.1
    """
    from ckptmigrate.releases import compat

    found = read(storage.directory(locate.locate(path, iteration=iteration).checkpoints[0]))
    job = checking.Job(
        tensor=job_tp,
        pipeline=job_pp,
        context=job_cp,
        world=job_world,
        rerun_mode=rerun_mode,
        finetune=finetune,
        no_load_optim=no_load_optim,
        no_load_rng=no_load_rng,
        strictness=checking.RAISE_ALL if strict else strictness,
    )
    asked = [reader(release, compat(), torch)] if release else readers(compat(), torch)
    verdicts = [checking.check(found, each, job) for each in asked]
    if release:
        advised = advice.advise(found, verdicts[0], job)
        if _output.json:
            _output.object({**verdicts[0].as_json(), "fix": advised.as_json()})
        else:
            _output.lines(render.verdict(found.manifest.path, verdicts[0], advised))
    elif _output.json:
        _output.object([verdict.as_json() for verdict in verdicts])
    else:
        _output.lines(render.verdicts(found.manifest.path, verdicts))
    if not all(verdict.resumes for verdict in verdicts):
        raise SystemExit(1)


@cli.command()
@_path
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@_every
@_iteration
@_output_options
def undo(path: Place, dry_run: bool, every: bool, iteration: int | None) -> None:
    """Take back the last migration in place, byte for byte.

    Again and again, as far as the sidecar tells. Refused where a file was changed since.

    Example: ckptmigrate undo checkpoints/run
    """
    _check_choice(iteration, every=every)
    recovered = {} if dry_run else recovery.in_place(path)
    prepared = migration.prepare_undo(path, iteration=iteration, every=every)
    _carry_out(replace(prepared, recovered=recovered), dry_run=dry_run)


@cli.command()
@_path
@click.option(
    "--break-lock", is_flag=True, help="State that a run which cannot be seen from here is over."
)
@_output_options
def recover(path: Place, break_lock: bool) -> None:
    """Clean up after a migration that did not finish.

    In place, it is rolled back, or forward once it was committed. Out of place, what it had staged
    beside PATH is removed. PATH is a checkpoint directory, a root, whose checkpoints are all looked
    at, or a destination.

    Example: ckptmigrate recover checkpoints/run
    """
    done = recovery.recover(path, break_lock=break_lock)
    if _output.json:
        _output.object({"recovered": {str(each): what for each, what in done.items()}})
    else:
        lines = render.recovered(done)
        _output.lines(lines or [printable(f"{absolute(path)}: nothing to recover")])


@cli.command()
@click.argument("a", type=PLACE)
@click.argument("b", type=PLACE)
@_iteration
@click.option("--full", is_flag=True, help="Do not cut long lists.")
@_output_options
def diff(a: Place, b: Place, iteration: int | None, full: bool) -> None:
    """Say what differs in meaning from checkpoint A to checkpoint B.

    Compared are the common state, entries, plans, attributes, backend marker and payload bytes.
    Exit status 1 where anything differs.

    Example: ckptmigrate diff checkpoints/run checkpoints/run.pre-rerun
    """
    found = ckptmigrate.diff(a, b, iteration=iteration)
    if _output.json:
        _output.object(
            {"equal": not found, "differences": [difference.as_json() for difference in found]}
        )
    else:
        _output.lines(render.differences(found, full=full))
    if found:
        raise SystemExit(1)


@cli.command()
@_output_options
def layouts() -> None:
    """List the layouts of the rerun state and the releases that write them.

    Example: ckptmigrate layouts
    """
    from ckptmigrate.releases import compat

    rows = compat().layouts
    if _output.json:
        _output.object([asdict(row) for row in rows])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("layout", "releases", "what it is", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row.layout, row.releases, row.summary)
    Console(no_color=_output.color is False, highlight=False).print(table)


for _verb in (caring.verify, caring.repair, matrix):
    cli.add_command(_verb)


def main() -> None:
    """The entry point: run a verb, and turn errors into one sentence and an exit status."""
    _output.reset(color=False if os.environ.get("NO_COLOR") else None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)  # what is under way is taken back, as for Ctrl-C
    try:
        status = cli.main(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.Abort:
        _fail("interrupted; what was under way was taken back", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except CkptMigrateError as error:
        _fail(error, 1)
    except BrokenPipeError:
        # The reader of a pipe went away (`| head`): nothing is wrong, nothing more to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(f"{error.filename or 'the system'}: {error.strerror}", 1)
    except MemoryError:
        _fail("the memory does not suffice; restore what is too large from a copy", 1)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        _fail(f"internal error ({what}); run it again with -v and report what it prints", 1)
    else:
        sys.exit(status if isinstance(status, int) else 0)


def _stop(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _fail(error: CkptMigrateError | str, status: int) -> NoReturn:
    if _output.verbose:
        traceback.print_exc()
    if _output.json:
        told = error if isinstance(error, CkptMigrateError) else CkptMigrateError(error)
        _output.object({"error": told.as_json()})
    click.echo(f"ckptmigrate: {printable(str(error))}", err=True)
    sys.exit(status)
