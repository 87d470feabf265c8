"""Commands that a user can paste into a shell, with every word quoted."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ckptmigrate.places import Place
from ckptmigrate.text.printable import printable

PROGRAM: Final = "ckptmigrate"
# Options for a Python that imports nothing from the current directory, which may be a checkpoint.
# Python 3.10 has no -P; its -I also ignores PYTHONPATH and user site-packages.
_PYTHON: Final = (sys.executable, "-P" if sys.version_info >= (3, 11) else "-I")

# A word that needs no quotes. It does not start with `=` or `%`: zsh expands `=x`, fish `%self`.
_PLAIN: Final = re.compile(r"[\w@+:,./-][\w@+:,./=%-]*", re.ASCII)
_COMMAND_OR_PATH: Final = re.compile(r"`([^`]*)`|{path}")


def command(*words: str | Place, stdin: str | Place | None = None) -> str:
    """Return a ckptmigrate command line, for example for `command("inspect", path)`."""
    return shell(PROGRAM, *words, stdin=stdin)


def job_options(options: Sequence[str], root: Place, save: Place) -> str | None:
    """Return the options with which a job loads a root; None if no job can load from that store.

    Megatron loads local paths and multi-storage-client (msc) URLs only.

    Args:
        options: words in which `{root}` and `{save}` stand for the paths.
    """
    if not options or not (isinstance(root, Path) or root.protocol == "msc"):
        return None
    paths = {"{root}": str(root), "{save}": str(save)}
    filled = options
    for name, path in paths.items():
        filled = [word.replace(name, path) for word in filled]
    return shell(*filled)


def removal(place: Place, *options: str) -> str:
    """Return a command that removes a file or, with `-r`, a directory; for a URL, recursively."""
    if isinstance(place, Path):
        return shell("rm", *options, place)
    return _fsspec("fs.rm(p, True)", place)


def copy(source: Place, target: Place) -> str:
    """Return a command that copies a file; both paths are local, or both are in one store."""
    if isinstance(source, Path):
        return shell("cp", source, target)
    return _fsspec("fs.cp_file(*p)", source, target)


def install(*packages: str) -> str:
    """Return a command that installs packages into the environment of this program."""
    return shell(*_PYTHON, "-m", "pip", "install", *packages)


def _fsspec(does: str, *urls: Place) -> str:
    """Return a Python command that uses fsspec, with the endpoint and profile of ckptmigrate."""
    code = f"import fsspec,sys; fs,_,p=fsspec.core.get_fs_token_paths(sys.argv[1:]); {does}"
    return shell(*_PYTHON, "-c", code, *urls)


def shell(*words: str | Place, stdin: str | Place | None = None) -> str:
    """Return a command that bash, zsh, fish and dash split into these words.

    No quoting of an unprintable name works in all of these shells. For such a name the result is a
    shell comment, with a glob in place of the name.

    Args:
        stdin: a file that the command reads.
    """
    given = [*map(str, words), *(() if stdin is None else (str(stdin),))]
    quoted = [_quoted(word) if word.isprintable() else _glob(word) for word in given]
    if stdin is not None:
        quoted.insert(-1, "<")
    line = " ".join(quoted)
    if all(word.isprintable() for word in given):
        return line
    names = " ".join(_quoted(printable(word)) for word in given if not word.isprintable())
    return f"# {names} is not printable: check what the glob matches, then run {line}"


def filled(text: str, path: str | Place) -> str:
    """Return a text with `{path}` filled in and each command in backticks quoted by `shell`.

    Args:
        text: `{path}` stands for the path; spaces separate the words of a command.
    """

    def made(found: re.Match[str]) -> str:
        if found[1] is None:
            return shell(path)
        return f"`{shell(*(word.replace('{path}', str(path)) for word in found[1].split()))}`"

    return _COMMAND_OR_PATH.sub(made, text)


def _quoted(word: str) -> str:
    """Return a printable word in quotes.

    In fish a backslash escapes a quote or a backslash, also between single quotes.
    """
    if _PLAIN.fullmatch(word):
        return word
    inside = re.sub(r"'|\\(?=['\\]|\Z)", r"'\\\g<0>'", word)
    return f"'{inside}'"


def _glob(word: str) -> str:
    """Return a glob that matches the word, with `*` for each run of unprintable characters."""
    runs = itertools.groupby(word, str.isprintable)
    return "".join(_quoted("".join(run)) if printable else "*" for printable, run in runs)
