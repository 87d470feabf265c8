"""Terminal output of the commands: lines, JSON, colors and progress bars."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from ckptmigrate.text.lines import Line, fitted


@dataclass
class Output:
    """The output settings, set by the options of the command line."""

    json: bool = False
    verbose: bool = False
    color: bool | None = None  # None: click decides, depending on the terminal

    def reset(self, *, color: bool | None) -> None:
        """Reset the settings for another run in the same process."""
        self.json, self.verbose, self.color = False, False, color

    def lines(self, lines: Iterable[Line | str], *, err: bool = False) -> None:
        """Print the lines of a result or an error, wrapped to the width of a terminal."""
        width = terminal_width(err=err)
        for line in lines:
            made = line if isinstance(line, Line) else Line(line, hang=2)
            for number, text in enumerate(fitted(made, width)):
                click.echo(_styled(made, text, first=not number), color=self.color, err=err)

    def segments(self, lines: Iterable[Sequence[tuple[str, str]]]) -> None:
        """Print lines of (text, color) parts; an empty color name means no color."""
        for line in lines:
            parts = (click.style(text, fg=color) if color else text for text, color in line)
            click.echo("".join(parts).rstrip(), color=self.color)

    def object(self, value: Any) -> None:
        click.echo(json.dumps(value, indent=2))


output = Output()
_waited = 0.0  # time of the last message
_BETWEEN_REPORTS = 4.0  # seconds
_WITHOUT_BAR = 2.0  # seconds: what takes less shows no progress bar


def terminal_width(*, err: bool = False) -> int | None:
    """Return the columns of the terminal or COLUMNS; None if the stream is not a terminal."""
    stream = sys.stderr if err else sys.stdout
    if stream is None or not stream.isatty():
        return None
    return shutil.get_terminal_size().columns


def _styled(line: Line, text: str, *, first: bool) -> str:
    if not line.style or (line.head and not first):
        return text
    styled = line.margin + len(line.head) if line.head else len(text)
    how: dict[str, Any] = {"bold": True} if line.style == "bold" else {"fg": line.style}
    return click.style(text[:styled], **how) + text[styled:]


def waiting(place: object, seconds: float) -> None:
    """Report on a terminal that a store does not answer, for one of several stores at most."""
    global _waited
    now = time.monotonic()
    if output.json or not sys.stderr.isatty() or now - _waited < _BETWEEN_REPORTS:
        return
    _waited = now
    output.lines([f"waiting for {place}, {seconds:.0f} s by now; Ctrl-C stops"], err=True)


@contextlib.contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar of bytes on a terminal, with the rate and the remaining time.

    Any thread can report bytes. The bar appears after `_WITHOUT_BAR`.

    Args:
        total: the number of bytes, or None if it is not known.
    """
    bars: list[Any] = []
    lock, done, started = threading.Lock(), 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done
        if output.json or not sys.stderr.isatty():
            return
        with lock:
            done += count
            if not bars and time.monotonic() - started > _WITHOUT_BAR:
                bars.append(_bar(what, total))
            for bar in bars:
                bar.update(bar.task_ids[0], completed=done)

    try:
        yield advance
    finally:
        for bar in bars:
            bar.stop()


@contextlib.contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar of items on a terminal, with the rate and the remaining time."""
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
    from rich.progress import (
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        *Progress.get_default_columns()[:2],
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, no_color=output.color is False),
    )
    bar.start()
    bar.add_task(what, total=total)
    return bar
