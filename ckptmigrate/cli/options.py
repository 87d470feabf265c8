"""Arguments and options that several commands share."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import click

from ckptmigrate.cli import completion_values
from ckptmigrate.cli.console import output
from ckptmigrate.cli.help import EVERYTHING
from ckptmigrate.places import Place
from ckptmigrate.storage.urls import place
from ckptmigrate.text.printable import printable

Command = TypeVar("Command", bound=Callable[..., Any])


def _set_output(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and parameter.name == "as_json":
        output.json = True
    elif value and parameter.name == "verbose":
        output.verbose = True
    elif value:
        output.color = False


def _show_all(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        context.meta[EVERYTHING] = True
        click.echo(context.get_help(), color=context.color)
        context.exit()


def output_options(command: Command) -> Command:
    """Add --json, -v, --no-color and --help-all, which every command has."""
    command = click.option(
        "--help-all", is_flag=True, is_eager=True, expose_value=False, callback=_show_all,
        help="Show all options, exit statuses and files.",
    )(command)  # fmt: skip
    for flags, text in (
        (
            ("--no-color", "no_color"),
            "Print without color. Color is also off in a pipe and if NO_COLOR is set.",
        ),
        (
            ("-v", "--verbose", "verbose"),
            "Also print the changes of a migration, and a Python traceback with an error.",
        ),
        (("--json", "as_json"), "Print the result, or the error, as JSON."),
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
    """A release: the tags core_v0.13.0 and v0.13 are converted to 0.13.0 and 0.13."""

    name = "release"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> str:
        tag = re.fullmatch(r"(?:core_)?[vr]?(\d\S*)", value.strip())
        return tag[1] if tag else value


INSTALLED: Final = "installed"  # a release: that of the environment of the job


class SizeType(click.ParamType):  # type: ignore[type-arg]  # as PlaceType
    """A number of bytes, with the binary suffix K, M or G, or none."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> int:
        from ckptmigrate.optimizer.target import SMALLEST_PART  # few commands need it

        match = re.fullmatch(r"(\d{1,15})([KMG]?)(?:i?B)?", str(value), re.ASCII | re.IGNORECASE)
        size = int(match[1]) << 10 * " KMG".index(match[2].upper() or " ") if match else 0
        if size < SMALLEST_PART:
            self.fail(f"{value!r} must be a size such as 512M or 1G.", param, context)
        return size


PLACE: Final = PlaceType()
SIZE: Final = SizeType()
RELEASE: Final = ReleaseType()
path = click.argument("path", type=PLACE, shell_complete=completion_values.directories)
iteration = click.option(
    "--iteration", type=int, metavar="N", shell_complete=completion_values.iterations,
    help="Use iteration N of a root, not the one in latest_checkpointed_iteration.txt.",
)  # fmt: skip
every = click.option(
    "--all",
    "every",
    is_flag=True,
    help="Process every iteration of a root. A failure does not stop the other iterations.",
)
_VERSIONS: Final = (
    click.option(
        "--torch", metavar="V",
        help="PyTorch version of the job. Default: the usual one for the release.",
    ),
    click.option(
        "--python", metavar="V",
        help="Python version of the job. Python 3.13 moved the classes of pathlib. Default: 3.12. "
        "For the path of an interpreter, such as /env/bin/python, its versions of all packages.",
    ),
    click.option(
        "--numpy", metavar="V",
        help="NumPy version of the job. NumPy 2 renamed a module that pickles contain. Default: "
        "not known.",
    ),
)  # fmt: skip


