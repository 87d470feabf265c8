"""Commands to print for a user to paste: every word quoted as a shell needs it."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Final

from ckptmigrate.access.places import Place

PROGRAM: Final = "ckptmigrate"
# Python that imports nothing from the current directory, which may be a checkpoint; 3.10 can do so
# only without what PYTHONPATH and the user's own packages add.
_PYTHON: Final = (sys.executable, "-P" if sys.version_info >= (3, 11) else "-I")


def command(*words: str | Place) -> str:
    """A command of ckptmigrate, without its first word: `command("inspect", path)`."""
    return shell(PROGRAM, *words)


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


def shell(*words: str | Place) -> str:
    """Any command."""
    return " ".join(map(_quoted, map(str, words)))


def _quoted(word: str) -> str:
    """A word as a shell takes it; what cannot be printed as bash, zsh and others write it."""
    if word.isprintable():
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def _escaped(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    if char.isprintable():
        return char
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(char))
