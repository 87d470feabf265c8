"""Commands to print for a user to paste: every word quoted as a shell needs it."""

from __future__ import annotations

import shlex

from ckptmigrate.places import Place


def command(*words: str | Place) -> str:
    """A command of ckptmigrate, without its first word: `command("inspect", path)`."""
    return shell("ckptmigrate", *words)


def shell(*words: str | Place) -> str:
    """Any command."""
    return shlex.join(map(str, words))
