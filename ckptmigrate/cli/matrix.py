"""The command `matrix`: show the compatibility matrix, or measure it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click

from ckptmigrate.cli import completion_values, options
from ckptmigrate.cli.console import output, terminal_width
from ckptmigrate.cli.help import Manual, ManualGroup
from ckptmigrate.compat import text_tables
from ckptmigrate.compat.cells import Cell, Matrix
from ckptmigrate.errors import DestinationError, RefusedError, Retry
from ckptmigrate.storage import local_files
from ckptmigrate.text.commands import install

_DOCTYPE: Final = len("<!DOCTYPE html>")
_FACTS: Final = {"compat_matrix.yaml": "facts about releases, edited by hand"}
_facts = click.option(
    "--facts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=Path("compat_matrix.yaml"),
    show_default=True,
    help="The file with the results.",
)


@click.group(cls=ManualGroup, invoke_without_command=True, subcommand_metavar="")
@click.option(
    "--scenario",
    metavar="NAME",
    shell_complete=completion_values.scenarios,
    help="Show this scenario only: idle, disabled, fault or optimizer.",
)
@click.option(
    "--writer", type=options.RELEASE, metavar="RELEASE", shell_complete=completion_values.releases,
    help="Show only checkpoints that this release wrote.",
)  # fmt: skip
@click.option(
    "--reader", type=options.RELEASE, metavar="RELEASE", shell_complete=completion_values.releases,
    help="Show only whether this release can resume. With --writer, show details.",
)  # fmt: skip
@click.option("--markdown", is_flag=True, help="Print Markdown tables.")
@click.option(
    "--into",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Update the tables in a Markdown file, after <!-- matrix: SCENARIO ... -->.",
)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the matrix as one HTML page that works offline.",
)
@options.output_options
@click.pass_context
def matrix(
    context: click.Context,
    scenario: str | None,
    writer: str | None,
    reader: str | None,
    markdown: bool,
    into: Path | None,
    html: Path | None,
) -> None:
    """Show which releases can resume from the checkpoints of each release.

    Each combination of releases has two results: one for the unmigrated checkpoint, one after
    `upgrade` or `downgrade`. With --writer and --reader, also shows whether a result is measured
    with the real release or derived from a rule.

    \b
    Scenarios:
      idle        reruns enabled, no fault
      disabled    saved with --rerun-mode disabled
      fault       saved after a fault, such as a NaN loss
      optimizer   idle, with the distributed optimizer

    \b
    Examples:
      ckptmigrate matrix --scenario idle
      ckptmigrate matrix --writer 0.17 --reader 0.11
      ckptmigrate matrix --html matrix.html
    """
    if context.invoked_subcommand is not None:
        return
    from ckptmigrate.compat.cells import matrix as shipped

    found = shipped()
    scenarios = [scenario] if scenario else [row.scenario for row in found.scenarios]
    _check(scenarios, [row.scenario for row in found.scenarios], "scenario")
    if html is not None:
        from ckptmigrate.compat import page

        text = page.page(found)
        _check_page(html, begins=text[:_DOCTYPE])
        local_files.write_text(html, text)
        output.lines([f"wrote {html}"])
    elif into is not None:
        local_files.write_text(into, text_tables.into(_markdown(into), found))
        output.lines([f"refreshed {into}"])
    elif writer is not None or reader is not None:
        cells = _cells(found, writer, reader, scenarios)
        if not cells:
            raise RefusedError(
                f"release {writer} writes no checkpoint of the scenario {scenario!r}",
                fix="leave --scenario out to see those that it writes",
                retry=Retry(leave_out=("--scenario",)),
            )
        _tell(found, cells, one_pair=writer is not None and reader is not None)
    elif output.json:
        output.object([asdict(cell) for cell in found.cells.values() if cell.scenario in scenarios])
    elif markdown:
        click.echo(text_tables.markdown(found, scenarios))
    else:
        for each in scenarios:
            output.lines([text_tables.title(found, each)])
            output.segments([*text_tables.table(found, each, terminal_width()), []])
        output.lines([text_tables.LEGEND])


def _check_page(file: Path, *, begins: str) -> None:
    """Raise if a file exists and is not an HTML page, which --html can replace."""
    if not file.is_file():
        return
    with local_files.opened(file) as opened:
        there = opened.read(len(begins))
    if there and there != begins.encode():
        raise DestinationError(
            "exists, and is not a page that this command wrote",
            path=file,
            fix="name another file with --html FILE",
        )


def _markdown(file: Path) -> str:
    try:
        return local_files.read_text(file)
    except UnicodeDecodeError as error:
        raise RefusedError(
            "is not text in UTF-8", path=file, fix="name a Markdown file with --into FILE"
        ) from error


def _check(names: list[str], known: list[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise RefusedError(
                f"there is no {what} {name!r} in the matrix (there are {', '.join(known)})",
                fix="for all run `ckptmigrate matrix`",
            )


def _cells(
    found: Matrix, writer: str | None, reader: str | None, scenarios: list[str]
) -> list[Cell]:
    """Return the cells of two releases, or of one with every other; None means every release."""
    written = _named(writer, found.writers("idle"), "writer")
    read = _named(reader, found.readers, "reader")
    keys = [(w, r, s) for s in scenarios for w in written for r in read]
    return [found.cells[key] for key in keys if key in found.cells]


def _named(release: str | None, known: Sequence[str], what: str) -> list[str]:
    """Return the first known release with this name, which can be the minor version only."""
    if release is None:
        return list(known)
    fitting = [each for each in known if release in (each, text_tables.short_name(each))]
    _check([] if fitting else [release], list(known), what)
    return fitting[:1]


def _tell(found: Matrix, cells: list[Cell], *, one_pair: bool) -> None:
    if output.json:
        output.object([asdict(cell) for cell in cells])
    elif one_pair:
        for cell in cells:
            output.lines(text_tables.detail(found, cell))
    else:
        output.segments(text_tables.line(cell) for cell in cells)
        output.lines([text_tables.LEGEND])


@matrix.command("add", cls=Manual, hidden=True, files=_FACTS)
@click.argument("release")
@click.option(
    "--torch",
    default="2.13.0",
    show_default=True,
    metavar="V",
    help="PyTorch version to measure the release with.",
)
@click.option(
    "--source",
    default="the package index",
    show_default=True,
    help="Where the release is published.",
)
@_facts
@options.output_options
def add(release: str, torch: str, source: str, facts: Path) -> None:
    """Add a release to the compatibility matrix.

    Adds rows with the layout and constraints of the newest release in the file. Edit them if the
    new release differs. Then measure the new combinations with `ckptmigrate matrix run --update`.

    \b
    Examples:
      ckptmigrate matrix add 0.21.0
    """
    _require_extra()
    from ckptmigrate.compat import bounded_yaml, compilation
    from ckptmigrate.measuring import yaml_edit

    text = bounded_yaml.read(facts)
    compilation.compiled(text, path=facts)
    new = yaml_edit.with_release(text, release, torch=torch, source=source)
    compilation.compiled(new, path=facts)
    local_files.write_text(facts, new)
    changed = [str(facts), *compilation.write(facts)]
    if output.json:
        output.object({"release": release, "written": changed})
    else:
        output.lines(
            [
                f"{release} is among the readers and writers",
                *(f"  wrote {name}" for name in changed),
                f"  next: make readers READER_RELEASES={release}, then matrix run --update",
            ]
        )


@matrix.command(
    "run",
    cls=Manual,
    hidden=True,
    found="error, or a result differs from the file (unless --update writes it)",
    files=_FACTS,
)
@click.option(
    "--readers",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(".readers"),
    show_default=True,
    help="Directory with one megatron-core installation for each release (see `make readers`).",
)
@click.option(
    "--samples",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("tests/samples"),
    show_default=True,
    help="Directory with the checkpoints to load, index.json and raw_matrix.json.",
)
@_facts
@click.option(
    "--update", is_flag=True, help="Write the results to the file of --facts. Comments are kept."
)
@click.option(
    "--reader",
    "only",
    multiple=True,
    metavar="RELEASE",
    shell_complete=completion_values.releases,
    help="Measure only whether this release can resume. Repeat for more.",
)
@click.option(
    "--writer",
    "writers",
    multiple=True,
    metavar="RELEASE",
    shell_complete=completion_values.releases,
    help="Measure only checkpoints that this release wrote. Repeat for more.",
)
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    metavar="NAME",
    shell_complete=completion_values.scenarios,
    help="Measure this scenario only. Repeat for more.",
)
@options.output_options
def run(
    readers: Path,
    samples: Path,
    facts: Path,
    update: bool,
    only: tuple[str, ...],
    writers: tuple[str, ...],
    scenarios: tuple[str, ...],
) -> None:
    """Measure the compatibility matrix with real releases.

    Takes some minutes and requires torch. For each release, one process with its real
    megatron-core loads every checkpoint, unmigrated and migrated, as a training job does. Tensors
    are compared with the source bit by bit.

    \b
    Examples:
      ckptmigrate matrix run --readers .readers --samples tests/samples
      ckptmigrate matrix run --reader 0.16.1 --writer 0.17.1 --update
    """
    _require_extra()
    from ckptmigrate.compat import bounded_yaml, compilation
    from ckptmigrate.measuring import yaml_edit
    from ckptmigrate.measuring.measure import Measurement, groups_of

    compat, found = compilation.parse(bounded_yaml.read(facts), path=facts)
    groups = list(groups_of(found, writers=writers, scenarios=scenarios))
    if not groups:
        raise RefusedError(
            "no group of the matrix has that writer and scenario",
            path=facts,
            fix="for those there are run `ckptmigrate matrix`",
        )
    _check(list(only), [row.release for row in compat.readers], "reader")
    with tempfile.TemporaryDirectory(prefix="ckptmigrate-") as folder:
        work = Path(folder)
        measurement = Measurement(found, compat, readers, samples, work, _progress)
        measured = measurement.run(groups, only)
    if update and yaml_edit.update(facts, measured.groups):
        changed = [str(facts), *compilation.write(facts)]
    else:
        changed = []
    cells = sum(len(group.cells) for group in measured.groups)
    if output.json:
        output.object(
            {
                "groups": [asdict(group) for group in measured.groups],
                "differences": [asdict(each) for each in measured.differences],
                "written": changed,
            }
        )
    else:
        count = len(measured.differences)
        output.lines(
            [
                f"{cells} cells of {len(groups)} groups measured, "
                f"{count or 'no'} difference{'' if count == 1 else 's'}",
                *(f"~ {difference}" for difference in measured.differences),
                *(f"wrote {name}" for name in changed),
            ]
        )
    if measured.differences and not update:
        raise SystemExit(1)


def _require_extra() -> None:
    """Raise if the optional dependencies of `matrix add` and `matrix run` are not installed.

    Raises:
        RefusedError: ruamel.yaml or torch is not installed.
    """
    missing = [name for name in ("ruamel.yaml", "torch") if find_spec(name) is None]
    if missing:
        raise RefusedError(f"this needs {' and '.join(missing)}", fix=f"run `{install(*missing)}`")


def _progress(text: str) -> None:
    """Print progress to stderr, and only on a terminal."""
    if sys.stderr.isatty():
        click.echo(text, err=True)
