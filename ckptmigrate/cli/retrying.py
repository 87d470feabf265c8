"""The command line that was refused, changed so that it works."""

from __future__ import annotations

import click

from ckptmigrate.access.places import Place, absolute, place
from ckptmigrate.errors import CkptMigrateError, Retry
from ckptmigrate.text.commands import command


def with_command(error: CkptMigrateError, group: click.Group, words: list[str]) -> None:
    """Have the fix of an error end with the command that works, where the error tells of one.

    Args:
        words: the command line that was refused, after the name of the program.
    """
    # Options of the program itself, such as --json, may stand before the verb.
    name = next((word for word in words if not word.startswith("-")), "")
    verb = group.get_command(click.Context(group), name)
    if error.retry is None or verb is None:
        return
    again = command(*changed(words, error.retry, verb, error.path))
    error.fix, error.retry = f"{error.fix}: `{again}`", None


def changed(
    words: list[str], retry: Retry, verb: click.Command, about: Place | str | None
) -> list[str]:
    """The words of a command line with what Retry says.

    Args:
        verb: the command, for which of its options have values.
        about: the path that `retry.path` is named instead of.
    """
    options = {
        name: parameter
        for parameter in verb.params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    added = options.get(retry.add[0]) if retry.add else None
    # By now the report of the refusal is where --report says, and none is ever overwritten.
    gone = {options[name] for name in (*retry.leave_out, "--report") if name in options}
    if added is not None and not added.multiple:
        gone.add(added)
    kept: list[str] = []
    end = words.index("--") if "--" in words else len(words)  # behind it there are no options
    rest = iter(words[:end])
    for word in rest:
        option = options.get(word.partition("=")[0])
        if option is None or option not in gone:
            kept.append(_path(word, retry, about))
        elif not option.is_flag and "=" not in word:
            next(rest, None)  # its value goes with it
    return [*kept, *retry.add, *(_path(word, retry, about) for word in words[end:])]


def _path(word: str, retry: Retry, about: Place | str | None) -> str:
    if retry.path is None or about is None or "://" in word:
        return word
    return str(retry.path) if absolute(place(word)) == absolute(place(about)) else word
