"""Options of commands that accept several checkpoints."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from ckptmigrate.batch import paths
from ckptmigrate.batch.paths import Group
from ckptmigrate.batch.shard import Shard, parse
from ckptmigrate.cli import completion_values
from ckptmigrate.cli.options import Command
from ckptmigrate.places import Place
from ckptmigrate.storage.urls import place

RETRIES: Final = 2  # default for a task on a cluster


@dataclass(frozen=True)
class Many:
    """The PATHs of a command and the options of a batch.

    Attributes:
        given: the PATHs of the command line, unchanged.
        jobs: the number of processes, or None.
        ledger: the file that records finished checkpoints, or None.
        scheduler: the address of a Dask scheduler, or None.
        retries: how often a task is retried on the Dask cluster, or None.
        shard: the partition of the checkpoints to process, or None.
        ledgered: whether the command has the option --ledger.
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
        """Return whether there can be several PATHs."""
        return len(self.given) > 1 or paths.is_glob(self.given[0])

    @property
    def batch(self) -> bool:
        """Return whether an option or the number of PATHs requires a batch."""
        options = (self.jobs, self.ledger, self.scheduler, self.shard)
        return self.several or any(option is not None for option in options)

    @property
    def only(self) -> Place:
        """Return the PATH of a command that is not a batch."""
        return place(self.given[0])

    @property
    def paths(self) -> list[str]:
        """Return the PATHs, absolute; a pattern that matches nothing is returned unchanged."""
        found = paths.expand(self.given)
        return [path if isinstance(path, str) else str(path.path) for path in found]

    @property
    def goes_on(self) -> bool:
        """Return whether the destination can already be partly written by another run.

        Runs of the same ledger and of other partitions write to the same destination.
        """
        return self.ledger is not None or self.shard is not None

    def groups(self, choose: Callable[[Place], Group], *, in_place: bool = False) -> list[Group]:
        """Return the groups of checkpoints that the PATHs select (see `paths.groups`).

        Raises:
            CkptMigrateError: the only PATH has no checkpoint or matches nothing.
        """
        found = paths.groups(paths.expand(self.given), choose, in_place=in_place)
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
    "given",
    nargs=-1,
    required=True,
    metavar="PATH...",
    shell_complete=completion_values.directories,
)
_JOBS = click.option(
    "-j", "--jobs", type=click.IntRange(min=1), metavar="N",
    help="Process N checkpoints at a time, each in its own process. Default: 1.",
)  # fmt: skip
_LEDGER = click.option(
    "--ledger", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Record finished checkpoints in FILE (JSON Lines). Run the same command again to skip "
    "them and process the rest.",
)  # fmt: skip
_SHARD = click.option(
    "--shard", callback=_shard, metavar="I/N",
    help="Process only part I of N of the checkpoints, I from 0 to N-1. The value slurm takes I "
    "and N from the Slurm array task.",
)  # fmt: skip
_SCHEDULER = click.option(
    "--scheduler", metavar="ADDRESS",
    help="Run on the Dask cluster with this scheduler address or scheduler file.",
)  # fmt: skip
_RETRY = click.option(
    "--retries", type=click.IntRange(min=0), metavar="N",
    help=f"With --scheduler, retry transient failures up to N times. Default: {RETRIES}.",
)  # fmt: skip


def several(*, ledger: bool) -> Callable[[Command], Command]:
    """Add the argument PATH... and the options of a batch, passed as `many`.

    Args:
        ledger: whether to add --ledger, --shard, --scheduler and --retries.
    """
    options = (_JOBS, _LEDGER, _SHARD, _SCHEDULER, _RETRY) if ledger else (_JOBS,)

    names = ("given", "jobs", "ledger", "shard", "scheduler", "retries")

    def decorate(verb: Command) -> Command:
        @functools.wraps(verb)
        def packed(**values: Any) -> Any:
            mine = {name: values.pop(name) for name in names if name in values}
            many = Many(**mine, ledgered=ledger)
            if many.scheduler is not None and many.jobs is not None:
                raise click.UsageError("--scheduler and --jobs cannot be combined.")
            if many.scheduler is None and many.retries is not None:
                raise click.UsageError("--retries requires --scheduler.")
            return verb(many=many, **values)

        found: Any = packed
        for option in reversed(options):
            found = option(found)
        return _GIVEN(found)  # type: ignore[no-any-return]

    return decorate
