"""How the command line speaks: text or JSON, with colour or without."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_SIGNS = {"+": "green", "-": "red", "~": "yellow"}


@dataclass
class Output:
    """How to speak: filled from the options, read by everything that prints."""

    json: bool = False
    verbose: bool = False
    color: bool | None = None  # None: click decides by the terminal

    def lines(self, lines: Iterable[str]) -> None:
        """Lines of text; the first one is the answer."""
        for number, line in enumerate(lines):
            click.echo(_styled(line, first=not number), color=self.color)

    def segments(self, lines: Iterable[Sequence[tuple[str, str]]]) -> None:
        """Lines of (text, colour) parts; no colour for an empty name."""
        for line in lines:
            parts = (click.style(text, fg=color) if color else text for text, color in line)
            click.echo("".join(parts), color=self.color)

    def object(self, value: Any) -> None:
        """A value as JSON."""
        click.echo(json.dumps(value, indent=2))


output = Output()


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
