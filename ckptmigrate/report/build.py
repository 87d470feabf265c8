"""Reports built from the results of commands; checkpoints are read before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ckptmigrate import clock
from ckptmigrate.checkpoint import sidecar
from ckptmigrate.checkpoint.sidecar import digest, digest_of
from ckptmigrate.checks.verification import Verification
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.places import Place
from ckptmigrate.planning.fixes import Advice
from ckptmigrate.planning.losses import LOSSES
from ckptmigrate.planning.planner import Plan
from ckptmigrate.releases.prediction import Verdict
from ckptmigrate.report.document import (
    Change,
    Facts,
    FileChange,
    Loss,
    Outcome,
    Prediction,
    Problem,
    Reason,
    Refusal,
    Report,
    Step,
)
from ckptmigrate.report.sentences import CAUTIONS, inspected, payload, severities
from ckptmigrate.storage import directories
from ckptmigrate.text.commands import command, load
from ckptmigrate.text.printable import counted
from ckptmigrate.verbs.inspect import Inspection, inspect
from ckptmigrate.verbs.migrate import Migration
from ckptmigrate.verbs.repair import Repair, Tracker
from ckptmigrate.version import __version__
from ckptmigrate.writing.links import Link


def begun(verb: str, paths: Sequence[str]) -> Report:
    """Return the report of a command that has no result yet, about absolute paths."""
    return Report(verb, tuple(paths), __version__, clock.now(), Outcome.PLANNED, "")


def of_migration(report: Report, planned: Migration) -> Report:
    """Return the report of a migration or undo that is not carried out yet (see `carried_out`)."""
    plans = planned.plans
    changes = tuple(
        _change(plan, planned.destination / name if planned.destination else plan.path)
        for plan, name in zip(plans, planned.names, strict=True)
    )
    steps = [Step("undo", each) for each in planned.undo()]
    use = None if planned.destination is None else load(planned.destination)
    if use is not None:
        steps.insert(0, Step("use", use))
    recovered = tuple(f"{place}: {what}" for place, what in planned.recovered.items())
    left = tuple(f"A run left something behind: {each.fix}" for each in planned.leftovers)
    written = not all(plan.changes_nothing for plan in plans) or planned.destination is not None
    return replace(
        report,
        outcome=Outcome.PLANNED if written else Outcome.UNCHANGED,
        answer="A dry run: nothing was written." if written else "Nothing had to be written.",
        found=tuple(_facts(inspect(plan.path)) for plan in plans),
        changes=changes,
        steps=tuple(steps) if written else (),
        cautions=recovered + left,
    )


def of_plan(report: Report, plan: Plan, result: Place) -> Report:
    """Return the report of one checkpoint of a batch, before its plan is carried out."""
    return replace(report, found=(_facts(inspect(plan.path)),), changes=(_change(plan, result),))


def of_repair(report: Report, planned: Repair) -> Report:
    """Return the report of a repair that is not carried out yet (see `carried_out`)."""
    report = of_migration(report, planned.migration)
    if planned.tracker is None:
        return report
    return replace(
        report,
        outcome=Outcome.PLANNED,
        answer="A dry run: nothing was written.",
        changes=(*report.changes, _tracker(planned.tracker)),
        steps=tuple(Step("undo", each) for each in planned.undo()),
    )


def carried_out(report: Report, link: Link | None) -> Report:
    """Return the report of a migration that is carried out.

    Args:
        link: the link method of the data files; None for an in-place migration.
    """
    if report.outcome is Outcome.UNCHANGED:
        return report
    source = "was changed in place" if link is None else "is unchanged"
    caution = (f"{CAUTIONS[link].capitalize()}.",) if link in CAUTIONS else ()
    files = sum(change.payload_files for change in report.changes)
    how = f"payload {'untouched' if link is None else f'by {link.value}'}"
    return replace(
        report,
        outcome=Outcome.DONE,
        answer=f"{counted(len(report.found), 'checkpoint')}, {how} "
        f"({counted(files, 'file')}); the source {source}.",
        cautions=report.cautions + caution,
    )


def of_check(
    report: Report, path: Place, verdicts: Sequence[Verdict], advice: Advice | None
) -> Report:
    """Return the report of `check`: the verdicts, and with --reader also the fix."""
    good = sum(verdict.resumes for verdict in verdicts)
    if advice is None:
        answer = f"{good} of {len(verdicts)} releases resume from it."
        steps = []
        if good < len(verdicts):
            steps = [Step("ask", command("check", path, "--reader", "RELEASE"))]
    else:
        asked = verdicts[0].reader
        how = "resumes" if verdicts[0].resumes else "does not resume"
        without = f" (without {', '.join(verdicts[0].without)})" if verdicts[0].without else ""
        answer = f"Release {asked.release} (torch {asked.torch}) {how} from it{without}."
        steps = [Step("fix", advice.command)] if advice.command else []
        steps += [Step("job", " ".join(advice.flags))] if advice.flags else []
        if advice.reason:
            answer += f" No command and no flag helps: {advice.reason}."
        if told := asked.caveat:
            answer += f" Release {told}."
    return replace(
        report,
        outcome=Outcome.PASSED if advice is None or good else Outcome.FAILED,
        answer=answer,
        found=(_facts(inspect(path)),),
        predictions=tuple(
            Prediction(
                str(path),
                each.reader.release,
                each.reader.torch,
                each.resumes,
                tuple(each.without),
                tuple(each.warnings),
                tuple(each.depends),
                tuple(Reason(o.error, o.why, o.flag) for o in each.obstacles),
            )
            for each in verdicts
        ),
        steps=tuple(steps),
    )


def of_verify(report: Report, found: Verification) -> Report:
    """Return the report of `verify`."""
    counts = severities(found)
    return replace(
        report,
        outcome=Outcome.PASSED if found.clean else Outcome.FAILED,
        answer=f"Found: {', '.join(counts)}." if counts else "Clean: nothing is wrong.",
        found=tuple(
            Facts(
                str(each.path),
                {
                    "entries": (str(each.entries),),
                    "payload": (payload(each.payload_files, each.payload_bytes),),
                    "errors": (str(len(each.errors)),),
                },
            )
            for each in found.checkpoints
        ),
        problems=tuple(
            Problem(
                each.severity.value,
                each.code,
                str(each.path),
                each.what,
                tuple(each.items),
                each.as_json()["meaning"],
                each.remedy,
            )
            for each in found.findings
        ),
    )


def refused(report: Report, error: CkptMigrateError) -> Report:
    """Return the report of a command that failed: it keeps the facts and drops the plans."""
    path = None if error.path is None else str(error.path)
    return replace(
        report,
        outcome=Outcome.REFUSED,
        answer=f"{error.reason}." if path is None else f"{path}: {error.reason}.",
        changes=(),
        predictions=(),
        problems=(),
        steps=(),
        refusal=Refusal(type(error).__name__, path, error.reason, error.fix),
    )


def _change(plan: Plan, result: Place) -> Change:
    files = [
        FileChange(
            name, None if new is None else len(new), plan.change.before.get(name), digest(new)
        )
        for name, new in plan.files.items()
    ]
    directory = directories.directory(plan.path)
    before = digest_of(directory, sidecar.FILE)
    told = plan.change.sidecar
    if before != digest(told) and not plan.changes_nothing:
        size = None if told is None else len(told)
        files.append(FileChange(sidecar.FILE, size, before, digest(told)))
    return Change(
        path=str(plan.path),
        result=str(result),
        source=plan.source,
        target=plan.target,
        layout=plan.layout,
        differences=tuple(str(each) for each in plan.differences),
        files=tuple(files),
        losses=tuple(Loss(name, LOSSES[name].meaning) for name in plan.losses),
        notes=plan.notes,
        payload_files=plan.payload[0],
        payload_bytes=plan.payload[1],
    )


def _tracker(found: Tracker) -> Change:
    """Return the change of the tracker files of a root."""
    files = tuple(
        FileChange(name, len(new), digest(found.before[name]), digest(new))
        for name, new in found.files.items()
    )
    line = f"~ tracker -> {found.text}: {found.why}"
    root, left = str(found.root), () if found.left is None else (found.left,)
    return Change(root, root, (), found.text, "", (line,), files, (), left, 0, 0)


def _facts(found: Inspection) -> Facts:
    told = inspected(found)
    return Facts(str(found.path), {label: tuple(values) for label, values in told.items()})
