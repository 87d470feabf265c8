"""The sections and blocks of a document, which the HTML and Markdown pages share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ckptmigrate.report.document import (
    CheckpointChange,
    CommandOutcome,
    Document,
    Member,
    Predicted,
)
from ckptmigrate.text.sizes import data_files

if TYPE_CHECKING:
    from ckptmigrate.checks.findings import Finding

_MOST: Final = 1000  # of one list; the number of the others is printed, and JSON contains all
_MOST_WHOLE: Final = 100  # checkpoints that are shown in full
GRADES: Final = {  # the mark of each outcome, as in the matrix
    CommandOutcome.DONE: "ok",
    CommandOutcome.PLANNED: "partial",
    CommandOutcome.UNCHANGED: "ok",
    CommandOutcome.PASSED: "ok",
    CommandOutcome.FAILED: "fails",
    CommandOutcome.INCOMPLETE: "partial",
    CommandOutcome.REFUSED: "fails",
}
_SEVERITIES: Final = {"error": "fails", "warning": "partial", "note": "ok"}
_PURPOSES: Final = {
    "use": "Run the job with",
    "undo": "To undo",
    "redo": "To redo",
    "fix": "Fix",
    "ask": "For the reason and the fix",
    "job": "Run the job with",
    "resume": "To resume",
}


@dataclass(frozen=True)
class Heading:
    """A text, such as a path, above the blocks that belong to it."""

    text: str


@dataclass(frozen=True)
class Labels:
    """Labels with the lines of each."""

    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Diff:
    """Lines that start with `+`, `-` or `~`."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Files:
    """Rows of files: name, new size, SHA-256 before and after; None for a missing file."""

    rows: tuple[tuple[str, str | None, str | None, str | None], ...]


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """A command and its purpose."""

    purpose: str
    text: str


@dataclass(frozen=True)
class Marked:
    """A mark, a title and the reasons: lines such as errors or keys, with a sentence for each."""

    grade: str
    title: str
    whys: tuple[tuple[tuple[str, ...], str], ...]


Block = Heading | Labels | Diff | Files | Bullets | Command | Marked


@dataclass(frozen=True)
class Section:
    """A part of a report with its heading."""

    title: str
    blocks: tuple[Block, ...]


def sections(report: Document) -> list[Section]:
    """Return the sections of a document that have content, in reading order."""
    wrote = report.outcome is CommandOutcome.DONE
    wrote = wrote or any(each.status == "done" for each in report.each)
    parts = {
        "Fix": _refusal(report),
        "Checkpoints": _members(report),
        "Facts": _found(report),
        "Predictions": _predictions(report),
        "Problems": map(_problem, report.problems),
        "Changes" if wrote else "Planned changes": _changes(report),
        "Next steps": _steps(report),
        "Warnings": _warnings(report),
    }
    found = [Section(title, tuple(blocks)) for title, blocks in parts.items()]
    return [section for section in found if section.blocks]


def _refusal(report: Document) -> Iterator[Block]:
    if report.refusal is not None and report.refusal.fix is not None:
        yield Bullets((f"{report.refusal.fix[0].upper()}{report.refusal.fix[1:]}.",))


def _members(report: Document) -> Iterator[Block]:
    """Yield the checkpoints of a batch, those with unfinished work first."""
    for each in sorted(report.each, key=lambda member: member.good)[:_MOST]:
        yield _member(each)
    yield from _rest(len(report.each), _MOST)


def _member(found: Member) -> Marked:
    moved = found.result not in (None, found.path)
    title = f"{found.status}: {found.path}{f' → {found.result}' if moved else ''}"
    whys: list[tuple[tuple[str, ...], str]] = []
    if found.refusal is None:
        whys += [((), found.text)] if found.text else []
    else:
        place = "" if found.refusal.path in (None, found.path) else f"{found.refusal.path}: "
        whys.append(((), f"{place}{found.refusal.reason}."))
        if found.refusal.fix is not None:
            whys.append(((), f"Fix: {found.refusal.fix}."))
    whys += [((), f"{_PURPOSES[step.purpose]} `{step.command}`.") for step in found.steps]
    return Marked("ok" if found.good else "fails", title, tuple(whys))


