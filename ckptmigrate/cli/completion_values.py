"""Values for shell completion: layouts, releases, topics of `explain`, iterations of a root."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
from click.shell_completion import CompletionItem

_INSTALLED: Final = {"installed": "the release of the environment of the job"}


def _items(words: dict[str, str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(w, help=text) for w, text in words.items() if w.startswith(incomplete)]


def directories(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete directories: checkpoints, roots and destinations."""
    return [CompletionItem(incomplete, type="dir")]


def releases(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the known releases, with the layout that each writes."""
    return _items(_releases(), incomplete)


def job_releases(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the releases of a job: `installed`, and those of `releases`."""
    return _items(_INSTALLED | _releases(), incomplete)


def targets(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the values of --to: layouts, `universal` and releases."""
    from ckptmigrate import versions
    from ckptmigrate.releases.facts import compat

    layouts = {row.layout: row.summary for row in compat().layouts}
    every = {versions.UNIVERSAL: "every release from 0.9 on can load it"}
    return _items(layouts | every | _INSTALLED | _releases(), incomplete)


def scenarios(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the scenarios of the matrix."""
    from ckptmigrate.compat.cells import matrix

    return _items({row.scenario: row.summary for row in matrix().scenarios}, incomplete)


def explainable(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the topics of `explain`."""
    from ckptmigrate.verbs import explain

    words = {word: kind for kind, of in explain.words().items() for word in of}
    return _items(words, incomplete)


def iterations(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the iterations of the root on the command line, newest first."""
    from ckptmigrate.checkpoint import root_reading

    # While --iteration has no value, click has not assigned the earlier words to parameters.
    typed = context.params.get("path") or context.params.get("a") or next(iter(context.args), None)
    root = Path(typed or ".").expanduser()
    found = root_reading.find(root) if root.is_dir() else None
    if found is None:
        return []
    numbers = map(str, reversed(found.numbers))
    return [CompletionItem(number) for number in numbers if number.startswith(incomplete)]


def _releases() -> dict[str, str]:
    from ckptmigrate.releases.facts import compat
    from ckptmigrate.releases.readers import readers

    return {each.release: f"writes {each.layout}" for each in readers(compat())}
