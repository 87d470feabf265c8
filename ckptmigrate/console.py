"""What the verbs share: how to speak, options that many have, a progress bar."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from ckptmigrate.places import Place, place

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass
class Output:
    """How to speak: filled from the options, read by everything that prints."""

    json: bool = False
    verbose: bool = False
    color: bool | None = None  # None: click decides by the terminal

    def reset(self, *, color: bool | None) -> None:
        """Start anew, for another run in the same process."""
        self.json, self.verbose, self.color = False, False, color

    def lines(self, lines: Iterable[str]) -> None:
        for number, line in enumerate(lines):
            click.echo(_styled(line, first=not number), color=self.color)

    def segments(self, lines: Iterable[Sequence[tuple[str, str]]]) -> None:
        """Lines of (text, colour) parts; no colour for an empty name."""
        for line in lines:
            parts = (click.style(text, fg=color) if color else text for text, color in line)
            click.echo("".join(parts), color=self.color)

    def object(self, value: Any) -> None:
        click.echo(json.dumps(value, indent=2))


output = Output()
_SIGNS = {"+": "green", "-": "red", "~": "yellow"}


def _styled(line: str, *, first: bool) -> str:
    if first:
        return click.style(line, bold=True)
    sign = line.lstrip()[:2]
    if sign[1:] == " " and sign[0] in _SIGNS:
        return click.style(line, fg=_SIGNS[sign[0]])
    return line


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
        (("--no-color", "no_color"), "Never colour the output."),
        (("-v", "--verbose", "verbose"), "Show a traceback with an error."),
        (("--json", "as_json"), "Print JSON with documented keys."),
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


PLACE = PlaceType()
path = click.argument("path", type=PLACE)
iteration = click.option("--iteration", type=int, metavar="N", help="Of a root, this iteration.")
every = click.option("--all", "every", is_flag=True, help="Of a root, every iteration.")


def check_choice(iteration: int | None, *, every: bool) -> None:
    if every and iteration is not None:
        raise click.UsageError("--all and --iteration exclude each other.")


@contextlib.contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, once bytes are reported, from whatever thread.

    Args:
        total: how many there will be; None where that is not known.
    """
    bars: list[Any] = []
    lock = threading.Lock()

    def advance(count: int) -> None:
        if output.json or not sys.stderr.isatty():
            return
        with lock:
            if not bars:
                bars.append(_bar(what, total))
        bars[0].advance(bars[0].task_ids[0], count)

    try:
        yield advance
    finally:
        for bar in bars:
            bar.stop()


def _bar(what: str, total: int | None) -> Any:
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn

    bar = Progress(
        *Progress.get_default_columns()[:2],
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, no_color=output.color is False),
    )
    bar.start()
    bar.add_task(what, total=total)
    return bar
