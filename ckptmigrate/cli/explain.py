"""The command `explain`: explain a topic, a load error or the errors in a job log."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from ckptmigrate.cli import completion_values, console, options
from ckptmigrate.cli.console import output
from ckptmigrate.cli.help import Manual
from ckptmigrate.places import Place
from ckptmigrate.report.terminal import labelled
from ckptmigrate.text.lines import Line

if TYPE_CHECKING:
    from ckptmigrate.verbs.explain import Explanation

_STDIN = "-"


@click.command(cls=Manual, found="unknown TOPIC, or no known error in the log")
@click.argument(
    "word",
    type=options.RELEASE,
    required=False,
    metavar="[TOPIC]",
    shell_complete=completion_values.explainable,
)
@click.option(
    "--checkpoint",
    type=options.PLACE,
    metavar="PATH",
    shell_complete=completion_values.directories,
    help="The checkpoint or root that the job loads. Examined to decide between possible causes.",
)
@options.output_options
def explain(word: str | None, checkpoint: Place | None) -> None:
    """Explain a load error, a job log, a problem code, a layout or another topic.

    \b
    TOPIC is one of:
      an error message from a job log, in quotes
      - (reads a job log from standard input)
      a problem code of `verify`, or the name of a load error
      a layout or a release
      a data loss of --allow-loss
    Without TOPIC, list all topics.

    A log can contain output of many ranks, launcher prefixes, colors and tracebacks. Unknown errors
    are listed as unknown.

    \b
    Examples:
      ckptmigrate explain "'str' object has no attribute 'iterdir'"
      ckptmigrate explain - < job.log
      ckptmigrate explain --checkpoint run - < job.log
      ckptmigrate explain rerun-shards-missing
      ckptmigrate explain 0.13
    """
    from ckptmigrate.verbs import explain as explaining

    if word is None:
        if checkpoint is not None:
            raise click.UsageError("--checkpoint requires an error message or a log (-).")
        words = explaining.words()
        if output.json:
            output.object({kind: list(of) for kind, of in words.items()})
        else:
            output.lines(_topics(words))
        return
    if word == _STDIN:
        _explain_log(checkpoint)
        return
    from ckptmigrate.logs.examined import Seen

    seen = None if checkpoint is None else Seen(checkpoint)
    found = explaining.explain(word, seen)
    if output.json:
        output.object([each.as_json() for each in found])
    elif len(found) > 1 and all(each.answer and not each.answer.found for each in found):
        from ckptmigrate.cli import error_text

        output.lines(error_text.parts(found))
    else:
        output.lines(line for each in found for line in _lines(each))


def _lines(found: Explanation) -> Iterable[Line]:
    if found.answer is not None:
        from ckptmigrate.cli import error_text

        return error_text.error(found, found.answer)
    rows = {"since": [found.since], "why": found.why, "fix": found.remedy, "source": found.source}
    lines = [Line(f"{found.word}: {found.what}", hang=2, style="bold")]
    return lines + [line for label, values in rows.items() for line in labelled(label, values)]


def _topics(words: Mapping[str, Sequence[str]]) -> list[Line]:
    many = sum(map(len, words.values()))
    text = f"{many} topics. You can also pass an error line of a job, or `-` to read a whole log."
    lines = [Line(text, hang=2, style="bold")]
    return lines + [line for kind, of in words.items() for line in labelled(kind, [", ".join(of)])]


def _explain_log(checkpoint: Place | None) -> None:
    from ckptmigrate.cli import error_text
    from ckptmigrate.logs import answers
    from ckptmigrate.verbs import explain as explaining

    if sys.stdin is None:
        raise click.UsageError("Cannot read a log (-): standard input is closed.")
    with console.progress("reading the log", None) as progress:
        answer = answers.of_log(sys.stdin.buffer, checkpoint, progress)
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
