"""Lines of text for the values of commands: the answer first, then the reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ckptmigrate.checkpoint.locate import TRACKER_FILE
from ckptmigrate.checkpoint.sidecar import REPAIR
from ckptmigrate.checks.codes import Severity
from ckptmigrate.places import Place
from ckptmigrate.report.sentences import CAUTIONS, inspected, payload, severities, size
from ckptmigrate.text.commands import load
from ckptmigrate.text.lines import Line
from ckptmigrate.text.printable import counted

if TYPE_CHECKING:
    from ckptmigrate.checkpoint.differences import Difference
    from ckptmigrate.checks.verification import Verification
    from ckptmigrate.planning.fixes import Advice
    from ckptmigrate.planning.planner import Plan
    from ckptmigrate.releases.prediction import Verdict
    from ckptmigrate.verbs.explain import Explanation
    from ckptmigrate.verbs.inspect import Inspection
    from ckptmigrate.verbs.migrate import Migration
    from ckptmigrate.verbs.repair import Repair, Tracker
    from ckptmigrate.writing.links import Link

_MOST_LINES: Final = 40  # of one list; the number of the others is printed
_MOST_ITEMS: Final = 8  # of one problem
_COLUMN: Final = 11  # width of the label column
_SIGNS: Final = {"+": "green", "-": "red", "~": "yellow"}
_SEVERITIES: Final = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}


def _answer(text: str) -> Line:
    return Line(text, hang=2, style="bold")


def _change(sign: str, text: str, margin: int = 2) -> Line:
    return Line(f"{sign} {text}", margin=margin, hang=4, style=_SIGNS[sign])


def _cut(lines: list[Line], full: bool, most: int = _MOST_LINES, margin: int = 2) -> list[Line]:
    if full or len(lines) <= most:
        return lines
    return [*lines[:most], Line(f"... and {len(lines) - most} more (--full shows all)", "", margin)]


# -- inspect


def inspection(found: Inspection, *, full: bool = False) -> list[Line]:
    """Return the lines of `inspect`."""
    lines = [_answer(f"{found.path}: {found.likely[0]}, {found.rerun.kind.value}")]
    for label, values in inspected(found).items():
        lines += _cut(list(_labelled(label, values)), full, margin=2 + _COLUMN)
    return lines


def _labelled(label: str, values: Iterable[str]) -> Iterable[Line]:
    for number, value in enumerate(values):
        yield Line(value, f"{'' if number else label:{_COLUMN}}", margin=2, hang=_COLUMN + 2)


# -- plans and their results


def plan(found: Plan, *, full: bool = False) -> list[Line]:
    """Return the lines of a plan, which look like a diff."""
    source = " or ".join(found.source)
    lines = [_answer(f"{found.verb} {found.path}: {source} -> {found.target}")]
    if found.satisfied:
        nothing = f"nothing to change: release {found.target} resumes from it as it is"
    elif found.verb == REPAIR:
        nothing = "nothing to repair"
    else:
        nothing = f"nothing to change: it is {found.layout} already"
    lines += [Line(nothing, margin=2, hang=4)] if found.changes_nothing else []
    changes = (str(each) for each in found.differences)
    lines += _cut([_change(text[0], text[2:]) for text in changes], full)
    for name, content in found.files.items():
        sign = "+" if found.change.before.get(name) is None else "~"
        told = f"file {name}" + ("" if content is None else f": {size(len(content))}")
        lines.append(_change("-" if content is None else sign, told))
    lines.append(Line(f"payload: {payload(*found.payload)}, untouched", margin=2, hang=4))
    lines += [Line(loss, "loss: ", 2, style="yellow") for loss in found.losses]
    lines += [Line(note, "note: ", 2) for note in found.notes]
    return lines


def repair(found: Repair, *, full: bool = False) -> list[Line]:
    """Return the lines of a repair: each plan, then the tracker file."""
    plans = [each for each in found.migration.plans if not (found.astray and each.changes_nothing)]
    lines = [line for each in plans for line in plan(each, full=full)]
    if found.astray is not None:
        root = found.tracker.root if found.tracker else found.migration.destination
        names = " and ".join(found.tracker.files if found.tracker else [TRACKER_FILE])
        lines.append(_answer(f"repair {root}: {names} -> {found.migration.tracker}"))
        lines.append(Line(found.astray, "because ", 2, hang=4))
        if found.tracker is not None and found.tracker.left is not None:
            lines.append(Line(found.tracker.left, "caution: ", 2, hang=4, style="yellow"))
    return lines


def recovered(done: Mapping[Place, str]) -> list[Line]:
    """Return the lines of interrupted migrations and what `recover` did."""
    return [Line(f"{place}: {what}", hang=2) for place, what in done.items()]


def outcome(done: Migration, link: Link | None, tracker: Tracker | None = None) -> list[Line]:
    """Return the lines of a migration that is done: the result and how to undo it."""
    if done.existing:
        told = [f"{done.destination} is there from an earlier run and verified"]
    elif done.destination is None:
        changed = [p.path for p in done.plans if not p.changes_nothing]
        changed += [tracker.root / name for name in tracker.files] if tracker else []
        told = [f"rewrote {path}" for path in changed] or ["nothing was written"]
    else:
        by = "" if link is None else f", payload by {link.value}"
        use = load(done.destination)
        told = [f"wrote {done.destination}{by}" + (f": use it as {use}" if use else "")]
    lines = [_answer(text) for text in told]
    note = " (the source is unchanged)" if done.destination else ""
    undo = done.undo() + (tracker.undo if tracker else [])
    lines += [Line(f"{command}{note}", "undo: ", whole=True) for command in undo]
    cautions = [str(left) for left in done.leftovers]
    if link in CAUTIONS:
        cautions.append(CAUTIONS[link])
    lines += [Line(text, "caution: ", style="yellow") for text in cautions]
    return [*lines, Line(str(done.load), "load: ", whole=True)] if done.load else lines


def differences(found: Sequence[Difference], *, full: bool) -> list[Line]:
    """Return the lines of `diff`."""
    if not found:
        return [_answer("no difference")]
    changes = (str(each) for each in found)
    lines = [_change(text[0], text[2:], margin=0) for text in changes]
    return [_answer(counted(len(lines), "difference")), *_cut(lines, full, margin=0)]


# -- check


def verdict(path: Place, found: Verdict, advice: Advice) -> list[Line]:
    """Return the lines of `check --reader`: the answer, then each reason and its fix."""
    release = f"release {found.reader.release} (torch {found.reader.torch})"
    lines = [_answer(f"{_resumes(found)}: {release} on {path}")]
    for obstacle in found.obstacles:
        lines.append(Line(obstacle.why, "because ", 2, hang=4))
        lines.append(Line(obstacle.error, "error  ", 4, style="red"))
        if obstacle.flag:
            lines.append(Line(f"run the job with {obstacle.flag}", "flag   ", 4))
    lines += [Line(text, "warning: ", 2, hang=4, style="yellow") for text in found.warnings]
    lines += [Line(text, "note: ", 2, hang=4) for text in found.notes]
    return lines + _advice(found, advice)


def _advice(found: Verdict, advice: Advice) -> list[Line]:
    flags = [f"run the job with {' '.join(advice.flags)}"] if advice.flags else []
    if advice.command:
        fix = Line(advice.command, "fix: ", 2, style="green", whole=True)
        return [fix, *(Line(flag, "then: ", 2, style="green") for flag in flags)]
    if found.resumes:
        return []
    told = [f"no command helps; {flag}" for flag in flags]
    told = told or [f"no one command or flag helps: {advice.reason}"]
    return [Line(text, "fix: ", 2, hang=4) for text in told]


def verdicts(path: Place, found: Sequence[Verdict]) -> list[Line]:
    """Return the lines of `check`, one per release."""
    good = sum(verdict.resumes for verdict in found)
    lines = [_answer(f"{path}: {good} of {len(found)} releases resume")]
    for each in found:
        reason = each.obstacles[0].error if each.obstacles else "; ".join(each.warnings)
        style = "red" if not each.resumes else "yellow" if each.without or reason else "green"
        text = f"{_resumes(each)}{': ' if reason else ''}{reason}"
        lines.append(Line(text, f"{each.reader.release:{_COLUMN}}", 2, style=style))
    depends = dict.fromkeys(text for each in found for text in each.depends)
    lines += [Line(text, "note: ", 2, hang=4) for text in depends]
    if good < len(found):
        lines.append(Line("with --reader RELEASE it says why, and which command helps", margin=2))
    return lines


def _resumes(found: Verdict) -> str:
    if not found.resumes:
        return "no"
    return f"yes, but without {', '.join(found.without)}" if found.without else "yes"


# -- verify


def verification(found: Verification, *, full: bool) -> list[Line]:
    """Return the lines of `verify`: the answer, then each problem with its fix."""
    files = sum(each.payload_files for each in found.checkpoints)
    held = payload(files, sum(each.payload_bytes for each in found.checkpoints))
    entries = counted(sum(each.entries for each in found.checkpoints), "entry", "entries")
    paths = {each.path for each in found.checkpoints}
    about = found.path if len(paths) != 1 else next(iter(paths))
    many = f"{len(paths)} checkpoints, " if len(paths) > 1 else ""
    answer = ", ".join([*([] if not found.clean else ["clean"]), *severities(found)])
    lines = [_answer(f"{about}: {answer} ({many}{entries}, payload {held})")]
    for finding in found.findings:
        where = "" if finding.path == about else f"{finding.path}: "
        head = f"{finding.severity.value} {finding.code}: "
        style = _SEVERITIES[finding.severity]
        lines.append(Line(f"{where}{finding.what}", head, 2, hang=4, style=style))
        items = [Line(item, margin=4, hang=6) for item in finding.items]
        lines += _cut(items, full, _MOST_ITEMS, margin=4)
        lines.append(Line(finding.remedy, "fix: ", 4))
    return lines


# -- explain


def explanation(found: Explanation) -> list[Line]:
    """Return the lines of `explain TOPIC`."""
    if found.answer is not None:
        from ckptmigrate.cli import error_text

        return error_text.error(found, found.answer)
    rows: dict[str, Sequence[str]] = {
        "since": [found.since],
        "why": found.why,
        "source": found.source,
        "do": found.remedy,
    }
    lines = [_answer(f"{found.word}: {found.what}")]
    for label, values in rows.items():
        lines += _labelled(label, values)
    return lines


def explainable(words: Mapping[str, Sequence[str]]) -> list[Line]:
    """Return the lines of `explain` without TOPIC: all topics."""
    many = sum(map(len, words.values()))
    told = f"{many} topics. You can also pass an error line of a job, or `-` to read a whole log."
    lines = [_answer(told)]
    return lines + [Line(", ".join(of), f"{kind:{_COLUMN}}", 2) for kind, of in words.items()]
