"""docs/cli.md, made from the click commands themselves: every verb, argument and option."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from ckptmigrate.cli import cli
from ckptmigrate.cli.manual import ManualGroup

PAGE: Final = Path(__file__).parent.parent / "docs" / "cli.md"
_HEAD: Final = """\
# Command line

<!-- Made by `make examples` from the commands themselves: do not edit. -->

What `ckptmigrate VERB --help` says. [The verbs](verbs.md) shows each at work,
[JSON](json.md) lists the keys behind `--json`.
"""


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


def reference() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(line for context in verbs() for line in _section(context))])


def _section(context: click.Context) -> Iterator[str]:
    command, words = context.command, context.command_path.split()
    yield f"{'###' if len(words) > 2 else '##'} {' '.join(words[1:]) or words[0]}\n"
    usage = " ".join([*words, *command.collect_usage_pieces(context)])
    yield f"```text\n{usage}\n```\n"
    yield from _help(command.help or "")
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield _option(parameter, context)
    yield ""


def _help(text: str) -> Iterator[str]:
    """The help in paragraphs; those that click keeps as they are, and commands, as text blocks."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            kept = paragraph.removeprefix("\b").strip("\n")
            yield f"```text\n{kept}\n```\n"
        elif paragraph.startswith("Example"):
            what, _, command = paragraph.partition(": ")
            yield f"{what}:\n\n```sh\n{' '.join(command.split())}\n```\n"
        else:
            yield f"{_plain(' '.join(paragraph.split()))}\n"


def _option(option: click.Option, context: click.Context) -> str:
    flags = [f"`{flag}`" for flag in (*option.opts, *option.secondary_opts)]
    if not (option.is_flag or option.count):
        flags[-1] = f"{flags[-1][:-1]} {option.make_metavar(context)}`"
    # The default and the range, too, in the words of --help.
    record = option.get_help_record(context)
    text = " ".join((record[1] if record else "").split())
    more = " May be repeated." if option.multiple else ""
    return f"- {', '.join(flags)}: {_plain(text)}{more}"


def _plain(text: str) -> str:
    """Text in which Markdown sees no markup."""
    return text.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def rewrite() -> bool:
    """Write the page; whether that changed it."""
    before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    PAGE.write_text(reference(), encoding="utf-8")
    return before != reference()
