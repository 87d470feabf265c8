"""The commands `matrix add` and `matrix run`: measure loads with real releases."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ckptmigrate.cli import completion_values, options
from ckptmigrate.cli.console import output
from ckptmigrate.cli.help import Manual
from ckptmigrate.errors import DestinationError, RefusedError
from ckptmigrate.storage import local_files
from ckptmigrate.text.commands import install
from ckptmigrate.text.printable import counted, printable

if TYPE_CHECKING:
    from ckptmigrate.measuring.junit import MeasuredCase

_FACTS: Final = {"compat_matrix.yaml": "facts about releases, edited by hand"}
_XML: Final = "<?xml"
_facts = click.option(
    "--facts",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("compat_matrix.yaml"),
    show_default=True,
    help="The file with the results.",
)


@click.command("add", cls=Manual, hidden=True, files=_FACTS)
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
    _require_installed("ruamel.yaml", "torch")
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


@click.command(
    "run",
    cls=Manual,
    found="error, or an outcome differs from the expected one (unless --update writes it)",
    files=_FACTS,
)
@click.option(
    "--readers",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(".readers"),
    show_default=True,
    help="Directory with one megatron-core installation for each release, for example 0.16.1/.",
)
@click.option(
    "--samples",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("tests/samples"),
    show_default=True,
    help="Directory with the roots to load. Without --expect, also index.json and raw_matrix.json.",
)
@click.option(
    "--expect",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Measure every root in --samples and compare the outcomes with this JSON file.",
)
@_facts
@click.option(
    "--update",
    is_flag=True,
    help="Write the outcomes to the file of --expect or --facts. Comments are kept.",
)
@click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write the result as JUnit XML.",
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
@options.known
@options.output_options
def run(
    readers: Path,
    samples: Path,
    expect: Path | None,
    facts: Path,
    update: bool,
    junit: Path | None,
    only: tuple[str, ...],
    writers: tuple[str, ...],
    scenarios: tuple[str, ...],
    known: tuple[str, ...],
) -> None:
    """Measure with real releases which of them resume from which checkpoints.

    For each release, one process with its real megatron-core loads every checkpoint, unmigrated and
    migrated, as a training job does. Tensors are compared with the source bit by bit. Requires
    torch. The releases unpickle the checkpoints: use checkpoints that you trust.

    With --expect, measures the roots of any directory in the releases that --readers contains.
    Without it, measures the compatibility matrix of this repository.

    \b
    Examples:
      ckptmigrate matrix run --samples roots --expect FILE --update
      ckptmigrate matrix run --samples roots --readers releases --expect FILE
      ckptmigrate matrix run --reader 0.16.1 --writer 0.17.1 --update
    """
    if expect is not None and (writers or scenarios):
        raise click.UsageError("--expect cannot be combined with --writer or --scenario.")
    if known and expect is None:
        raise click.UsageError("--known requires --expect.")
    _require_installed("torch", *(["ruamel.yaml"] if expect is None else []))
    if junit is not None:
        require_own(junit, begins=_XML, option="--junit")
    with tempfile.TemporaryDirectory(prefix="ckptmigrate-") as work:
        request = _RunRequest(readers, samples, Path(work), only, update, junit)
        if expect is None:
            _measure_matrix(request, facts, writers, scenarios)
        else:
            _measure_folder(request, expect, known)


@dataclass(frozen=True)
class _RunRequest:
    """The options of `matrix run` that the matrix and other directories share."""

    readers: Path
    samples: Path
    work: Path
    only: tuple[str, ...]
    update: bool
    junit: Path | None


def _measure_matrix(
    request: _RunRequest, facts: Path, writers: Sequence[str], scenarios: Sequence[str]
) -> None:
    """Measure the matrix, and compare it with compat_matrix.yaml."""
    from ckptmigrate.compat import bounded_yaml, compilation
    from ckptmigrate.measuring import matrix_cells, training_results, yaml_edit
    from ckptmigrate.measuring.junit import MeasuredCase
    from ckptmigrate.measuring.measure import Measurement

    compat, found = compilation.parse(bounded_yaml.read(facts), path=facts)
    groups = list(matrix_cells.groups_of(found, writers=writers, scenarios=scenarios))
    if not groups:
        raise RefusedError(
            "no group of the matrix has that writer and scenario",
            path=facts,
            fix="for those there are run `ckptmigrate matrix`",
        )
    require_known(request.only, [row.release for row in compat.readers], "reader")
    training = training_results.of_samples(request.samples)
    measurement = Measurement(found, compat, request.readers, request.work, _progress, training)
    measured = matrix_cells.measured(measurement, groups, request.samples, request.only)
    written = []
    if request.update and yaml_edit.update(facts, measured.groups):
        written = [str(facts), *compilation.write(facts)]
    asked = request.only or [row.release for row in compat.readers]
    cells = [
        (group, cell) for group in measured.groups for cell in group.cells if cell.reader in asked
    ]
    cases = (
        MeasuredCase(
            cell.reader,
            f"{group.writer}, {group.scenario}",
            f"raw {cell.raw}, migrated {cell.migrated} {cell.error}".rstrip(),
            tuple(
                each.what
                for each in measured.differences
                if (each.writer, each.reader, each.scenario)
                == (group.writer, cell.reader, group.scenario)
                and not request.update
            ),
        )
        for group, cell in cells
    )
    count = sum(len(group.cells) for group in measured.groups)
    _finish(
        f"{count} cells of {len(groups)} groups measured",
        {"groups": [asdict(group) for group in measured.groups]},
        measured.differences,
        [*written, *_written(request.junit, cases)],
        request.update,
    )


def _measure_folder(request: _RunRequest, expect: Path, known: Sequence[str]) -> None:
    """Measure every root in a directory, and compare the outcomes with a file."""
    from ckptmigrate.compat.cells import matrix
    from ckptmigrate.measuring import expectations, jobs, subjects
    from ckptmigrate.measuring.expectations import RootCell
    from ckptmigrate.measuring.junit import MeasuredCase
    from ckptmigrate.measuring.measure import Measurement
    from ckptmigrate.measuring.training_results import TrainingResults
    from ckptmigrate.releases.facts import compat

    expected = [] if request.update and not expect.exists() else expectations.read(expect)
    jobs.require_installed(request.only, request.readers)
    asked = request.only or jobs.installed(request.readers)
    roots = subjects.of_folder(request.samples, known=known)
    training = TrainingResults()
    measurement = Measurement(
        matrix(), compat(), request.readers, request.work, _progress, training
    )
    found = measurement.run(roots, asked)
    cells = [
        RootCell(
            root.name, release, pair.raw.result, pair.migrated.result,
            pair.raw.error, pair.migrated.error,
        )
        for root in roots
        for release in asked
        for pair in [found[release][root.key]]
    ]  # fmt: skip
    differences = list(expectations.differences(cells, expected, request.only))
    written = []
    if request.update:
        kept = [c for c in expected if request.only and c.reader not in request.only]
        text = expectations.text([*cells, *kept])
        if not expect.exists() or local_files.read_text(expect) != text:
            local_files.write_text(expect, text)
            written.append(str(expect))
    cases = (
        MeasuredCase(
            cell.reader,
            cell.root,
            " ".join(
                f"{state}: {text}" for state, text in (
                    ("raw", f"{cell.raw} {cell.raw_error}".rstrip()),
                    ("migrated", f"{cell.migrated} {cell.migrated_error}".rstrip()),
                )
            ),
            tuple(
                each.what
                for each in differences
                if (each.root, each.reader) == cell.key and not request.update
            ),
        )
        for cell in cells
    )  # fmt: skip
    _finish(
        f"{counted(len(roots), 'root')} measured in {counted(len(asked), 'release')}",
        {"cells": [asdict(cell) for cell in cells]},
        differences,
        [*written, *_written(request.junit, cases)],
        request.update,
    )


def _written(junit: Path | None, cases: Iterable[MeasuredCase]) -> list[str]:
    """Write the JUnit file, if there is one, and return its name."""
    if junit is None:
        return []
    from ckptmigrate.measuring.junit import xml

    local_files.write_text(junit, xml(cases))
    return [str(junit)]


def _finish(
    summary: str,
    measured: dict[str, Any],
    differences: Sequence[Any],
    written: Sequence[str],
    update: bool,
) -> None:
    """Print the result, and exit with 1 if there are differences that were not written."""
    if output.json:
        output.object(
            {
                **measured,
                "differences": [asdict(each) for each in differences],
                "written": list(written),
            }
        )
    else:
        count = counted(len(differences), "difference") if differences else "no difference"
        output.lines(
            [
                f"{summary}, {count}",
                *(printable(f"~ {difference}") for difference in differences),
                *(f"wrote {name}" for name in written),
            ]
        )
    if differences and not update:
        raise SystemExit(1)


def require_own(file: Path, *, begins: str, option: str) -> None:
    """Raise if a file exists and is not one that this command wrote, which an option replaces."""
    if not file.is_file():
        return
    with local_files.opened(file) as opened:
        there = opened.read(len(begins))
    if there and there != begins.encode():
        raise DestinationError(
            "exists, and is not a file that this command wrote",
            path=file,
            fix=f"name another file with {option} FILE",
        )


def require_known(names: Sequence[str], known: Sequence[str], what: str) -> None:
    """Raise if a name is not in the matrix."""
    for name in names:
        if name not in known:
            raise RefusedError(
                f"there is no {what} {name!r} in the matrix (there are {', '.join(known)})",
                fix="for all run `ckptmigrate matrix`",
            )


def _require_installed(*names: str) -> None:
    """Raise if optional dependencies are not installed.

    Raises:
        RefusedError: one of them is not installed.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise RefusedError(f"this needs {' and '.join(missing)}", fix=f"run `{install(*missing)}`")


def _progress(text: str) -> None:
    """Print progress to stderr, and only on a terminal."""
    if sys.stderr.isatty():
        click.echo(text, err=True)
