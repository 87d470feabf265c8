"""Explanations of problem codes, layouts, targets, releases, data losses and load errors.

The texts are those of the tables that `verify`, `check`, the matrix and migrations use. The texts
of load errors are those of the table in logs/.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from ckptmigrate import versions
from ckptmigrate.checks.code import Code
from ckptmigrate.checks.codes import CODES
from ckptmigrate.compat.cells import IDLE, Cell, Matrix, grade
from ckptmigrate.errors import RefusedError
from ckptmigrate.logs import answers
from ckptmigrate.logs.answers import Answer, LogAnswer
from ckptmigrate.logs.examined import Seen
from ckptmigrate.logs.kinds import ErrorKind
from ckptmigrate.logs.recognition import kinds
from ckptmigrate.planning.losses import LOSSES, Loss
from ckptmigrate.releases.facts import Compat, LayoutRow, compat, matches, minor
from ckptmigrate.releases.readers import Reader, reader
from ckptmigrate.text.commands import command
from ckptmigrate.verbs.layouts import releases


@dataclass(frozen=True)
class Explanation:
    """The explanation of a topic.

    Attributes:
        word: the topic, as its table spells it.
        kind: `finding` (a problem code), `layout`, `target`, `release`, `loss` (a data loss) or
            `failure` (a load error).
        what: the meaning, one sentence.
        since: the releases that the topic applies to.
        why: causes and consequences, one sentence each.
        source: the tags, files or samples that prove it.
        remedy: what to do, one sentence each, with commands between backticks.
        answer: for a load error, its causes and the lines of the log; else None.
    """

    word: str
    kind: str
    what: str
    since: str
    why: tuple[str, ...]
    source: tuple[str, ...]
    remedy: tuple[str, ...]
    answer: Answer | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (`explain --json`)."""
        shown = {each.name: getattr(self, each.name) for each in fields(self)}
        del shown["answer"]
        return shown if self.answer is None else shown | self.answer.as_json()


def words() -> dict[str, tuple[str, ...]]:
    """Return all topics: kind -> words."""
    facts = compat()
    return {
        "layout": tuple(row.layout for row in facts.layouts),
        "target": (versions.UNIVERSAL,),
        "release": tuple(row.release for row in facts.readers),
        "loss": tuple(LOSSES),
        "finding": tuple(CODES),
        "failure": tuple(kind.error for kind in kinds()),
    }


def explain(word: str, seen: Seen | None = None) -> tuple[Explanation, ...]:
    """Explain a topic: a name of any table, a release, or an error line of a log.

    Args:
        word: the name, or the text of an error.
        seen: the checkpoint that the job loads, to decide between the causes of an error.

    Returns:
        One explanation. Several if the text contains several errors or is a part of several known
        errors.

    Raises:
        RefusedError: the topic is unknown; the fix names the closest known one.
    """
    facts, matrix = compat(), _matrix()
    found = [
        *(_layout(row, facts) for row in facts.layouts if row.layout == word),
        *([_universal()] if word == versions.UNIVERSAL else []),
        *(_loss(row) for row in LOSSES.values() if row.loss == word),
        *(_finding(row) for row in CODES.values() if row.code == word),
        *(_named(kind, matrix, seen) for kind in kinds() if kind.error == word),
    ]
    # Search for errors before releases: a log line may start with a time, and so with a digit.
    found = found or [_error(each, matrix) for each in answers.of_text(word, seen).answers]
    if found:
        return tuple(found)
    if word[:1].isdigit() and len(word.split()) == 1:
        return (_release(reader(word, facts), facts, matrix),)
    partly = tuple(_named(kind, matrix, seen) for kind in kinds() if _has(kind, word))
    if partly:
        return partly
    raise _unknown(word)


def explain_log(answer: LogAnswer) -> tuple[Explanation, ...]:
    """Explain the known errors in a log; empty if the log contains none."""
    matrix = _matrix()
    return tuple(_error(each, matrix) for each in answer.answers)


def _matrix() -> Matrix:
    from ckptmigrate.compat.cells import matrix

    return matrix()


_SHORTEST_PART: Final = 8  # characters; a shorter text is part of too many errors
_LONGEST_PART: Final = 60  # characters; a longer text is an unknown error
_CLASS: Final = re.compile(r"^[\w.]*(?:Error|Exception)\b")


