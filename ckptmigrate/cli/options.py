"""Arguments and options that several verbs have."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from ckptmigrate.access.places import Place, place
from ckptmigrate.cli import completing
from ckptmigrate.cli.console import output

Command = TypeVar("Command", bound=Callable[..., Any])


def _set_output(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and parameter.name == "as_json":
        output.json = True
    elif value and parameter.name == "verbose":
        output.verbose = True
    elif value:
        output.color = False


def output_options(command: Command) -> Command:
    """--json, -v and --no-color, which every verb has."""
    for flags, text in (
        (
            ("--no-color", "no_color"),
            "Never colour the output; neither where NO_COLOR is set, nor in a pipe.",
        ),
        (("-v", "--verbose", "verbose"), "Show a traceback with an error, to report it."),
        (("--json", "as_json"), "Print JSON with documented keys instead; errors, too."),
    ):
        command = click.option(
            *flags, is_flag=True, expose_value=False, callback=_set_output, help=text
        )(command)
    return command


class PlaceType(click.ParamType):  # type: ignore[type-arg]  # generic only in click >= 8.4
    """A local path, or the URL of an object store."""

    name = "path"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> Place:
        return place(value)


class ReleaseType(click.ParamType):  # type: ignore[type-arg]  # as PlaceType
    """A release as its tag or a person spells it: core_v0.13.0 and v0.13 are 0.13.0 and 0.13."""

    name = "release"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> str:
        tag = re.fullmatch(r"(?:core_)?[vr]?(\d\S*)", value.strip())
        return tag[1] if tag else value


PLACE: Final = PlaceType()
RELEASE: Final = ReleaseType()
path = click.argument("path", type=PLACE, shell_complete=completing.directories)
iteration = click.option(
    "--iteration", type=int, metavar="N", shell_complete=completing.iterations,
    help="Of a root, this iteration instead of the one that its tracker file names.",
)  # fmt: skip
every = click.option(
    "--all",
    "every",
    is_flag=True,
    help="Of a root, every iteration, not only the one that its tracker file names; a checkpoint "
    "means itself. One that fails stops no other.",
)
python = click.option(
    "--python", metavar="V",
    help="The job's Python: 3.13 moved the classes of paths. Default: 3.12.",
)  # fmt: skip
numpy = click.option(
    "--numpy", metavar="V",
    help="The job's NumPy: 2.0 moved what pickles name. Default: not known.",
)  # fmt: skip
full = click.option("--full", is_flag=True, help="Show long lists whole.")


def check_choice(iteration: int | None, *, every: bool) -> None:
    if every and iteration is not None:
        raise click.UsageError("--all and --iteration exclude each other.")


known = click.option(
    "--known", multiple=True, metavar="SYMBOL",
    help="A symbol in its pickles that you vouch for, such as nemo.core.Config.",
)  # fmt: skip
hashed = click.option(
    "--hash", "hashed", is_flag=True, help="Hash payload files against integrity.json, too."
)
