"""The command line. It parses, calls the library, and turns values and errors into words."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import NoReturn

import click

import ckptmigrate
from ckptmigrate.cli import options
from ckptmigrate.cli.check import check
from ckptmigrate.cli.console import output
from ckptmigrate.cli.diff import diff
from ckptmigrate.cli.inspect import inspect
from ckptmigrate.cli.layouts import layouts
from ckptmigrate.cli.matrix import matrix
from ckptmigrate.cli.migrate import downgrade, upgrade
from ckptmigrate.cli.recover import recover
from ckptmigrate.cli.repair import repair
from ckptmigrate.cli.undo import undo
from ckptmigrate.cli.verify import verify
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.printable import printable


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(ckptmigrate.__version__, prog_name="ckptmigrate")
@options.output_options
def cli() -> None:
    """Inspect and migrate Megatron-Core torch_dist checkpoints, metadata only.

    PATH is a checkpoint directory or a root; a root means the iteration that its tracker file
    names. Most verbs take several, and globs. Tensors are never rewritten, pickles never executed,
    the source never changed unless --in-place asks for it. Exit status: 0 done, 1 refused or found
    wanting, 2 usage.
    """


_VERBS = (inspect, check, upgrade, downgrade, undo, diff, verify, repair, recover, layouts, matrix)
for _verb in _VERBS:
    cli.add_command(_verb)


def main() -> None:
    """The entry point: run a verb, and turn errors into one sentence and an exit status."""
    output.reset(color=False if os.environ.get("NO_COLOR") else None)
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
    if output.verbose:
        traceback.print_exc()
    if output.json:
        told = error if isinstance(error, CkptMigrateError) else CkptMigrateError(error)
        output.object({"error": told.as_json()})
    click.echo(f"ckptmigrate: {printable(str(error))}", err=True)
    sys.exit(status)