def versions(release: str) -> Callable[[Command], Command]:
    """Add --torch, passed as `torch`, and --python and --numpy, passed as `environment`.

    The versions that the command line does not state are those of an environment, if `release` is
    `installed` or --python is the path of an interpreter.

    Args:
        release: the name of the parameter with the release of the job.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def packed(*, python: str | None, numpy: str | None, **values: Any) -> Any:
            from ckptmigrate.releases.environment import environment

            python, numpy = _installed(release, python, numpy, values)
            return command(environment=environment(python, numpy), **values)

        return _with(packed, _VERSIONS)  # type: ignore[no-any-return]

    return decorate


def _installed(
    release: str, python: str | None, numpy: str | None, values: dict[str, Any]
) -> tuple[str | None, str | None]:
    """Return the Python and NumPy versions, and set the others in `values`."""
    is_path = python is not None and os.sep in python
    if values[release] != INSTALLED and not is_path:
        return python, numpy
    from ckptmigrate.releases.installation import installation

    found = installation(python if is_path else None)
    output.lines([printable(str(found))], err=True)
    stated = click.get_current_context().get_parameter_source(release)
    if values[release] == INSTALLED or stated is not click.core.ParameterSource.COMMANDLINE:
        values[release] = found.release
    for name in ("torch", "transformer_engine"):
        if name in values and values[name] is None:
            values[name] = getattr(found, name)
    return found.python if is_path or python is None else python, numpy or found.numpy


def link(command: Command) -> Command:
    """Add --link, passed as a Link."""
    from ckptmigrate.writing.links import Link  # most commands do not need it

    @functools.wraps(command)
    def packed(*, link: str, **values: Any) -> Any:
        return command(link=Link(link), **values)

    option = click.option(
        "--link", type=click.Choice([each.value for each in Link]), metavar="METHOD",
        default=Link.AUTO.value, show_default=True,
        help="How to create data files in DEST: reflink, hardlink, symlink, copy, or auto, the "
        "first of reflink, hardlink and copy that works.",
    )  # fmt: skip
    return _with(packed, [option])  # type: ignore[no-any-return]


# Field of Given -> the option that states it, and its name in --help.
_SIZES: Final = {
    "world": ("world_size", "World size"),
    "tensor": ("tensor_parallel", "Tensor parallel size"),
    "pipeline": ("pipeline_parallel", "Pipeline parallel size"),
}


def parallelism(*fields: str) -> Callable[[Command], Command]:
    """Add an option for each of these fields of Given, passed together as `given`."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def packed(**values: Any) -> Any:
            from ckptmigrate.checkpoint.topology import Given

            given = Given(**{field: values.pop(_SIZES[field][0]) for field in fields})
            return command(given=given, **values)

        return _with(packed, map(_size, fields))  # type: ignore[no-any-return]

    return decorate


def _size(field: str) -> Callable[[Command], Command]:
    option, name = _SIZES[field]
    return click.option(
        f"--{option.replace('_', '-')}", type=click.IntRange(min=1), metavar="N",
        help=f"{name} of the job that wrote the checkpoint, if the checkpoint does not contain it.",
    )  # fmt: skip


def job_size(flag: str, name: str, text: str) -> Callable[[Command], Command]:
    """Return an option for a parallel size of the job, passed as `name`."""
    return click.option(
        flag, name, type=click.IntRange(min=1), metavar="N", help=f"{text} of the job."
    )


def _with(command: Any, options: Iterable[Callable[[Any], Any]]) -> Any:
    for option in reversed(list(options)):
        command = option(command)
    return command


strict = click.option(
    "--strict", is_flag=True, help="The job uses --dist-ckpt-strictness raise_all."
)
transformer_engine = click.option(
    "--transformer-engine", metavar="V",
    help="Transformer Engine version of the job, or none. It decides which _extra_state the job "
    "requests. Default: not known.",
)  # fmt: skip
full = click.option("--full", is_flag=True, help="Print long lists in full.")


def check_choice(iteration: int | None, *, every: bool) -> None:
    if every and iteration is not None:
        raise click.UsageError("--all and --iteration cannot be combined.")


known = click.option(
    "--known", multiple=True, metavar="GLOBAL",
    help="Trust this class or function in pickles, for example nemo.core.Config. Repeat for more.",
)  # fmt: skip
hashed = click.option(
    "--hash",
    "hashed",
    is_flag=True,
    help="Also hash all data files and compare the hashes with integrity.json.",
)
