"""The plot of what a migration costs, drawn from RESULTS.md: `python -m benchmarks.plot`."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks import optimizer_tasks, table, tasks
from benchmarks.payloads import REPOSITORY

RESULTS: Final = REPOSITORY / "benchmarks" / "RESULTS.md"
PICTURE: Final = REPOSITORY / "docs" / "images" / "cost.svg"
Point = tuple[float, float]  # bytes, seconds

_TICKS: Final = {
    0.01: "10 ms", 0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h",
    36000: "10 h",
}  # fmt: skip
_END: Final = 10**13  # bytes where the extrapolated lines end
# Pixels: the axes of a panel, and the distance from one panel to the next.
_TOP: Final = 60
_BOTTOM: Final = 330
_LEFT: Final = 60
_WIDTH: Final = 210
_STEP: Final = 380
_LINE: Final = 17  # pixels between labels
_OURS: Final = "ours"


@dataclass(frozen=True)
class Series:
    """A line of the plot.

    Attributes:
        label: its text.
        style: a class of the style sheet.
        points: the measured points, in order of their bytes.
    """

    label: str
    style: str
    points: Sequence[Point]

    @property
    def extrapolated(self) -> list[Point]:
        """Return points of the line through the last two points, linear in the bytes."""
        if len(self.points) < 2:
            return []
        (x1, y1), (x2, y2) = self.points[-2:]
        slope = max(0.0, (y2 - y1) / (x2 - x1))
        steps = [x2 * (_END / x2) ** (n / 12) for n in range(13)]
        return [(x, y2 + slope * (x - x2)) for x in steps]

    @property
    def end(self) -> float:
        """Return the seconds where the line ends."""
        return (self.extrapolated or self.points)[-1][1]


@dataclass(frozen=True)
class Panel:
    """A diagram of time against bytes.

    Attributes:
        title: what is done.
        axis: what the bytes are.
        series: the lines.
        marks: measured points of the first line that are not on it.
    """

    title: str
    axis: str
    series: Sequence[Series]
    marks: Sequence[Point] = ()


def panels(rows: Sequence[table.Row]) -> list[Panel]:
    """Return the panels for which there are results."""
    conversion = optimizer_tasks.CONVERSIONS[0]
    sparse = [
        (table.size_in(row.contender), row.seconds)
        for row in rows
        if row.task == tasks.SPARSE_OUT and table.size_in(row.contender) > tasks.GB
    ]
    made = [
        Panel(
            "metadata migration",
            "payload",
            _series(rows, tasks.MIGRATION, {
                tasks.OUT_OF_PLACE: ("ckptmigrate", _OURS),
                tasks.COPY_AND_SYNC: ("cp, sync", "copy"),
                tasks.DCP: ("torch DCP", "dcp"),
                tasks.MEGATRON_COPY: ("megatron-core", "core"),
            }),
            sparse,
        ),
        Panel(
            "--optimizer convert",
            "optimizer states",
            _series(rows, conversion.name, {
                conversion.command: ("ckptmigrate", _OURS),
                optimizer_tasks.COPY: ("cp, fsync", "copy"),
                optimizer_tasks.DCP: ("torch DCP", "dcp"),
            }),
        ),
    ]  # fmt: skip
    return [each for each in made if each.series]


def _series(
    rows: Sequence[table.Row], task: str, contenders: Mapping[str, tuple[str, str]]
) -> list[Series]:
    """Return the lines of the contenders (name -> label, style) of tasks that differ in size."""
    found = []
    for name, (label, style) in contenders.items():
        points = sorted(
            (table.size_in(row.task.removeprefix(task)), row.seconds)
            for row in rows
            if row.task.startswith(task) and row.contender == name
        )
        if points:
            found.append(Series(label, style, points))
    return found


def draw(made: Sequence[Panel]) -> str:
    """Return the picture."""
    points = [
        point
        for panel in made
        for series in panel.series
        for point in (*series.points, *series.extrapolated, *panel.marks)
    ]
    axes = Axes(
        (min(x for x, _ in points) / 2, max(x for x, _ in points)),
        (min(y for _, y in points) / 2, max(y for _, y in points) * 2),
    )
    parts = [_HEAD]
    for number, panel in enumerate(made):
        parts += [f'<g transform="translate({number * _STEP} 0)">', *_panel(panel, axes), "</g>"]
    note = "solid: measured; dashed: extrapolated, with as many keys per GB"
    if any(panel.marks for panel in made):
        note += "; ring: measured, one sparse file of 1 TB"
    parts += [_text(_LEFT, _BOTTOM + 62, note, "cost-dim"), "</svg>"]
    return "\n".join(parts) + "\n"


@dataclass(frozen=True)
class Axes:
    """Logarithmic axes: the range of bytes and the range of seconds."""

    bytes: Point
    seconds: Point

    def at(self, point: Point) -> Point:
        """Return the position of a point, with one decimal."""
        x = _share(point[0], self.bytes)
        y = _share(point[1], self.seconds)
        return round(_LEFT + x * _WIDTH, 1), round(_BOTTOM - y * (_BOTTOM - _TOP), 1)


def _share(value: float, ends: Point) -> float:
    low, high = map(math.log, ends)
    return (math.log(value) - low) / (high - low)


def _panel(panel: Panel, axes: Axes) -> Iterator[str]:
    yield _text(_LEFT, _TOP - 24, panel.title, "cost-title")
    for seconds, label in _TICKS.items():
        if axes.seconds[0] <= seconds <= axes.seconds[1]:
            _, y = axes.at((axes.bytes[0], seconds))
            yield f'<path class="cost-grid" d="M{_LEFT} {y}h{_WIDTH}"/>'
            yield _text(_LEFT - 6, y + 4, label, "cost-dim", anchor="end")
    power = math.ceil(math.log10(axes.bytes[0]))
    while 10**power <= axes.bytes[1]:
        x, _ = axes.at((10**power, axes.seconds[0]))
        yield f'<path class="cost-grid" d="M{x} {_TOP}V{_BOTTOM}"/>'
        if power % 2:  # 1 GB, 100 GB, 10 TB
            yield _text(x, _BOTTOM + 18, table.amount(10**power), "cost-dim", anchor="middle")
        power += 1
    yield _text(_LEFT + _WIDTH / 2, _BOTTOM + 38, panel.axis, "cost-dim", anchor="middle")
    for series in panel.series:
        yield _path(series.points, axes, f"cost-line cost-{series.style}")
        yield _path(series.extrapolated, axes, f"cost-line cost-{series.style} cost-beyond")
        for point in series.points:
            yield _circle(point, axes, 3, f"cost-dot cost-{series.style}")
    for point in panel.marks:
        yield _circle(point, axes, 4.5, "cost-ring")
    yield from _labels(panel.series, axes)


def _labels(series: Sequence[Series], axes: Axes) -> Iterator[str]:
    """Yield the labels at the ends of the lines, moved apart where they would overlap."""
    lowest = math.inf
    for each in sorted(series, key=lambda each: each.end):
        x, y = axes.at((each.extrapolated or each.points)[-1])
        lowest = min(y, lowest - _LINE)
        yield _text(x + 6, lowest + 4, each.label, "cost-label")


def _path(points: Sequence[Point], axes: Axes, style: str) -> str:
    places = " ".join(f"{x:g} {y:g}" for x, y in map(axes.at, points))
    return f'<path class="{style}" d="M{places}"/>' if places else ""


def _circle(point: Point, axes: Axes, radius: float, style: str) -> str:
    x, y = axes.at(point)
    return f'<circle class="{style}" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>'


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return (
        f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">'
        f"{html.escape(text)}</text>"
    )


_HEAD: Final = """\
<svg class="picture" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 410" role="img" \
aria-labelledby="cost-title">
<title id="cost-title">Time against bytes: a metadata migration takes a fraction of a second \
whatever the payload, and copies take longer the more bytes there are; the conversion of an \
optimizer beside a copy of as many bytes</title>
<style>
.picture { color: #1f2328; }
.picture .cost-title { font: bold 14px system-ui, sans-serif; fill: currentColor; }
.picture .cost-dim { font: 12px system-ui, sans-serif; fill: currentColor; fill-opacity: .75; }
.picture .cost-label { font: 13px system-ui, sans-serif; fill: currentColor; }
.picture .cost-grid { stroke: currentColor; stroke-opacity: .15; fill: none; }
.picture .cost-beyond { stroke-dasharray: 4 4; }
.picture .cost-ours { stroke: #2f8f6d; fill: #2f8f6d; }
.picture .cost-copy { stroke: #c98234; fill: #c98234; }
.picture .cost-dcp { stroke: #5b7fc7; fill: #5b7fc7; }
.picture .cost-core { stroke: #a765b5; fill: #a765b5; }
.picture .cost-line { fill: none; stroke-width: 2; }
.picture .cost-ring { fill: none; stroke: #2f8f6d; stroke-width: 2; }
@media (prefers-color-scheme: dark) { .picture { color: #e2e4e9; } }
</style>"""


def main() -> None:
    """Draw the picture of RESULTS.md."""
    PICTURE.write_text(draw(panels(table.parse(RESULTS.read_text("utf-8")))), encoding="utf-8")


if __name__ == "__main__":
    main()
