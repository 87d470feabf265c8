"""The command `layouts`: list the layouts."""

from __future__ import annotations

import click

from ckptmigrate.cli import options
from ckptmigrate.cli.console import output
from ckptmigrate.cli.help import Manual
from ckptmigrate.text.lines import Line


@click.command(cls=Manual)
@options.output_options
def layouts() -> None:
    """List the layouts and the releases that write them.

    A layout is how a range of releases stores the common state (common.pt) and the rerun state (of
    the RerunStateMachine). Loading can fail if a release finds a layout that it does not expect.

    Run `ckptmigrate inspect PATH` for the layout of a checkpoint, and `ckptmigrate explain LAYOUT`
    for details on a layout.

    \b
    Examples:
      ckptmigrate layouts
      ckptmigrate layouts --json
    """
    from ckptmigrate.releases.facts import compat
    from ckptmigrate.verbs.layouts import releases

    facts = compat()
    rows = facts.layouts
    if output.json:
        keys = ("layout", "releases", "summary", "source")
        output.object([{key: getattr(row, key) for key in keys} for row in rows])
        return
    output.lines([Line("rerun state and common state", _head("layout", "releases"), style="bold")])
    output.lines(Line(row.summary, _head(row.layout, releases(row, facts))) for row in rows)
    output.lines([Line("run `ckptmigrate inspect PATH` for the layout of a checkpoint", "hint: ")])


def _head(layout: str, written_by: str) -> str:
    return f"{layout:17}{written_by:16}"
