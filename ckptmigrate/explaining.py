"""What a word of this field means: a finding, a layout, a release, a loss, a failed load.

Every sentence comes from the table that `verify`, `check`, the matrix or a migration goes by.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final

from ckptmigrate.errors import RefusedError
from ckptmigrate.matrix.cells import IDLE, Cell, FailureRow, Matrix, grade
from ckptmigrate.planning.losses import LOSSES, Loss
from ckptmigrate.releases.facts import Compat, LayoutRow, compat, matches, minor
from ckptmigrate.releases.readers import Reader, reader
from ckptmigrate.text.commands import command
from ckptmigrate.verifying.findings import CODES, Code


@dataclass(frozen=True)
class Explanation:
    """What there is to say of a word.

    Attributes:
        word: as the tables have it.
        kind: `finding`, `layout`, `release`, `loss` or `failure`.
        what: what it is, in a sentence.
        since: since when, or of which releases.
        why: what stands behind it, or follows from it.
        source: the tags, files or samples that it is known from.
        remedy: what to do; commands stand between backticks.
    """

    word: str
    kind: str
    what: str
    since: str
    why: tuple[str, ...]
    source: tuple[str, ...]
    remedy: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The documented JSON form (`explain --json`)."""
        return asdict(self)


def words() -> dict[str, tuple[str, ...]]:
    """Everything that can be explained, by kind."""
    facts = compat()
    return {
        "layout": tuple(row.layout for row in facts.layouts),
        "release": tuple(row.release for row in facts.readers),
        "loss": tuple(LOSSES),
        "finding": tuple(CODES),
        "failure": tuple(row.failure for row in _matrix().failures),
    }


def explain(word: str) -> tuple[Explanation, ...]:
    """What a word means: a name of any table, a release, or the text of an error of a reader.

    One explanation, but for a name that two tables have, and for a part of several errors.

    Raises:
        RefusedError: nothing is known of it; names what is nearest.
    """
    facts, matrix = compat(), _matrix()
    found = [
        *(_layout(row, facts) for row in facts.layouts if row.layout == word),
        *(_loss(row) for row in LOSSES.values() if row.loss == word),
        *(_finding(row) for row in CODES.values() if row.code == word),
        *(_failure(row, matrix) for row in matrix.failures if row.failure == word),
    ]
    if found:
        return tuple(found)
    # A line of a log may begin with its time, and so with a digit.
    failure = matrix.failure(word)
    if failure is not None:
        return (_failure(failure, matrix),)
    if word[:1].isdigit() and len(word.split()) == 1:
        return (_release(reader(word, facts), facts, matrix),)
    partly = tuple(_failure(row, matrix) for row in matrix.failures if _has(row, word, matrix))
    if partly:
        return partly
    raise _unknown(word)


def _matrix() -> Matrix:
    from ckptmigrate.matrix.cells import matrix

    return matrix()


_SHORTEST_PART: Final = 8  # characters; shorter ones are in too many errors


def _has(row: FailureRow, word: str, matrix: Matrix) -> bool:
    """Whether words that somebody remembers, dots for the rest, are in one of its errors."""
    part = word.strip(" .\u2026").casefold()
    errors = {cell.error for cell in matrix.cells.values() if cell.raw == row.failure}
    texts = (row.why, row.error.replace("\\", ""), *errors)
    return len(part) >= _SHORTEST_PART and any(part in text.casefold() for text in texts)


def _unknown(word: str) -> RefusedError:
    known = [each for of_kind in words().values() for each in of_kind]
    near = difflib.get_close_matches(word, known, 1)
    return RefusedError(
        f"there is nothing to explain of {word!r}",
        fix=f"{near[0]} is nearest, see `{command('explain', near[0])}`"
        if near
        else f"for all that there is see `{command('explain')}`",
    )


def _finding(row: Code) -> Explanation:
    return Explanation(
        row.code,
        "finding",
        f"{row.severity.value} of verify: {row.meaning}",
        row.since,
        (),
        (row.source,),
        (row.told("PATH", command("repair", "PATH", *(row.repair or ()))),),
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
        (f"to accept it run `{allow}`, or upgrade so; the sidecar keeps what goes",),
    )


def _layout(row: LayoutRow, facts: Compat) -> Explanation:
    down = f"a newer checkpoint `{command('downgrade', 'PATH', '--to', row.layout)}`"
    up = f"an older checkpoint `{command('upgrade', 'PATH', '--to', row.layout)}`"
    newer = [down] if row is not facts.layouts[-1] else []
    older = [up] if row is not facts.layouts[0] else []
    return Explanation(
        row.layout,
        "layout",
        row.summary,
        row.releases,
        (row.why,),
        (row.source,),
        (
            f"to lead to it run for {', for '.join(newer + older)}",
            f"which release resumes from it: `{command('check', 'PATH')}`",
        ),
    )