def _rest(count: int, most: int) -> Iterator[Block]:
    if count > most:
        yield Bullets((f"... and {count - most} more (a report in JSON has all).",))


def _found(report: Document) -> Iterator[Block]:
    for each in report.found[:_MOST_WHOLE]:
        yield Heading(each.path)
        yield Labels(tuple((label, _cut(lines)) for label, lines in each.facts.items()))
    yield from _rest(len(report.found), _MOST_WHOLE)


def _changes(report: Document) -> Iterator[Block]:
    for each in report.changes[:_MOST_WHOLE]:
        yield from _change(each)
    yield from _rest(len(report.changes), _MOST_WHOLE)


def _change(found: CheckpointChange) -> Iterator[Block]:
    moved = found.result != found.path
    yield Heading(f"{found.path} → {found.result}" if moved else found.path)
    if not found.files:
        yield Bullets((f"Nothing to change ({found.target}).", *found.notes))
        return
    yield Diff(_cut(found.differences))
    yield Files(
        tuple(
            (
                file.name,
                None if file.bytes is None else f"{file.bytes:,} B",
                file.before,
                file.after,
            )
            for file in found.files
        )
    )
    losses = tuple(f"Data loss {loss.name}: {loss.meaning}." for loss in found.losses)
    notes = tuple(f"Note: {note}." for note in found.notes)
    held = data_files(found.payload_files, found.payload_bytes)
    yield Bullets((*losses, *notes, f"{held}, unchanged."))


def _predictions(report: Document) -> Iterator[Block]:
    """Yield a verdict for each release, under the checkpoint path if there are several."""
    several = len(report.found) > 1
    path = None
    for each in report.predictions[:_MOST]:
        if several and each.path != path:
            path = each.path
            yield Heading(path)
        yield _prediction(each)
    yield from _rest(len(report.predictions), _MOST)


def _prediction(found: Predicted) -> Marked:
    """Return the verdict on one release."""
    verdict = found.verdict
    grade, word = "ok", "resumes"
    if verdict.obstacles:
        grade, word = "fails", "does not resume"
    elif not verdict.resumes:
        grade, word = "partial", verdict.answer.value
    elif verdict.without or verdict.warnings:
        grade = "partial"
        word += f" without {', '.join(verdict.without)}" if verdict.without else ", at risk"
    reasons = tuple(
        (
            (each.error,),
            f"Reason: {each.why}."
            + (f" The job avoids it with `{each.flag}`." if each.flag else ""),
        )
        for each in verdict.obstacles
    )
    texts = (*verdict.conditions, *verdict.warnings, *verdict.notes)
    more = tuple(((), f"{text}.") for text in texts)
    title = f"{verdict.reader.release} (torch {verdict.reader.torch}): {word}"
    return Marked(grade, title, reasons + more)


def _problem(found: Finding) -> Marked:
    shown = found.as_json()
    whys = (
        (_cut(found.items), shown["meaning"]),
        ((), f"Fix: {found.remedy}."),
        ((), f"In {found.path}."),
    )
    title = f"{shown['severity']} {found.code}: {found.what}"
    return Marked(_SEVERITIES[shown["severity"]], title, whys)


def _steps(report: Document) -> Iterator[Block]:
    for each in report.steps:
        yield Command(_PURPOSES[each.purpose], each.command)


def _warnings(report: Document) -> Iterator[Block]:
    if report.warnings:
        yield Bullets(tuple(f"{text[:1].upper()}{text[1:]}" for text in report.warnings))


def _cut(lines: tuple[str, ...]) -> tuple[str, ...]:
    if len(lines) <= _MOST:
        return lines
    return (*lines[:_MOST], f"... and {len(lines) - _MOST} more (a report in JSON has all)")
