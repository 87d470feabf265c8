"""Blocks of docs/commands.md, made from the click commands: every command, argument and option."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import click

from ckptmigrate.cli import cli
from ckptmigrate.cli.help import ARGUMENTS, EXITS, MIGRATED, SECTIONS, Manual, ManualGroup

# An option that so many commands have, with the same text, is described once.
_SHARED_BY: Final = 3


def verbs(context: click.Context | None = None) -> Iterator[click.Context]:
    """Every command, each in its context, in the order of `--help`; the program itself first."""
    context = context or click.Context(cli, info_name="ckptmigrate", **cli.context_settings)
    yield context
    if isinstance(context.command, ManualGroup):
        for name, below in context.command.verbs(context):
            yield from verbs(click.Context(below, info_name=name, parent=context))


def commands() -> dict[str, click.Command]:
    """Every command by the words that follow `ckptmigrate`; the program itself by none."""
    return {context.command_path.partition(" ")[2]: context.command for context in verbs()}


def shared() -> list[tuple[str, str]]:
    """Return the rows of options that are described once: flags, text."""
    rows = Counter(
        row for context in verbs() for group in _grouped(context).values() for row in group
    )
    return [row for row, count in rows.items() if count >= _SHARED_BY]


def shared_options() -> str:
    """Return the table of the options that are described once."""
    return _joined(_table("Option", shared()))


def exits() -> str:
    """Return the table of exit statuses."""
    return _joined(_table("Status", ((f"`{status}`", text) for status, text in EXITS.items())))


def files() -> str:
    """Return the table of the files that commands read and write."""
    return _joined(_table("File", ((f"`{n}`", _plain(text)) for n, text in MIGRATED.items())))


def command(words: str) -> str:
    """Return usage, help and options of a command; `ckptmigrate` is the program itself."""
    [context] = [
        context
        for context in verbs()
        if (context.command_path.partition(" ")[2] or "ckptmigrate") == words
    ]
    return _joined(_section(context, shared()))


def _joined(lines: Iterable[str]) -> str:
    return "\n".join(lines).strip("\n")


def _section(context: click.Context, once: list[tuple[str, str]]) -> Iterator[str]:
    command, words = context.command, context.command_path.split()
    assert isinstance(command, Manual)
    usage = " ".join([*words, *filter(None, command.collect_usage_pieces(context))])
    yield f"```text\n{usage}\n```\n"
    yield from _help(command.help or "")
    rows = [row for grouped in _grouped(context).values() for row in grouped]
    own = [row for row in rows if row not in once]
    if own:
        yield from _table("Option", own)
    names = (re.findall(r"`([^ `]+)", flags)[-1] for flags, text in rows if (flags, text) in once)
    yield f"[Shared options](#shared-options): {', '.join(f'`{name}`' for name in names)}.\n"
    if command.found:
        yield f"Exit status 1: {_plain(command.found)}.\n"


def _grouped(context: click.Context) -> Mapping[str, list[tuple[str, str]]]:
    """Return flags and text of the arguments and options of a command, by group."""
    assert isinstance(context.command, Manual)
    parameters = context.command.named(context)
    return {
        group: [
            _row(name, parameters[name], context)
            for name in names
            if name in parameters
            and (name in ARGUMENTS or isinstance(parameters[name], click.Option))
        ]
        for group, names in SECTIONS.items()
    }


def _row(name: str, parameter: click.Parameter, context: click.Context) -> tuple[str, str]:
    if not isinstance(parameter, click.Option):
        flags, text = ARGUMENTS[name]
        return f"`{flags}`", _plain(text)
    names = [f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts)]
    if not (parameter.is_flag or parameter.count):
        names[-1] = f"{names[-1][:-1]} {parameter.make_metavar(context)}`"
    # The default and the range, too, as --help prints them.
    record = parameter.get_help_record(context)
    return ", ".join(names), _plain(" ".join((record[1] if record else "").split()))


def _table(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f"| {title} | |\n|---|---|"
    for name, text in rows:
        yield f"| {name} | {text} |"
    yield ""


def _help(text: str) -> Iterator[str]:
    """The help in paragraphs; those that click does not wrap as text blocks."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            kept = paragraph.removeprefix("\b").strip("\n")
            yield f"```text\n{kept}\n```\n"
        else:
            yield f"{_plain(' '.join(paragraph.split()))}\n"


def _plain(text: str) -> str:
    """Return text in which Markdown sees no markup but code between backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([*_|])", r"\\\1", part.replace("<", "&lt;"))
        for part in parts
    )
