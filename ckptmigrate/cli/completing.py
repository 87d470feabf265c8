"""Values for shell completion: layouts, releases, topics of `explain`, iterations of a root."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem


def _items(words: dict[str, str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(w, help=text) for w, text in words.items() if w.startswith(incomplete)]


def directories(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Directories: a checkpoint, a root, or where one is to be."""
    return [CompletionItem(incomplete, type="dir")]


def releases(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The releases that are known as readers, and the layout of each."""
    return _items(_releases(), incomplete)


def targets(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What --to takes: layouts, `universal`, releases."""
    from ckptmigrate import versions
    from ckptmigrate.releases.facts import compat

    layouts = {row.layout: row.summary for row in compat().layouts}
    every = {versions.UNIVERSAL: "every release from 0.9 on can load it"}
    return _items(layouts | every | _releases(), incomplete)


def scenarios(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The scenarios of the matrix."""
    from ckptmigrate.matrix.cells import matrix

    return _items({row.scenario: row.summary for row in matrix().scenarios}, incomplete)


def explainable(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Every word that `explain` takes."""
    from ckptmigrate import explaining

    words = {word: kind for kind, of in explaining.words().items() for word in of}
    return _items(words, incomplete)


def iterations(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The iterations of the root on the line, newest first."""
    from ckptmigrate import locate

    # While --iteration waits for its value, what stands before it is no parameter yet.
    typed = context.params.get("path") or context.params.get("a") or next(iter(context.args), None)
    root = Path(typed or ".").expanduser()
    if not root.is_dir():
        return []
    numbers = map(str, reversed(locate.iterations(root)))
    return [CompletionItem(number) for number in numbers if number.startswith(incomplete)]


def _releases() -> dict[str, str]:
    from ckptmigrate.releases.facts import compat
    from ckptmigrate.releases.readers import readers

    return {each.release: f"writes {each.layout}" for each in readers(compat())}
