"""The commands `upgrade`, `downgrade` and `migrate`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from ckptmigrate import versions
from ckptmigrate.batch import paths
from ckptmigrate.checkpoint.topology import Given
from ckptmigrate.cli import completion_values, console, options
from ckptmigrate.cli.batch_options import Many, several
from ckptmigrate.cli.console import output
from ckptmigrate.cli.execution import carry_out
from ckptmigrate.cli.help import MIGRATED, Manual
from ckptmigrate.cli.report_option import reported
from ckptmigrate.places import Place
from ckptmigrate.planning.losses import LOSSES
from ckptmigrate.planning.targets import target
from ckptmigrate.releases.environment import environment
from ckptmigrate.verbs import migrate as migration
from ckptmigrate.verbs import recover
from ckptmigrate.writing.links import Link

if TYPE_CHECKING:
    from ckptmigrate.batch.change_tasks import Migrate
    from ckptmigrate.batch.drive import Job
    from ckptmigrate.batch.paths import Group


def _migration_options(command: options.Command) -> options.Command:
    links = click.Choice([link.value for link in Link])
    for option in (
        click.option(
            "-o", "--output", type=options.PLACE, metavar="DEST",
            shell_complete=completion_values.directories,
            help="Create the new root DEST, or one root for each PATH in directory DEST. Default: "
            "PATH.TARGET, next to PATH.",
        ),
        click.option(
            "--in-place", is_flag=True,
            help="Modify PATH instead of creating a new root. Use `undo` to revert.",
        ),
        click.option("--dry-run", is_flag=True, help="Print the plan without writing anything."),
        click.option(
            "--link", type=links, metavar="METHOD", default=Link.AUTO.value, show_default=True,
            help=options.LINK_HELP,
        ),
        click.option(
            "--hash", "hash_payload", is_flag=True,
            help="Hash all data files and stop if a hash differs from integrity.json.",
        ),
        click.option(
            "--allow-loss", multiple=True, type=click.Choice(sorted(LOSSES)), metavar="NAME",
            help="Allow this data loss, one of those under Data loss. Repeat for more.",
        ),
        options.torch,
        options.python,
        options.numpy,
        click.option(
            "--native", is_flag=True,
            help="Write the layout that the target release itself writes. Default: the smallest "
            "change that lets the release resume.",
        ),
        options.strict,
        click.option(
            "--world-size", type=click.IntRange(min=1), metavar="N",
            help=options.GIVEN_HELP.format("World size"),
        ),
        click.option(
            "--tensor-parallel", type=click.IntRange(min=1), metavar="N",
            help=options.GIVEN_HELP.format("Tensor parallel size"),
        ),
        click.option(
            "--pipeline-parallel", type=click.IntRange(min=1), metavar="N",
            help=options.GIVEN_HELP.format("Pipeline parallel size"),
        ),
        options.full,
        options.every,
        options.iteration,
    ):  # fmt: skip
        command = option(command)
    return command


class _TargetType(options.ReleaseType):
    """The type of --to, with a list of releases for a missing value."""

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        from ckptmigrate.releases.facts import compat
        from ckptmigrate.releases.readers import readers

        known = ", ".join(each.release for each in readers(compat()))
        return f"Pass the release that will load the checkpoint: {known}."


_TARGET: Final = _TargetType()
_TERMS: Final = {"Data loss": {name: loss.meaning for name, loss in LOSSES.items()}}
_TO_HELP: Final = (
    "The release that will load the checkpoint, for example 0.13 or 0.16.1. Also accepts a layout "
    f"(see `ckptmigrate layouts`) or {versions.UNIVERSAL}, which every release from 0.9 on can "
    "load. If the job uses --dist-ckpt-strictness raise_all, pass its release and --strict."
)


@click.command(cls=Manual, files=MIGRATED, terms=_TERMS)
@click.option(
    "--to",
    type=_TARGET,
    default=versions.NEWEST.ID,
    show_default=True,
    metavar="TARGET",
    help=_TO_HELP,
    shell_complete=completion_values.targets,
)
@_migration_options
@several(ledger=True)
@reported
@options.output_options
def upgrade(many: Many, to: str, **options: Any) -> None:
    """Migrate a checkpoint to a newer release.

    The result is a new root next to PATH, ready for --load. Data files are linked or copied, and
    only metadata files are rewritten. Without --to, the target is the newest layout.

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
    type=_TARGET,
    required=True,
    metavar="TARGET",
    help=_TO_HELP,
    shell_complete=completion_values.targets,
)
@_migration_options
@several(ledger=True)
@reported
@options.output_options
def downgrade(many: Many, to: str, **options: Any) -> None:
    """Migrate a checkpoint to an older release.

    The result is a new root next to PATH, ready for --load. Data files are linked or copied, and
    only metadata files are rewritten. Data is dropped only if you allow it with --allow-loss.
    The original metadata files are kept in .ckptmigrate/ and restored when you upgrade again.

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
    type=_TARGET,
    required=True,
    metavar="TARGET",
    help=_TO_HELP,
    shell_complete=completion_values.targets,
)
@click.option(
    "--print-path",
    is_flag=True,
    help="Print only the path to load. Errors go to standard error.",
)
@_migration_options
@several(ledger=True)
@reported
@options.output_options
def migrate(many: Many, to: str, print_path: bool, **options: Any) -> None:
    """Upgrade or downgrade a checkpoint, depending on the target release.

    If the result of an earlier run exists, `migrate` validates it and changes nothing.

    In a script, LOAD=$(ckptmigrate migrate PATH --to TARGET --print-path) sets LOAD to the path to
    pass to --load: the new root, or PATH itself if the target release can already load it.

    \b
    Examples:
      ckptmigrate migrate run --to 0.13
      ckptmigrate migrate run --to 0.19 --dry-run
      ckptmigrate migrate run --to 0.11 --print-path
    """
    if print_path and (many.batch or options["every"] or options["dry_run"] or output.json):
        raise click.UsageError(
            "--print-path requires one PATH and cannot be combined with --all, --dry-run, --json, "
            "--jobs, --ledger, --shard or --scheduler."
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
        raise click.UsageError("--in-place and -o cannot be combined.")
    options.check_choice(iteration, every=every)
    where = environment(python, numpy)
    given = Given(world_size, tensor_parallel, pipeline_parallel)
    if many.batch or every:
        from ckptmigrate.batch.change_tasks import Migrate
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
        # Fail before the batch starts if the target is not valid.
        target(to, torch=torch, environment=where, native=native, strict=strict)
        choose = partial(paths.located, iteration=iteration, every=every)
        groups = many.groups(choose, in_place=in_place)
        found = _jobs(many, groups, work, output=output, in_place=in_place)
        run(many, work.verb, found, dry_run=dry_run)
        return
    path = many.only
    recovered = recover.in_place(path) if in_place and not dry_run else {}
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
            progress=progress if hash_payload else None,  # hashing only the metadata files is fast
        )
    prepared = replace(prepared, recovered=recovered)
    carry_out(prepared, dry_run=dry_run, full=full, link=Link(link), print_path=print_path)


def _jobs(
    many: Many, groups: list[Group], work: Migrate, *, output: Place | None, in_place: bool
) -> list[Job]:
    """Return a task for each checkpoint, with the new root of each PATH."""
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
