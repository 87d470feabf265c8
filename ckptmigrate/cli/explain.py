"""The verb `explain`: say what a word or an error means, or find the errors of a log."""

from __future__ import annotations

import sys

import click

from ckptmigrate.access.places import Place
from ckptmigrate.cli import completing, options, render
from ckptmigrate.cli.console import output
from ckptmigrate.cli.manual import Manual

_STDIN = "-"


@click.command(cls=Manual, found="nothing is known of WORD, or the log has no known error")
@click.argument("word", type=options.RELEASE, required=False, shell_complete=completing.explainable)
@click.option(
    "--checkpoint",
    type=options.PLACE,
    metavar="PATH",
    shell_complete=completing.directories,
    help="The checkpoint or root that the job loads: look at it to decide between causes.",
)
@options.output_options
def explain(word: str | None, checkpoint: Place | None) -> None:
    """Explain a load error, a log, or a word such as a problem code or a layout.

    WORD is the text of an error as the log of a job has it, `-` to read a whole log from standard
    input, a problem code of verify, a layout, a release, a name of --allow-loss, or the name of a
    load error. Without it, list everything that can be explained.

    A log may be of many ranks: prefixes of launchers, colours and tracebacks are understood. An
    error that is not known is not explained.

    \b
    Examples:
      ckptmigrate explain "'str' object has no attribute 'iterdir'"
      ckptmigrate explain - < job.log
      ckptmigrate explain --checkpoint run - < job.log
      ckptmigrate explain rerun-shards-missing
      ckptmigrate explain 0.13
    """
    from ckptmigrate import explaining

    if word is None:
        if checkpoint is not None:
            raise click.UsageError("--checkpoint goes with an error or with a log (-).")
        words = explaining.words()
        if output.json:
            output.object({kind: list(of) for kind, of in words.items()})
        else:
            output.lines(render.explainable(words))
        return
    if word == _STDIN:
        _explain_log(checkpoint)
        return
    from ckptmigrate.logs.seen import Seen

    seen = None if checkpoint is None else Seen(checkpoint)
    found = explaining.explain(word, seen)
    if output.json:
        output.object([each.as_json() for each in found])
    elif len(found) > 1 and all(each.answer and not each.answer.found for each in found):
        from ckptmigrate.cli import error_text

        output.lines(error_text.parts(found))
    else:
        output.lines(line for each in found for line in render.explanation(each))


def _explain_log(checkpoint: Place | None) -> None:
    from ckptmigrate import explaining
    from ckptmigrate.cli import error_text
    from ckptmigrate.logs import answering

    if sys.stdin is None:
        raise click.UsageError("standard input is closed, and `-` reads a log from it.")
    answer = answering.of_log(sys.stdin.buffer, checkpoint)
    found = explaining.explain_log(answer)
    if output.json:
        output.object(
            {
                "explained": bool(found),
                "checkpoint": None if answer.checkpoint is None else str(answer.checkpoint),
                "lines": answer.log.lines,
                "whole": answer.log.whole,
                "ranks": len(answer.log.ranks),
                "errors": [each.as_json() for each in found],
                "unexplained": [{"line": n, "text": text} for n, text in answer.log.others],
            }
        )
    else:
        output.lines(error_text.log(answer, found))
    if not found:
        raise SystemExit(1)
