"""The command line. It parses, calls the library, and turns values and errors into words."""

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
from ckptmigrate.access import storage
from ckptmigrate.cli import console, options, streams
from ckptmigrate.cli.console import output
from ckptmigrate.cli.failures import told
from ckptmigrate.cli.manual import MIGRATED, ManualGroup
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.text.commands import PROGRAM
from ckptmigrate.text.lines import Line

# The verbs in the order of --help, and the module of each; see ManualGroup.
_VERBS: Final = {
    "Look": {
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
    "Mend": {
        "repair": "ckptmigrate.cli.repair",
        "recover": "ckptmigrate.cli.recover",
    },
    "Know": {
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
    """Inspect and migrate Megatron-Core torch_dist checkpoints, metadata only.

    PATH is a checkpoint directory or a root; a root means the iteration that its tracker file
    names. Most verbs take several, and globs. Tensors are never rewritten, pickles never executed,
    the source never changed unless --in-place asks for it. `ckptmigrate VERB --help` tells all
    about a verb.

    \b
    Examples:
      ckptmigrate inspect run
      ckptmigrate check run --reader 0.13
      ckptmigrate downgrade run --to 0.13
    """
    if context.invoked_subcommand is None:
        output.lines(_START)
        context.exit(2)


_START = (
    Line(f"ckptmigrate {ckptmigrate.__version__}: a checkpoint of one Megatron-Core release, made "
         "readable by another; only metadata is rewritten", hang=2, style="bold"),
    Line("what is it?", "ckptmigrate inspect PATH                ", 2),
    Line("does release 0.13 resume from it?", "ckptmigrate check PATH --reader 0.13    ", 2),
    Line("have it resume, from PATH.0.13", "ckptmigrate downgrade PATH --to 0.13    ", 2),
    Line("what does that error mean?", "ckptmigrate explain 'Missing key ...'   ", 2),
    Line("every verb: ckptmigrate --help; all about one: ckptmigrate VERB --help", hang=2),
)  # fmt: skip


def main() -> None:
    """The entry point: run a verb, and turn errors into one sentence and an exit status."""
    streams.take_over()
    storage.on_wait = console.waiting
    output.reset(color=False if os.environ.get("NO_COLOR") else None)
    # Known before the command line is understood, as it may not be.
    output.json = "--json" in itertools.takewhile(lambda word: word != "--", sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _stop)  # what is under way is taken back, as for Ctrl-C
    try:
        status = cli.main(prog_name=PROGRAM, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.exceptions.Abort:
        _fail(CkptMigrateError("interrupted; what was incomplete was undone"), 130)
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
        _fail(told(error, cli, sys.argv[1:]), 1)
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
