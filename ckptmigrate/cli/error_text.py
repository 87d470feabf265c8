"""Lines of an explained load error or job log; the first line is the answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ckptmigrate.logs.answers import Answer, LogAnswer, predicted_fixes
from ckptmigrate.logs.diagnosis import Decision
from ckptmigrate.logs.kinds import Sure
from ckptmigrate.logs.log_reader import Found
from ckptmigrate.report.terminal import COLUMN, labelled
from ckptmigrate.text.lines import Line
from ckptmigrate.text.printable import counted, few

if TYPE_CHECKING:
    from ckptmigrate.verbs.explain import Explanation

_LONGEST: Final = 300  # of a log line, before it is cut
_SURE: Final = {
    Sure.CERTAIN: "this text has no other meaning",
    Sure.LIKELY: "other programs raise this text too, and the log does not show which one did",
    Sure.POSSIBLE: "this text has several meanings",
}
_BY_TRACEBACK: Final = "the traceback shows it"
_BY_CHECKPOINT: Final = "the text has several meanings, and the checkpoint shows this cause"


def error(found: Explanation, answer: Answer, *, of_log: bool = False) -> list[Line]:
    """Return the lines of an explained error: its meaning, the causes and fixes, the evidence.

    Args:
        of_log: whether to show the log line. Omit it if the user passed the line as an argument.
    """
    lines = [Line(f"{found.word}: {found.what}", hang=2, style="bold")]
    lines += _causes(answer)
    # The fixes that were measured for an error that the user named.
    lines += labelled("then", (each for each in found.remedy if each not in answer.fixes))
    causes = [each.cause.why for each in answer.open]
    lines += labelled("said", (each for each in found.why if each not in causes))
    lines += labelled("ruled out", _ruled_out(answer))
    if answer.found is not None and (of_log or answer.found.count > 1 or answer.found.ranks):
        lines += labelled("line", _where(answer.found))
    lines += labelled("sure", [_sure(answer)])
    if answer.prediction is not None:
        releases = few(answer.prediction.releases, 12)
        lines += labelled("fails in", [f"{releases}, on this checkpoint (as check predicts)"])
    lines += labelled("note", answer.notes)
    lines += labelled("since", [found.since])
    return [*lines, *labelled("source", found.source)]


def parts(found: Sequence[Explanation]) -> list[Line]:
    """Return a line for each known error that contains the text that the user passed."""
    many = counted(len(found), "known error contains", "known errors contain")
    lines = [Line(f"{many} this text: name one of them, or pass the whole line", style="bold")]
    width = max(len(each.word) for each in found) + 2
    return lines + [Line(each.what, f"{each.word:{width}}", 2) for each in found]


def log(answer: LogAnswer, explained: Sequence[Explanation]) -> list[Line]:
    """Return the lines of an explained log: each error, what was read, the unexplained lines."""
    lines = [
        line
        for each in explained
        if each.answer is not None
        for line in error(each, each.answer, of_log=True)
    ]
    read = counted(answer.log.lines, "line")
    read += "" if answer.log.whole else " (the rest of the log is not read)"
    if answer.log.ranks:
        read += f" of {counted(len(answer.log.ranks), 'rank')}"
    if not explained:
        lines = [Line(f"not explained: no known load error in {read}", hang=2, style="bold")]
    else:
        lines.append(Line(f"read {read}", hang=2))
    for number, text in answer.log.others:
        lines.append(Line(_short(text), f"line {number}: not explained: ", 2, hang=4))
    if not explained:
        hint = "pass the log from the first traceback on; a log without errors has no answer"
        lines.append(Line(hint, "hint: ", 2))
    return lines


def _causes(answer: Answer) -> list[Line]:
    considered = answer.open
    if len(considered) <= 1:
        lines = [line for each in considered for line in _cause("cause", each, answer.what)]
        return [*lines, *labelled("fix", answer.fixes)]
    same = len({answer.fix(each) for each in considered}) == 1
    lines = []
    for number, each in enumerate(considered, 1):
        lines += _cause(f"cause {number}", each)
        if each.cause.tell:
            lines.append(Line(each.cause.tell, "how to tell: ", 2 + COLUMN))
        if not same:
            lines.append(Line(answer.fix(each), "fix: ", 2 + COLUMN))
    first = () if answer.prediction is None else predicted_fixes(answer.prediction)
    return [*lines, *labelled("fix", answer.fixes if same else first)]


def _cause(label: str, decision: Decision, shown: str = "") -> list[Line]:
    """Return the lines of a cause and its evidence, without the cause if it equals `shown`."""
    why, evidence = decision.cause.why, decision.evidence
    if why == shown:
        return [] if evidence is None else list(labelled("found", [evidence.text]))
    lines = list(labelled(label, [why]))
    if evidence is not None:
        lines.append(Line(evidence.text, "found: ", 2 + COLUMN))
    return lines


def _ruled_out(answer: Answer) -> Iterator[str]:
    shown = {each.evidence.text for each in answer.open if each.evidence}
    for each in answer.ruled_out:
        evidence = each.evidence.text if each.evidence else ""
        yield each.cause.why + (f" ({evidence})" if evidence not in shown else "")


def _where(found: Found) -> list[str]:
    said = [f"line {found.line}"]
    if found.count > 1:
        said.append(f"{found.count} lines of this kind")
    if found.ranks:
        said.append(f"by {counted(len(found.ranks), 'rank')}: {few(_sorted(found.ranks), 8)}")
    return [_short(found.text), f"({', '.join(said)})"]


def _sorted(ranks: Iterable[str]) -> list[str]:
    return sorted(ranks, key=lambda rank: (int(rank) if rank.isdigit() else -1, rank))


def _sure(answer: Answer) -> str:
    recognised, sure = answer.recognised, answer.sure
    why = _SURE[sure]
    if sure is not recognised.sure:
        why = _BY_CHECKPOINT
    elif sure is not answer.kind.sure:
        why = _BY_TRACEBACK
    return f"{sure.value}: {why}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
