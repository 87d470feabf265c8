"""The commands `upgrade`, `downgrade` and `migrate`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import click

from ckptmigrate import versions
from ckptmigrate.cli import completion_values, options
from ckptmigrate.cli.batch_options import Selection, several
from ckptmigrate.cli.console import output
from ckptmigrate.cli.help import MIGRATED, Manual
from ckptmigrate.cli.run import run
from ckptmigrate.planning import optimizers, targets
from ckptmigrate.planning.losses import LOSSES
from ckptmigrate.releases import transformer_engine
from ckptmigrate.verbs.migrate import MigrationRequest


def _migration_options(command: options.Command) -> options.Command:
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
        options.link,
        click.option(
            "--hash", "hash_payload", is_flag=True,
            help="Hash all data files and stop if a hash differs from integrity.json.",
        ),
        click.option(
            "--allow-loss", multiple=True, type=click.Choice(sorted(LOSSES)), metavar="NAME",
            help="Allow this data loss (see Data loss). Repeat for more.",
        ),
        options.versions("to"),
        click.option(
            "--native", is_flag=True,
            help="Write the layout that the target release itself writes. Default: the smallest "
            "change that lets the release resume.",
        ),
        click.option(
            "--optimizer", metavar="HOW", default=targets.KEEP, show_default=True,
            type=click.Choice([targets.KEEP, targets.CONVERT, targets.DROP]),
            help="keep, convert the distributed optimizer if the target release does not load it, "
            "or drop it.",
        ),
        click.option(
            "--optimizer-type", metavar="TYPE",
            type=click.Choice(optimizers.TYPES),
            help=f"Convert the distributed optimizer to {optimizers.TYPES[0]} or "
            f"{optimizers.TYPES[1]} (0.15 or later).",
        ),
        click.option(
            "--extra-state", type=click.Choice(transformer_engine.CHANGES),
            metavar="HOW", default=targets.KEEP, show_default=True,
            help="keep, drop, or add the _extra_state of Transformer Engine. With "
            "--transformer-engine, drop what the job does not request, or add what it requests.",
        ),
        options.transformer_engine,
        click.option(
            "--compact", is_flag=True,
            help="Rewrite data files without bytes that no key uses, such as a dropped optimizer.",
        ),
        click.option(
            "--part-size", type=options.SIZE, metavar="SIZE", default="1G", show_default=True,
            help="Write new data files of at most SIZE, for example 512M. The same command resumes "
            "an interrupted conversion.",
        ),
        click.option(
            "--verify-source", is_flag=True,
            help="Read the source of a conversion again and compare it with what was written.",
        ),
        options.strict,
        options.parallelism("world", "tensor", "pipeline"),
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
    "The release that will load the checkpoint, for example 0.13 or 0.16.1; "
    f"{options.INSTALLED} is that of your environment (--python). Also accepts a layout "
    f"(see `ckptmigrate layouts`) or {versions.UNIVERSAL}, which every release from 0.9 on can "
    "load."
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
@options.output_options
def upgrade(selection: Selection, **options: Any) -> None:
    """Migrate a checkpoint to a newer release.

    The result is a new root next to PATH, ready for --load. Data files are linked or copied, and
    only metadata files are rewritten; --optimizer convert adds data files. Without --to, the target
    is the newest layout.

    \b
    Examples:
      ckptmigrate upgrade run --dry-run
      ckptmigrate upgrade run --to 0.19
      ckptmigrate upgrade run --all -o run-for-0.19
    """
    _migrate(selection, verb="upgrade", **options)


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
@options.output_options
def downgrade(selection: Selection, **options: Any) -> None:
    """Migrate a checkpoint to an older release.

    The result is a new root next to PATH, ready for --load. Data files are linked or copied, and
    only metadata files are rewritten; --optimizer convert adds data files. Data is dropped only if
    you allow it with --allow-loss. The original metadata files are kept in .ckptmigrate/ and
    restored when you upgrade again.

    \b
    Examples:
      ckptmigrate downgrade run --to 0.13 --dry-run
      ckptmigrate downgrade run --to split-rerun -o run-for-0.13
      ckptmigrate downgrade run --to pre-rerun --in-place
      ckptmigrate downgrade fault --to 0.13 --allow-loss fault-context
    """
    _migrate(selection, verb="downgrade", **options)


@click.command(cls=Manual, files=MIGRATED, terms=_TERMS)
@click.option(
    "--to",
    type=_TARGET,
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
@options.output_options
def migrate(selection: Selection, print_path: bool, **options: Any) -> None:
    """Upgrade or downgrade a checkpoint, depending on the target release.

    If the result of an earlier run exists, it is validated, and nothing changes.

    In a script, LOAD=$(ckptmigrate migrate PATH --to TARGET --print-path) sets LOAD to the root to
    load: the new root, or PATH if it needs no migration.

    \b
    Examples:
      ckptmigrate migrate run --to 0.13
      ckptmigrate migrate run --to 0.19 --optimizer convert
      ckptmigrate migrate run --optimizer drop --compact
      ckptmigrate migrate run --to 0.11 --print-path
    """
    if print_path and (selection.batch or options["every"] or options["dry_run"] or output.json):
        raise click.UsageError(
            "--print-path requires one PATH and cannot be combined with --all, --dry-run, --json, "
            "--jobs, --ledger, --shard or --scheduler."
        )
    _migrate(selection, verb="migrate", print_path=print_path, **options)


def _migrate(selection: Selection, full: bool, print_path: bool = False, **values: Any) -> None:
    """Run a migration; the other options are the fields of MigrationRequest, by name."""
    request = MigrationRequest(**values)
    if request.to is None and not request.changes_data_files:
        context = click.get_current_context()
        to = next(each for each in context.command.params if each.name == "to")
        raise click.MissingParameter(ctx=context, param=to)
    if request.optimizer == targets.DROP and request.optimizer_type is not None:
        raise click.UsageError("--optimizer drop and --optimizer-type cannot be combined.")
    if request.in_place and request.output is not None:
        raise click.UsageError("--in-place and -o cannot be combined.")
    options.check_choice(request.iteration, every=request.every)
    if request.verb == "migrate":
        request = replace(request, loadable=not request.in_place)
    run(selection, request, batch=request.every, full=full, path_only=print_path)