def _failure(row: FailureRow, matrix: Matrix) -> Explanation:
    cells = [cell for cell in matrix.cells.values() if cell.raw == row.failure]
    fix = f"run what `{command('check', 'PATH', '--reader', 'RELEASE')}` prints as its fix"
    if not cells:
        since = "in no cell of the matrix"
        why = ["it takes a flag of the job, a model of another kind or an edited file"]
        fix += "; tell it of the job with --strict, --finetune, --job-tp and the like"
    else:
        failing = sorted({cell.reader for cell in cells}, key=matrix.readers.index)
        since = f"readers {', '.join(failing)} ({len(cells)} cells of the matrix)"
        errors = dict.fromkeys(cell.error for cell in cells if cell.error)
        why = [f"the reader says: {error}" for error in list(errors)[:2] or [row.error]]
    remedy = (fix, *_afterwards(cells, matrix))
    return Explanation(row.failure, "failure", row.why, since, tuple(why), (row.source,), remedy)


def _afterwards(cells: list[Cell], matrix: Matrix) -> Iterator[str]:
    """What the reader makes of it after the command; where that differs, in which scenarios."""
    scenarios: dict[str, dict[str, None]] = {}
    for cell in cells:
        scenarios.setdefault(matrix.meaning(cell.migrated), {})[cell.scenario] = None
    for meaning, of in scenarios.items():
        where = f" ({', '.join(of)})" if len(scenarios) > 1 else ""
        yield f"the reader then {meaning}{where}"


# -- a release

_LOADS: Final = {
    "any": "common.pt may pickle any symbol that can be imported",
    "torch-default": "common.pt may pickle what its torch.load allows, since torch 2.6 an "
    "allow-list",
}


def _release(found: Reader, facts: Compat, matrix: Matrix) -> Explanation:
    layout = facts.row(found.layout)
    rows = [row for row in facts.common_loading if found.is_in(row.releases)]
    missing = [row for row in facts.missing_common if found.is_in(row.releases)]
    sharding = [row.type for row in facts.optimizer_sharding if found.is_in(row.releases)]
    why = [_LOADS[row.symbols] for row in rows]
    why += [f"without common.pt it fails: {row.error.format(path='PATH')}" for row in missing]
    why += [f"it reads optimizers sharded as {', '.join(sharding)}"] if sharding else []
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
            f"to have it resume run `{command('downgrade', 'PATH', '--to', found.release)}`, "
            "or upgrade where the checkpoint is older"
            if found.release != facts.readers[-1].release
            else f"to have it resume run `{command('upgrade', 'PATH', '--to', found.release)}`",
            f"whether it resumes from a checkpoint: "
            f"`{command('check', 'PATH', '--reader', found.release)}`",
        ),
    )


def _traces(release: str, facts: Compat) -> str:
    """What it brought, against the minor release before it, as far as the signs tell."""
    here = [name for name in facts.known_releases if minor(name) == minor(release)]
    if not here:
        return f"no such release is known; taken to be like {facts.known_releases[-1]}"
    place = facts.known_releases.index(here[0])
    if not place:
        return "its traces are not told apart from those of the releases before it"
    before = facts.known_releases[place - 1]
    new = [
        f"{row.sign.replace(':', ' ')}{'' if matches(here[0], row.present) else ' no more'}"
        for row in facts.writer_signs
        if matches(here[0], row.present) != matches(before, row.present)
    ]
    return f"new against {before}: {', '.join(new)}" if new else f"leaves the traces of {before}"


def _unread(release: str, matrix: Matrix) -> Iterator[str]:
    """Of which writers it does not resume as they lie (idle), and why: a sentence per reason."""
    if release not in matrix.readers:
        return
    cells = [matrix.cells[writer, release, IDLE] for writer in matrix.writers(IDLE)]
    good = [cell.writer for cell in cells if grade(cell.raw) != "fails"]
    yield f"idle checkpoints that it resumes from as they lie: of {', '.join(good)}"

    def outcome(cell: Cell) -> str:
        return cell.raw

    bad = sorted((cell for cell in cells if grade(cell.raw) == "fails"), key=outcome)
    for failure, of_it in groupby(bad, key=outcome):
        writers = ", ".join(cell.writer for cell in of_it)
        yield f"not of {writers}: {matrix.meaning(failure)} ({failure})"
