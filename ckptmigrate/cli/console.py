"""How the verbs speak: lines, JSON, colours, a progress bar."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click


@dataclass
class Output:
    """How to speak: filled from the options, read by everything that prints."""

    json: bool = False
    verbose: bool = False
    color: bool | None = None  # None: click decides by the terminal

    def reset(self, *, color: bool | None) -> None:
        """Start anew, for another run in the same process."""
        self.json, self.verbose, self.color = False, False, color

    def lines(self, lines: Iterable[str]) -> None:
        for number, line in enumerate(lines):
            click.echo(_styled(line, first=not number), color=self.color)

    def segments(self, lines: Iterable[Sequence[tuple[str, str]]]) -> None:
        """Lines of (text, colour) parts; no colour for an empty name."""
        for line in lines:
            parts = (click.style(text, fg=color) if color else text for text, color in line)
            click.echo("".join(parts), color=self.color)

    def object(self, value: Any) -> None:
        click.echo(json.dumps(value, indent=2))


output = Output()
_SIGNS = {"+": "green", "-": "red", "~": "yellow"}


def _styled(line: str, *, first: bool) -> str:
    if first:
        return click.style(line, bold=True)
    sign = line.lstrip()[:2]
    if sign[1:] == " " and sign[0] in _SIGNS:
        return click.style(line, fg=_SIGNS[sign[0]])
    return line


@contextlib.contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, once bytes are reported, from whatever thread.

    Args:
        total: how many there will be; None where that is not known.
    """
    bars: list[Any] = []
    lock = threading.Lock()

    def advance(count: int) -> None:
        if output.json or not sys.stderr.isatty():
            return
        with lock:
            if not bars:
                bars.append(_bar(what, total))
        bars[0].advance(bars[0].task_ids[0], count)

    try:
        yield advance
    finally:
        for bar in bars:
            bar.stop()


@contextlib.contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal that counts, with how many a second and the time that is left."""
    if output.json or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn

    class Rate(TextColumn):
        def render(self, task: Task) -> Any:
            speed = task.finished_speed or task.speed
            return self.text_format if speed is None else f"{speed:.1f}/s"

    with Progress(
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        Rate("?/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True, no_color=output.color is False),
    ) as bar:
        bar.add_task(what, total=total)
        yield lambda count: bar.advance(bar.task_ids[0], count)


def _bar(what: str, total: int | None) -> Any:
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn

    bar = Progress(
        *Progress.get_default_columns()[:2],
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, no_color=output.color is False),
    )
    bar.start()
    bar.add_task(what, total=total)
    return bar
