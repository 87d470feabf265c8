"""The command line: parses arguments, calls the library and formats values and errors."""

from __future__ import annotations

import io
import itertools
import os
import signal
import sys
import traceback
from typing import Final, NoReturn

import click

import ckptmigrate
from ckptmigrate.cli import console, options, streams
from ckptmigrate.cli.console import output
from ckptmigrate.cli.corrected_command import completed
from ckptmigrate.cli.help import MIGRATED, ManualGroup
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.storage import progress
from ckptmigrate.text.commands import PROGRAM
from ckptmigrate.text.lines import Line

# The commands in the order of --help, and the module of each; see ManualGroup.
_VERBS: Final = {
    "Inspect": {
        "inspect": "ckptmigrate.cli.inspect",
        "check": "ckptmigrate.cli.check",
        "verify": "ckptmigrate.cli.verify",
        "diff": "ckptmigrate.cli.diff",
    },
    "Migrate": {
        "upgrade": "ckptmigrate.cli.migrate",
        "downgrade": "ckptmigrate.cli.migrate",
        "migrate": "ckptmigrate.cli.migrate",
        "undo": "ckptmigrate.cli.undo",
    },
    "Repair": {
        "repair": "ckptmigrate.cli.repair",
        "recover": "ckptmigrate.cli.recover",
    },
    "Reference": {
        "explain": "ckptmigrate.cli.explain",
        "layouts": "ckptmigrate.cli.layouts",
        "matrix": "ckptmigrate.cli.matrix",
        "schema": "ckptmigrate.cli.schema",
        "completion": "ckptmigrate.cli.completion",
    },
}


@click.group(
    cls=ManualGroup,
    sections=_VERBS,
    files=MIGRATED,
    invoke_without_command=True,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.version_option(ckptmigrate.__version__, prog_name=PROGRAM)
@options.output_options
@click.pass_context
def cli(context: click.Context) -> None:
    """Inspect and migrate Megatron-Core torch_dist checkpoints by rewriting their metadata.

    PATH is an iteration directory (iter_NNNNNNN) or a root, the directory you pass to --load. For a
    root, ckptmigrate uses the iteration in latest_checkpointed_iteration.txt. Most commands accept
    several PATHs and glob patterns.

    Data files never change (--optimizer convert adds new ones) and pickles are never executed. PATH
    is not modified unless you pass --in-place or run `undo` or `recover`. Run `ckptmigrate COMMAND
    --help` for details.

    For example, a job of release 0.11 cannot load the root `run`, which release 0.17 wrote:
    "Missing key in checkpoint state_dict: rerun_state_machine_state/shard_0.0_1.1."

    \b
    Examples:
      ckptmigrate inspect run                # which release wrote it?
      ckptmigrate check run --reader 0.11    # why does release 0.11 fail?
      ckptmigrate downgrade run --to 0.11    # write run.0.11, ready for --load
    """
    if context.invoked_subcommand is None:
        output.lines(_START)
        context.exit(2)


_START = (
    Line(f"ckptmigrate {ckptmigrate.__version__}: migrate checkpoints between Megatron "
         "releases by rewriting their metadata", hang=2, style="bold"),
    Line("show which release wrote it", "ckptmigrate inspect PATH                ", 2),
    Line("predict whether 0.13 can resume from it", "ckptmigrate check PATH --reader 0.13    ", 2),
    Line("write PATH.0.13 for release 0.13", "ckptmigrate downgrade PATH --to 0.13    ", 2),
    Line("explain a load error", "ckptmigrate explain 'Missing key ...'   ", 2),
    Line("All commands: ckptmigrate --help. Details: ckptmigrate COMMAND --help", hang=2),
)  # fmt: skip


def main() -> None:
    """Run the command line of this process, the entry point of the program.

    The exit status of a command becomes that of the process. An error is printed as one sentence.
    """
    streams.take_over()
    progress.on_wait = console.waiting
    output.reset(color=False if os.environ.get("NO_COLOR") else None)
    # Set before click parses the command line, because parsing can fail.
    output.json = "--json" in itertools.takewhile(lambda word: word != "--", sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _stop)  # rolls back unfinished work, as Ctrl-C does
    try:
        status = cli.main(prog_name=PROGRAM, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.Abort as error:
        kept = "".join(f"; {each}" for each in getattr(error.__cause__, "args", ()))
        _fail(CkptMigrateError(f"interrupted; unfinished work was rolled back{kept}"), 130)
    except click.ClickException as error:
        if output.json:
            wrong = CkptMigrateError(error.format_message())
            output.object({"error": {**wrong.as_json(), "kind": type(error).__name__}})
        from ckptmigrate.text.secrets import masked

        shown = io.StringIO()
        error.show(shown)
        click.echo(masked(shown.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except Exception as error:
        _fail(completed(error, cli, sys.argv[1:]), 1)
    else:
        sys.exit(status if isinstance(status, int) else 0)


def _stop(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _fail(error: CkptMigrateError, status: int) -> NoReturn:
    if output.verbose:
        from ckptmigrate.text.secrets import masked

        click.echo(masked(traceback.format_exc()), err=True, nl=False)
    if output.json:
        output.object({"error": error.as_json()})
    output.lines([f"ckptmigrate: {error}"], err=True)
    sys.exit(status)
