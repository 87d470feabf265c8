"""The sections and blocks of a report, which the HTML and Markdown pages share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ckptmigrate.report.document import Change, Member, Outcome, Prediction, Problem, Report

_MOST: Final = 1000  # of one list; the number of the others is printed, and JSON contains all
_MOST_WHOLE: Final = 100  # checkpoints that are shown in full
GRADES: Final = {  # the mark of each outcome, as in the matrix
    Outcome.DONE: "ok",
    Outcome.PLANNED: "partial",
    Outcome.UNCHANGED: "ok",
    Outcome.PASSED: "ok",
    Outcome.FAILED: "fails",
    Outcome.INCOMPLETE: "partial",
    Outcome.REFUSED: "fails",
}
_SEVERITIES: Final = {"error": "fails", "warning": "partial", "note": "ok"}
_PURPOSES: Final = {
    "use": "Use it as",
    "undo": "Take it back with",
    "fix": "Run",
    "ask": "Ask one of them for the command that helps",
    "job": "Run the job with",
    "go-on": "Go on with",
}


@dataclass(frozen=True)
class Line:
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
class Verdict:
    """A mark, a title and the reasons: lines such as errors or keys, with a sentence for each."""

    grade: str
    title: str
    whys: tuple[tuple[tuple[str, ...], str], ...]


Block = Line | Labels | Diff | Files | Bullets | Command | Verdict


@dataclass(frozen=True)
class Section:
    """A part of a report with its heading."""

    title: str
    blocks: tuple[Block, ...]


def sections(report: Report) -> list[Section]:
    """Return the sections of a report that have content, in reading order."""
    wrote = report.outcome is Outcome.DONE or any(each.status == "done" for each in report.each)
    parts = {
        "What to do": _refusal(report),
        "What each checkpoint came to": _members(report),
        "What was found": _found(report),
        "What a job would say": _predictions(report),
        "What is wrong": map(_problem, report.problems),
        "What changed" if wrote else "What would change": _changes(report),
        "What to do next": _steps(report),
        "Beware": _cautions(report),
    }
    told = [Section(title, tuple(blocks)) for title, blocks in parts.items()]
    return [section for section in told if section.blocks]


def _refusal(report: Report) -> Iterator[Block]:
    if report.refusal is not None and report.refusal.fix is not None:
        yield Bullets((f"{report.refusal.fix[0].upper()}{report.refusal.fix[1:]}.",))


def _members(report: Report) -> Iterator[Block]:
    """Yield the checkpoints of a batch, those with unfinished work first."""
    for each in sorted(report.each, key=lambda member: member.good)[:_MOST]:
        yield _member(each)
    yield from _rest(len(report.each), _MOST)


def _member(found: Member) -> Verdict:
    moved = found.result not in (None, found.path)
    title = f"{found.status}: {found.path}{f' → {found.result}' if moved else ''}"
    whys: list[tuple[tuple[str, ...], str]] = [((), found.text)] if found.text else []
    if found.refusal is not None:
        place = "" if found.refusal.path in (None, found.path) else f"{found.refusal.path}: "
        whys.append(((), f"{place}{found.refusal.reason}."))
        if found.refusal.fix is not None:
            whys.append(((), f"What to do: {found.refusal.fix}."))
    whys += [((), f"{_PURPOSES[step.purpose]} `{step.command}`.") for step in found.steps]
    return Verdict("ok" if found.good else "fails", title, tuple(whys))


def _rest(count: int, most: int) -> Iterator[Block]:
    if count > most:
        yield Bullets((f"... and {count - most} more (a report in JSON has all).",))


def _found(report: Report) -> Iterator[Block]:
    for each in report.found[:_MOST_WHOLE]:
        yield Line(each.path)
        yield Labels(tuple((label, _cut(lines)) for label, lines in each.facts.items()))
    yield from _rest(len(report.found), _MOST_WHOLE)


def _changes(report: Report) -> Iterator[Block]:
    for each in report.changes[:_MOST_WHOLE]:
        yield from _change(each)
    yield from _rest(len(report.changes), _MOST_WHOLE)


def _change(found: Change) -> Iterator[Block]:
    moved = found.result != found.path
    yield Line(f"{found.path} → {found.result}" if moved else found.path)
    if not found.files:
        yield Bullets((f"Nothing: it is as asked for already ({found.target}).", *found.notes))
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
    losses = tuple(f"Loss {loss.name}: {loss.meaning}." for loss in found.losses)
    notes = tuple(f"Note: {note}." for note in found.notes)
    many = "file" if found.payload_files == 1 else "files"
    payload = f"Payload: {found.payload_files} {many}, {found.payload_bytes:,} bytes, untouched."
    yield Bullets((*losses, *notes, payload))


def _predictions(report: Report) -> Iterator[Block]:
    """Yield a verdict for each release, under the checkpoint path if there are several."""
    several = len(report.found) > 1
    path = None
    for each in report.predictions[:_MOST]:
        if several and each.path != path:
            path = each.path
            yield Line(path)
        yield _prediction(each)
    yield from _rest(len(report.predictions), _MOST)


def _prediction(found: Prediction) -> Verdict:
    """Return the verdict of one release about a checkpoint."""
    grade, word = "ok", "resumes"
    if not found.resumes:
        grade, word = "fails", "does not resume"
    elif found.without or found.warnings:
        grade = "partial"
        word += f" without {', '.join(found.without)}" if found.without else ", with a warning"
    because = tuple(
        (
            (reason.error,),
            f"Because {reason.why}"
            + (f"; the job's flag `{reason.flag}` goes around it." if reason.flag else "."),
        )
        for reason in found.reasons
    )
    more = tuple(((), f"{text}.") for text in (*found.warnings, *found.depends))
    return Verdict(grade, f"{found.release} (torch {found.torch}): {word}", because + more)


def _problem(found: Problem) -> Verdict:
    whys = (
        (_cut(found.items), found.meaning),
        ((), f"What to do: {found.remedy}."),
        ((), f"In {found.path}."),
    )
    title = f"{found.severity} {found.code}: {found.what}"
    return Verdict(_SEVERITIES[found.severity], title, whys)


def _steps(report: Report) -> Iterator[Block]:
    for each in report.steps:
        yield Command(_PURPOSES[each.purpose], each.command)


def _cautions(report: Report) -> Iterator[Block]:
    if report.cautions:
        yield Bullets(report.cautions)


def _cut(lines: tuple[str, ...]) -> tuple[str, ...]:
    if len(lines) <= _MOST:
        return lines
    return (*lines[:_MOST], f"... and {len(lines) - _MOST} more (a report in JSON has all)")