def _has(kind: ErrorKind, word: str) -> bool:
    """Return whether a text is part of an error message; dots at either end are ignored.

    A text that starts with the class of an exception is a whole error line, not a part.
    """
    part = word.strip(" .\u2026").casefold()
    if not _SHORTEST_PART <= len(part) <= _LONGEST_PART or _CLASS.match(word):
        return False
    return part in kind.example.casefold() or part in kind.what.casefold()


def _unknown(word: str) -> RefusedError:
    known = [each for of_kind in words().values() for each in of_kind]
    near = difflib.get_close_matches(word, known, 1)
    if near:
        fix = f"the nearest topic is {near[0]}: run `{command('explain', near[0])}`"
    elif _is_file(word):
        fix = f"to explain a log, run `{command('explain', '-', stdin=word)}`"
    else:
        fix = f"to list all topics, run `{command('explain')}`"
    text = " (and not a known load error)" if " " in word.strip() else ""
    return RefusedError(f"{word!r} is not a topic{text}", fix=fix)


def _is_file(word: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return Path(word).is_file()
    return False


def _universal() -> Explanation:
    layout = versions.UNIVERSAL
    return Explanation(
        layout,
        "target",
        "a target of --to: an idle rerun state in the layout sharded-rerun, from which every "
        "release from 0.9 on can resume",
        ">=0.9",
        (
            "0.10 and 0.11 request the rerun shards of that layout, and all other releases ignore "
            "them",
            "a job with --dist-ckpt-strictness raise_all refuses keys that it does not request, "
            "so only 0.10 and 0.11 load it with that flag",
            "a fault context is dropped, with --allow-loss fault-context",
        ),
        ("samples/raw_matrix.json",),
        (
            f"run `{command('downgrade', 'PATH', '--to', layout)}`, or upgrade for an older "
            "checkpoint",
        ),
    )


def _finding(row: Code) -> Explanation:
    return Explanation(
        row.code,
        "finding",
        f"{row.severity.value} of verify: {row.meaning}",
        row.since,
        (),
        (row.source,),
        (row.remedy_for("PATH", command("repair", "PATH", *(row.repair or ()))),),
    )


def _loss(row: Loss) -> Explanation:
    allow = command("downgrade", "PATH", "--to", "TARGET", "--allow-loss", row.loss)
    return Explanation(
        row.loss,
        "loss",
        row.meaning,
        row.since,
        (row.why,),
        (row.source,),
        (
            f"to accept it, run `{allow}`, or upgrade with the same option (the original files "
            "are kept)",
        ),
    )


def _layout(row: LayoutRow, facts: Compat) -> Explanation:
    down = f"`{command('downgrade', 'PATH', '--to', row.layout)}` from a newer release"
    up = f"`{command('upgrade', 'PATH', '--to', row.layout)}` from an older release"
    newer = [down] if row is not facts.layouts[-1] else []
    older = [up] if row is not facts.layouts[0] else []
    return Explanation(
        row.layout,
        "layout",
        row.summary,
        releases(row, facts),
        (row.why,),
        (row.source,),
        (
            f"to write it, run {', or '.join(newer + older)}",
            "to list the releases that can resume from a checkpoint, run "
            f"`{command('check', 'PATH')}`",
        ),
    )


def _named(kind: ErrorKind, matrix: Matrix, seen: Seen | None) -> Explanation:
    """Explain a load error by its name, with the measurements of the matrix."""
    found = _error(answers.of_kind(kind, seen), matrix)
    cells = _cells(kind, matrix)
    errors = dict.fromkeys(cell.error for cell in cells if cell.error)
    said = [f"error message: {error}" for error in list(errors)[:2]]
    return replace(
        found, why=(*found.why, *said), remedy=(*found.remedy, *_afterwards(cells, matrix))
    )


def _error(answer: Answer, matrix: Matrix) -> Explanation:
    kind, cells = answer.kind, _cells(answer.kind, matrix)
    since = kind.since
    if cells:
        failing = sorted({cell.reader for cell in cells}, key=matrix.readers.index)
        since += f"; measured with {', '.join(failing)} ({len(cells)} combinations in the matrix)"
    elif any(row.failure == kind.error for row in matrix.failures):
        since += "; not in the matrix"
    why = tuple(each.cause.why for each in answer.open)
    source = tuple(kind.source.split("; "))
    return Explanation(kind.error, "failure", answer.what, since, why, source, answer.fixes, answer)


def _cells(kind: ErrorKind, matrix: Matrix) -> list[Cell]:
    return [cell for cell in matrix.cells.values() if cell.raw == kind.error]


def _afterwards(cells: list[Cell], matrix: Matrix) -> Iterator[str]:
    """Yield the results after the fix, with the scenarios of each result if they differ."""
    scenarios: dict[str, dict[str, None]] = {}
    for cell in cells:
        scenarios.setdefault(matrix.meaning(cell.migrated), {})[cell.scenario] = None
    for meaning, of in scenarios.items():
        where = f" ({', '.join(of)})" if len(scenarios) > 1 else ""
        yield f"outcome: the job {meaning}{where}"


# -- a release

_LOADS: Final = {
    "any": "common.pt may contain any global that can be imported",
    "torch-default": "common.pt may contain globals that torch.load allows (since 2.6 a list)",
}


def _release(found: Reader, facts: Compat, matrix: Matrix) -> Explanation:
    layout = facts.row(found.layout)
    rows = [row for row in facts.common_loading if found.is_in(row.releases)]
    missing = [row for row in facts.missing_common if found.is_in(row.releases)]
    sharding = [row.type for row in facts.optimizer_sharding if found.is_in(row.releases)]
    why = [_LOADS[row.symbols] for row in rows]
    why += [f"without common.pt it fails: {row.error.format(path='PATH')}" for row in missing]
    why += [f"it loads optimizers with the sharding type {', '.join(sharding)}"] if sharding else []
    sources = [layout.source, *(row.source for row in rows), *(row.source for row in missing)]
    return Explanation(
        found.release,
        "release",
        f"a release that writes {layout.layout}: {layout.summary}; usually under torch "
        f"{found.torch}",
        _traces(found.release, facts),
        (*why, *_unread(found.release, matrix)),
        tuple(dict.fromkeys(sources)),
        (
            "to migrate a checkpoint for it, run "
            f"`{command('downgrade', 'PATH', '--to', found.release)}`, or upgrade for an older "
            "checkpoint"
            if found.release != facts.readers[-1].release
            else (
                "to migrate a checkpoint for it, run "
                f"`{command('upgrade', 'PATH', '--to', found.release)}`"
            ),
            "to predict whether it can resume, run "
            f"`{command('check', 'PATH', '--reader', found.release)}`",
        ),
    )


def _traces(release: str, facts: Compat) -> str:
    """Return how the traces of a release differ from those of the minor release before it."""
    here = [name for name in facts.known_releases if minor(name) == minor(release)]
    if not here:
        return f"not a known release; described as {facts.known_releases[-1]}"
    place = facts.known_releases.index(here[0])
    if not place:
        return "its checkpoints cannot be distinguished from those of earlier releases"
    before = facts.known_releases[place - 1]
    new = [
        f"{row.sign.replace(':', ' ')}{'' if matches(here[0], row.present) else ' no more'}"
        for row in facts.writer_signs
        if matches(here[0], row.present) != matches(before, row.present)
    ]
    return f"new compared with {before}: {', '.join(new)}" if new else f"has the signs of {before}"


def _unread(release: str, matrix: Matrix) -> Iterator[str]:
    """Yield which writers' unmigrated idle checkpoints a release loads, and why it fails on others.

    The sentences on failures are one per reason.
    """
    if release not in matrix.readers:
        return
    cells = [matrix.cells[writer, release, IDLE] for writer in matrix.writers(IDLE)]
    good = [cell.writer for cell in cells if grade(cell.raw) != "fails"]
    yield f"resumes from unmigrated idle checkpoints of {', '.join(good)}"

    def outcome(cell: Cell) -> str:
        return cell.raw

    bad = sorted((cell for cell in cells if grade(cell.raw) == "fails"), key=outcome)
    for failure, of_it in groupby(bad, key=outcome):
        writers = ", ".join(cell.writer for cell in of_it)
        yield f"not from {writers}: {matrix.meaning(failure)} ({failure})"
