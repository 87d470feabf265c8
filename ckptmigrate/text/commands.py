"""Commands to print for a user to paste: every word quoted as a shell needs it."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import Final

from ckptmigrate.access.places import Place
from ckptmigrate.text.printable import printable

PROGRAM: Final = "ckptmigrate"
# Python that imports nothing from the current directory, which may be a checkpoint; 3.10 can do so
# only without what PYTHONPATH and the user's own packages add.
_PYTHON: Final = (sys.executable, "-P" if sys.version_info >= (3, 11) else "-I")

# A word that needs no quotes: zsh expands `=x`, fish `%self`.
_PLAIN: Final = re.compile(r"[\w@+:,./-][\w@+:,./=%-]*", re.ASCII)
_COMMAND_OR_PATH: Final = re.compile(r"`([^`]*)`|{path}")


def command(*words: str | Place, stdin: str | Place | None = None) -> str:
    """A command of ckptmigrate, without its first word: `command("inspect", path)`."""
    return shell(PROGRAM, *words, stdin=stdin)


def load(root: Place) -> str | None:
    """The flag of a job that resumes from a root; None where no job reads such a place.

    Megatron reads local paths and multi-storage-client; other stores are for its callers.
    """
    return shell("--load", root) if isinstance(root, Path) or root.protocol == "msc" else None


def removal(place: Place, *options: str) -> str:
    """A command that removes a file or, with `-r`, a directory; of a URL, all that is below."""
    if isinstance(place, Path):
        return shell("rm", *options, place)
    return _fsspec("fs.rm(p, True)", place)


def copy(source: Place, target: Place) -> str:
    """A command that copies a file over another of the same kind of place."""
    if isinstance(source, Path):
        return shell("cp", source, target)
    return _fsspec("fs.cp_file(*p)", source, target)


def install(*packages: str) -> str:
    """A command that installs packages where this program would find them."""
    return shell(*_PYTHON, "-m", "pip", "install", *packages)


def _fsspec(does: str, *urls: Place) -> str:
    """What works wherever ckptmigrate reaches the store, with the same endpoint and profile."""
    code = f"import fsspec,sys; fs,_,p=fsspec.core.get_fs_token_paths(sys.argv[1:]); {does}"
    return shell(*_PYTHON, "-c", code, *urls)


def shell(*words: str | Place, stdin: str | Place | None = None) -> str:
    """Return a command that bash, zsh, fish and dash take for these words.

    No text that all of them read can be printed for a name that is not printable: then it is a
    comment, with a glob for each such name.

    Args:
        stdin: a file that the command reads.
    """
    given = [*map(str, words), *(() if stdin is None else (str(stdin),))]
    quoted = [_quoted(word) if word.isprintable() else _glob(word) for word in given]
    if stdin is not None:
        quoted.insert(-1, "<")
    told = " ".join(quoted)
    if all(word.isprintable() for word in given):
        return told
    names = " ".join(_quoted(printable(word)) for word in given if not word.isprintable())
    return f"# {names} cannot be typed: see what the glob matches, then run {told}"


def filled(text: str, path: str | Place) -> str:
    """Return a text about a path, each command in backticks as `shell` has it.

    Args:
        text: `{path}` in it stands for the path; a space is what separates the words of a command.
    """

    def made(found: re.Match[str]) -> str:
        if found[1] is None:
            return shell(path)
        return f"`{shell(*(word.replace('{path}', str(path)) for word in found[1].split()))}`"

    return _COMMAND_OR_PATH.sub(made, text)


def _quoted(word: str) -> str:
    """A printable word. In fish a backslash escapes a quote or a backslash, also between quotes."""
    if _PLAIN.fullmatch(word):
        return word
    inside = re.sub(r"'|\\(?=['\\]|\Z)", r"'\\\g<0>'", word)
    return f"'{inside}'"


def _glob(word: str) -> str:
    """What a shell replaces by every name that is this word but for what cannot be printed."""
    runs = itertools.groupby(word, str.isprintable)
    return "".join(_quoted("".join(run)) if printable else "*" for printable, run in runs)
