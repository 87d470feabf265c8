"""The command `diff`: list the differences between two checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

import ckptmigrate
from ckptmigrate.checkpoint.differences import Difference
from ckptmigrate.cli import completion_values, options
from ckptmigrate.cli.console import output
from ckptmigrate.cli.help import Manual
from ckptmigrate.places import Place
from ckptmigrate.report.terminal import change, cut
from ckptmigrate.text.lines import Line
from ckptmigrate.text.printable import counted

_ARGS: Final = "common args."  # the arguments of the job, which are many


@click.command(cls=Manual, found="error, or the checkpoints differ")
@click.argument("a", type=options.PLACE, shell_complete=completion_values.directories)
@click.argument("b", type=options.PLACE, shell_complete=completion_values.directories)
@options.iteration
@click.option(
    "--values",
    is_flag=True,
    help="Compare every element of distributed optimizers, by parameter and state.",
)
@options.full
@options.output_options
def diff(a: Place, b: Place, iteration: int | None, values: bool, full: bool) -> None:
    """List the differences from checkpoint A to checkpoint B.

    Compares the common state, the keys and attributes of .metadata, the save plans, metadata.json
    and the bytes of tensors and objects. Distributed optimizers of different sharding types are
    compared by parameter and state.

    \b
    Examples:
      ckptmigrate diff run run.pre-rerun
      ckptmigrate diff run run.0.13.1 --values
      ckptmigrate diff run other --iteration 5 --full
    """
    found = ckptmigrate.diff(a, b, iteration=iteration, values=values)
    if output.json:
        output.object(
            {"equal": not found, "differences": [difference.as_json() for difference in found]}
        )
    else:
        output.lines(lines(found, full=full))
    if found:
        raise SystemExit(1)


def lines(found: Sequence[Difference], *, full: bool = False) -> list[Line]:
    """Return the lines of a list of differences."""
    if not found:
        return [Line("no difference", style="bold")]
    args = [] if full else [each for each in found if f"{each.part} {each.name}".startswith(_ARGS)]
    changes = [change(str(each), margin=0) for each in found if each not in args]
    if args:
        changes.append(
            change(f"~ {_ARGS}*: {counted(len(args), 'difference')} (--full lists them)", margin=0)
        )
    answer = Line(counted(len(found), "difference"), style="bold")
    return [answer, *cut(changes, full=full, margin=0)]
