"""Correction of a command line that failed, for the fix of an error."""

from __future__ import annotations

import click

from ckptmigrate.errors import CkptMigrateError, Retry, wrapped
from ckptmigrate.places import Place, absolute
from ckptmigrate.storage.urls import place
from ckptmigrate.text.commands import command


def completed(error: Exception, group: click.Group, words: list[str]) -> CkptMigrateError:
    """Return the error to print; its fix ends with the corrected command, if there is one.

    Args:
        group: the command that has all commands as subcommands.
        words: the command line that failed, without the name of the program.
    """
    found = wrapped(error)
    # Options of the program, such as --json, can precede the command.
    name = next((word for word in words if not word.startswith("-")), "")
    verb = group.get_command(click.Context(group), name)
    if found.retry is not None and verb is not None:
        again = command(*changed(words, found.retry, verb, found.path))
        found.fix, found.retry = f"{found.fix}: `{again}`", None
    return found


def changed(
    words: list[str], retry: Retry, verb: click.Command, about: Place | str | None
) -> list[str]:
    """Return the words of a command line, changed as `retry` says.

    Args:
        verb: the command, for the options that have values.
        about: the path to replace with `retry.path`.
    """
    options = {
        name: parameter
        for parameter in verb.params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    added = [option for word in retry.add if (option := options.get(word)) is not None]
    # The failed command wrote the report of --report, and a report is never overwritten.
    gone = {options[name] for name in (*retry.leave_out, "--report") if name in options}
    gone |= {option for option in added if not option.multiple}
    kept: list[str] = []
    end = words.index("--") if "--" in words else len(words)  # only arguments follow
    rest = iter(words[:end])
    for word in rest:
        option = options.get(word.partition("=")[0])
        if option is None or option not in gone:
            kept.append(_path(word, retry, about))
        elif not option.is_flag and "=" not in word:
            next(rest, None)  # drop the value of the option, too
    return [*kept, *retry.add, *(_path(word, retry, about) for word in words[end:])]


def _path(word: str, retry: Retry, about: Place | str | None) -> str:
    if retry.path is None or about is None or "://" in word:
        return word
    return str(retry.path) if absolute(place(word)) == absolute(place(about)) else word
