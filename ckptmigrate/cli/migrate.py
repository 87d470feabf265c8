"""The verbs that migrate: upgrade, downgrade, and migrate for either direction."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from ckptmigrate import migration, recovery, versions
from ckptmigrate.access.places import Place
from ckptmigrate.batch import paths
from ckptmigrate.checkpoint.topology import Given
from ckptmigrate.cli import completing, console, options
from ckptmigrate.cli.carrying_out import carry_out
from ckptmigrate.cli.console import output
from ckptmigrate.cli.manual import MIGRATED, Manual
from ckptmigrate.cli.many import Many, several
from ckptmigrate.cli.reports import reported
from ckptmigrate.planning.losses import LOSSES
from ckptmigrate.planning.targets import target
from ckptmigrate.releases.environment import environment
from ckptmigrate.writing.linking import Link

if TYPE_CHECKING:
    from ckptmigrate.batch.changing import Migrate
    from ckptmigrate.batch.driving import Job
    from ckptmigrate.batch.paths import Group


def _migration_options(command: options.Command) -> options.Command:
    links = click.Choice([link.value for link in Link])
    for option in (
        click.option(
            "-o", "--output", type=options.PLACE, metavar="DEST",
            shell_complete=completing.directories,
            help="The root to create, where nothing is yet. Default: PATH.<target> beside PATH.",
        ),
        click.option(
            "--in-place", is_flag=True, help="Change PATH itself; `undo` takes it back."
        ),
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
            "--allow-loss", multiple=True, type=click.Choice(sorted(LOSSES)), metavar="LOSS",
            help="Accept a loss, one of those below; again for another one.",
        ),
        click.option(
            "--torch", metavar="V",
            help="The reader's torch, for a release. Default: the one the release usually has.",
        ),
        options.python,
        options.numpy,
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
        options.full,
        options.every,
        options.iteration,
    ):  # fmt: skip
        command = option(command)
    return command


_TERMS: Final = {"Losses": {name: loss.meaning for name, loss in LOSSES.items()}}
_TO_HELP: Final = (
    f"A layout ({', '.join(layout.ID for layout in versions.LAYOUTS)}), a release such as 0.13.1 "
    "or 0.16, which gets the least that it needs to resume, or "
    f"{versions.UNIVERSAL}: sharded-rerun, idle, which every release from 0.9 on reads. Readers "
    "that run with --dist-ckpt-strictness raise_all want no rerun entry at all, but for 0.10 "
    "and 0.11: give those pre-rerun or none-emitting."
)


@click.command(cls=Manual, files=MIGRATED, terms=_TERMS)
@click.option(
    "--to",
    type=options.RELEASE,
    default=versions.NEWEST.ID,
    show_default=True,
    metavar="TARGET",
    help=_TO_HELP,
    shell_complete=completing.targets,
)
@_migration_options
@several(ledger=True)
@reported
@options.output_options
def upgrade(many: Many, to: str, **options: Any) -> None:
    """Make a checkpoint readable by a newer release.

    The result is a root of its own beside PATH, ready for --load. Payload files are linked where
    that works; only small metadata is written. Without --to, the newest layout.

    \b
    Examples:
      ckptmigrate upgrade run --dry-run
      ckptmigrate upgrade run --to 0.19
      ckptmigrate upgrade run --all -o run-for-0.19
    """
    _migrate("upgrade", many, to, **options)


@click.command(cls=Manual, files=MIGRATED, terms=_TERMS)
@click.option(
    "--to",
    type=options.RELEASE,
    required=True,
    metavar="TARGET",
    help=_TO_HELP,
    shell_complete=completing.targets,
)
@_migration_options
@several(ledger=True)
@reported
@options.output_options
def downgrade(many: Many, to: str, **options: Any) -> None:
    """Make a checkpoint readable by an older release.

    The result is a root of its own beside PATH, ready for --load. Payload files are linked where
    that works; only small metadata is written. Nothing is lost unless --allow-loss names it, and
    what goes is kept for the way back.

    \b
    Examples:
      ckptmigrate downgrade run --to 0.13 --dry-run
      ckptmigrate downgrade run --to split-rerun -o run-for-0.13
      ckptmigrate downgrade run --to pre-rerun --in-place
      ckptmigrate downgrade fault --to 0.13 --allow-loss fault-context
    """
    _migrate("downgrade", many, to, **options)


@click.command(cls=Manual, files=MIGRATED, terms=_TERMS)
@click.option(
    "--to",
    type=options.RELEASE,
    required=True,
    metavar="TARGET",
    help=_TO_HELP,
    shell_complete=completing.targets,
)
@click.option(
    "--print-path",
    is_flag=True,
    help="Print nothing but the root to load; errors go to standard error.",
)
@_migration_options
@several(ledger=True)
@reported
@options.output_options
def migrate(many: Many, to: str, print_path: bool, **options: Any) -> None:
    """Make a checkpoint readable by a release, newer or older.

    Runs `upgrade` or `downgrade`, whichever leads to TARGET. Run again, it finds the result of the
    first run, verifies it and changes nothing. --print-path is for scripts: with --print-path,
    LOAD=$(ckptmigrate migrate ...) is the root to load, and that is PATH itself where the release
    resumes from it as it is.

    \b
    Examples:
      ckptmigrate migrate run --to 0.13
      ckptmigrate migrate run --to 0.19 --dry-run
      ckptmigrate migrate run --to 0.11 --print-path
    """
    if print_path and (many.batch or options["every"] or options["dry_run"] or output.json):
        raise click.UsageError(
            "--print-path takes one PATH, without --all, --dry-run, --json or options of a batch."
        )
    _migrate(None, many, to, print_path=print_path, **options)


def _migrate(
    verb: str | None,
    many: Many,
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
    python: str | None,
    numpy: str | None,
    native: bool,
    strict: bool,
    full: bool,
    every: bool,
    iteration: int | None,
    print_path: bool = False,
) -> None:
    if in_place and output is not None:
        raise click.UsageError("--in-place and -o exclude each other.")
    options.check_choice(iteration, every=every)
    where = environment(python, numpy)
    given = Given(world_size, tensor_parallel, pipeline_parallel)
    if many.batch or every:
        from ckptmigrate.batch.changing import Migrate
        from ckptmigrate.cli.batches import run

        work = Migrate(
            verb or "migrate",
            to,
            allow_loss,
            given,
            torch,
            where,
            native,
            strict,
            hash_payload,
            Link(link),
            dry_run,
            always=output is not None,
        )
        # A wrong one is refused at once.
        target(to, torch=torch, environment=where, native=native, strict=strict)
        choose = partial(paths.located, iteration=iteration, every=every)
        groups = many.groups(choose, in_place=in_place)
        found = _jobs(many, groups, work, output=output, in_place=in_place)
        run(many, work.verb, found, dry_run=dry_run)
        return
    path = many.only
    recovered = recovery.in_place(path) if in_place and not dry_run else {}
    with console.progress("hashing", None) as progress:
        prepared = migration.prepare(
            path,
            to,
            verb=verb,
            output=output,
            in_place=in_place,
            iteration=iteration,
            every=every,
            allowed=allow_loss,
            given=given,
            torch=torch,
            environment=where,
            native=native,
            strict=strict,
            hash_payload=hash_payload,
            loadable=verb is None and not in_place,
            progress=progress if hash_payload else None,  # small files take no time
        )
    prepared = replace(prepared, recovered=recovered)
    carry_out(prepared, dry_run=dry_run, full=full, link=Link(link), print_path=print_path)


def _jobs(
    many: Many, groups: list[Group], work: Migrate, *, output: Place | None, in_place: bool
) -> list[Job]:
    """A task for each checkpoint, and the new root of each PATH."""
    from ckptmigrate.batch import destinations
    from ckptmigrate.cli.batches import jobs

    if in_place:
        return jobs(groups, work)
    placed = destinations.place(
        groups, work.target, output, several=many.several, go_on=many.goes_on
    )
    if not many.several and placed[0][0].error is not None:
        raise placed[0][0].error
    return [job for group, root in placed for job in jobs([group], work, root)]
