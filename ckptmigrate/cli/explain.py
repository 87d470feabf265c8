"""The verb `explain`: say what a word means."""

from __future__ import annotations

import click

from ckptmigrate.cli import completing, options, render
from ckptmigrate.cli.console import output
from ckptmigrate.cli.manual import Manual


@click.command(cls=Manual)
@click.argument("word", type=options.RELEASE, required=False, shell_complete=completing.explainable)
@options.output_options
def explain(word: str | None) -> None:
    """Say what a finding, a layout, a release, a loss or an error is, and what to do.

    WORD is a code of verify, a layout, a release, a name of --allow-loss, a failure of the matrix,
    or the text of an error that a job died with, as it stands in the log. Without it, everything
    that can be explained.

    \b
    Examples:
      ckptmigrate explain
      ckptmigrate explain split-rerun
      ckptmigrate explain 0.13
      ckptmigrate explain rerun-shards-missing
      ckptmigrate explain "'str' object has no attribute 'iterdir'"
    """
    from ckptmigrate import explaining

    if word is None:
        words = explaining.words()
        if output.json:
            output.object({kind: list(of) for kind, of in words.items()})
        else:
            output.lines(render.explainable(words))
        return
    found = explaining.explain(word)
    if output.json:
        output.object([each.as_json() for each in found])
    else:
        output.lines(line for each in found for line in render.explanation(each))
