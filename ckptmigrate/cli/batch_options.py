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
from ckptmigrate.batch.shard import Partition, parse
from ckptmigrate.cli import completion_values
from ckptmigrate.cli.options import Command
from ckptmigrate.places import Place
from ckptmigrate.storage.urls import place

RETRIES: Final = 2  # default for a task on a cluster


@dataclass(frozen=True)
class Selection:
    """The PATHs of a command and the options of a batch.

    Attributes:
        paths: the PATHs of the command line, unchanged.
        jobs: the number of processes, or None.
        ledger: the file that records finished checkpoints, or None.
        scheduler: the address of a Dask scheduler, or None.
        retries: how often a task is retried on the Dask cluster, or None.
        shard: the partition of the checkpoints to process, or None.
        report: the file to write a report to, or None.
        ledgered: whether the command has the option --ledger.
    """

    paths: tuple[str, ...]
    jobs: int | None = None
    ledger: Path | None = None
    scheduler: str | None = None
    retries: int | None = None
    shard: Partition | None = None
    report: Path | None = None
    ledgered: bool = True

    @property
    def batch(self) -> bool:
        """Return whether an option or the number of PATHs requires a batch."""
        options = (self.jobs, self.ledger, self.scheduler, self.shard)
        return paths.several(self.paths) or any(option is not None for option in options)

    @property
    def only(self) -> Place:
        """Return the PATH of a command that is not a batch."""
        return place(self.paths[0])

    @property
    def absolute(self) -> list[str]:
        """Return the PATHs, absolute; a pattern that matches nothing is returned unchanged."""
        found = paths.expand(self.paths)
        return [path if isinstance(path, str) else str(path.path) for path in found]


def _known_ending(_: click.Context, _parameter: click.Parameter, file: Path | None) -> Path | None:
    if file is not None:
        from ckptmigrate.report.output_file import RENDERERS

        if file.suffix not in RENDERERS:
            raise click.BadParameter(f"{str(file)!r} must end in one of {', '.join(RENDERERS)}.")
    return file


def _shard(_: click.Context, _parameter: click.Parameter, value: str | None) -> Partition | None:
    try:
        return None if value is None else parse(value, os.environ)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_PATHS = click.argument(
    "paths",
    nargs=-1,
    required=True,
    metavar="PATH...",
    shell_complete=completion_values.directories,
)
_JOBS = click.option(
    "-j", "--jobs", type=click.IntRange(min=1), metavar="N",
    help="Process N checkpoints at a time, each in its own process; fewer converted checkpoints "
    "write several new data files at a time. Default: 1.",
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

_REPORT = click.option(
    "--report", type=click.Path(path_type=Path, readable=False), metavar="FILE",
    callback=_known_ending,
    help="Also write a report to FILE, which ends in .html, .md or .json. A command that fails "
    "writes one, too.",
)  # fmt: skip


def several(*, ledger: bool, report: bool = True) -> Callable[[Command], Command]:
    """Add the argument PATH... and the options of a batch, passed as `selection`.

    Args:
        ledger: whether to add --ledger, --shard, --scheduler and --retries.
        report: whether to add --report.
    """
    ledgered = (_LEDGER, _SHARD, _SCHEDULER, _RETRY) if ledger else ()
    options = (_JOBS, *ledgered, *((_REPORT,) if report else ()))
    names = ("paths", "jobs", "ledger", "shard", "scheduler", "retries", "report")

    def decorate(verb: Command) -> Command:
        @functools.wraps(verb)
        def packed(**values: Any) -> Any:
            mine = {name: values.pop(name) for name in names if name in values}
            selection = Selection(**mine, ledgered=ledger)
            if selection.scheduler is not None and selection.jobs is not None:
                raise click.UsageError("--scheduler and --jobs cannot be combined.")
            if selection.scheduler is None and selection.retries is not None:
                raise click.UsageError("--retries requires --scheduler.")
            return verb(selection=selection, **values)

        found: Any = packed
        for option in reversed(options):
            found = option(found)
        return _PATHS(found)  # type: ignore[no-any-return]

    return decorate
