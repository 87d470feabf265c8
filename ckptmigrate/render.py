"""Values as text for people: the answer in the first line, the reasons under it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ckptmigrate.advice import Advice
from ckptmigrate.checking import Verdict
from ckptmigrate.commands import shell
from ckptmigrate.diffing import Difference
from ckptmigrate.inspection import Inspection
from ckptmigrate.linking import Link
from ckptmigrate.locate import TRACKER_FILE
from ckptmigrate.migration import Migration
from ckptmigrate.places import Place
from ckptmigrate.planning import Plan
from ckptmigrate.printable import printable
from ckptmigrate.repairing import Repair, Tracker
from ckptmigrate.rerun import STATES, Kind
from ckptmigrate.sidecar import REPAIR
from ckptmigrate.topology import Topology
from ckptmigrate.verifying import Verification
from ckptmigrate.verifying.findings import Severity, counted

_MOST_LINES = 40  # of one list; the rest is counted
_MOST_ITEMS = 8  # of one finding
_COLUMN = 11  # width of the label column


def size(count: int) -> str:
    """A number of bytes, in decimal units."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError


def _payload(files: int, count: int) -> str:
    return f"{files} file{'' if files == 1 else 's'}, {size(count)}"


def inspection(found: Inspection) -> list[str]:
    """`inspect` in lines."""
    record = found.rerun
    first, *others = found.likely + tuple(x for x in found.layouts if x not in found.likely)
    layout = first
    if others:
        layout += f" (or {', '.join(others)}: its rerun facts fit them too)"
    lines = [f"{found.path}: {first}, {record.kind.value}"]
    lines += _labelled("layout", [layout, *dict.fromkeys(found.evidence)])
    lines += _labelled("writer", _writer(found))
    lines += _labelled("rerun", _rerun(found))
    lines += _labelled("job", [_job(found.topology)])
    iteration = "unknown" if found.iteration is None else str(found.iteration)
    lines += _labelled("iteration", [iteration])
    total = found.tensors + found.objects
    lines += _labelled(
        "entries", [f"{total} ({found.tensors} tensors, {found.objects} sharded objects)"]
    )
    lines += _labelled("payload", [_payload(found.payload_files, found.payload_bytes)])
    lines += _labelled("common", [f"in {found.common_place}"])
    lines += _labelled(
        "history",
        [
            f"{step.time} {step.verb} from {' or '.join(step.source)} to {step.target}"
            + (f", lost {', '.join(step.losses)}" if step.losses else "")
            + f" (ckptmigrate {step.version})"
            for step in found.steps
        ]
        or ["no migration"],
    )
    lines += _labelled("anomalies", found.anomalies or ["none"])
    return [printable(line) for line in lines]


def _labelled(label: str, values: Iterable[str]) -> list[str]:
    return [f"  {label if not n else '':{_COLUMN}}{value}" for n, value in enumerate(values)]


def _writer(found: Inspection) -> list[str]:
    releases = found.writer.releases
    if not releases:
        return ["unknown: the signs contradict each other", *map(str, found.writer.decisive)]
    span = releases[0] if len(releases) == 1 else f"{releases[0]} to {releases[-1]}"
    torch = ", ".join(found.writer.torch)
    return [f"release {span} (torch {torch})", *map(str, found.writer.decisive)]


def _rerun(found: Inspection) -> list[str]:
    record = found.rerun
    if record.kind is Kind.CORRUPT:
        return [
            "corrupt: the common state tells of a rerun and these shards are missing",
            *_cut([f"missing {key}" for key in record.missing]),
        ]
    parts = [record.kind.value]
    if record.state is not None:
        parts.append(f"state {STATES[record.state]}")
    if record.mode:
        parts.append(f"mode {record.mode}")
    if record.iteration is not None:
        parts.append(f"iteration {record.iteration}")
    if record.shards:
        grid = " x ".join(map(str, record.grid))
        parts.append(f"{len(record.shards)} shards in a grid of {grid}")
    lines = [", ".join(parts)]
    for rank in found.faulty:
        at = ".".join(map(str, rank.position))
        suspects = [
            f"suspicious {name} {value}"
            for name, value in (("node", rank.node), ("device", rank.device))
            if value is not None
        ]
        told = [f"failed call {rank.call}"] if rank.call else []
        lines.append(f"shard {at}: {', '.join([*told, *suspects])}")
    return [lines[0], *_cut(lines[1:])]


def _job(topology: Topology | None) -> str:
    if topology is None:
        return "contradictory, see anomalies"
    sizes = [
        ("TP", topology.tensor),
        ("PP", topology.pipeline),
        ("CP", topology.context),
        ("DP", topology.data),
    ]
    parts = " x ".join(f"{name} {value or '?'}" for name, value in sizes)
    return f"world size {topology.world or '?'} = {parts}"


def plan(found: Plan) -> list[str]:
    """A plan in lines that read like a diff."""
    source = " or ".join(found.source)
    lines = [f"{found.verb} {found.path}: {source} -> {found.target}"]
    if found.satisfied:
        lines.append(f"  nothing to change: release {found.target} resumes from it as it is")
    elif found.changes_nothing and found.verb == REPAIR:
        lines.append("  nothing to repair")
    elif found.changes_nothing:
        lines.append(f"  nothing to change: it is {found.layout} already")
    lines += [f"  {line}" for line in _cut([str(d) for d in found.differences])]
    for name, content in found.files.items():
        if content is None:
            lines.append(f"  - file {name}")
        else:
            sign = "~" if name in found.originals or not found.originals else "+"
            lines.append(f"  {sign} file {name}: {size(len(content))}")
    lines.append(f"  payload: {_payload(*found.payload)}, untouched")
    lines += [f"  loss: {loss}" for loss in found.losses]
    lines += [f"  note: {note}" for note in found.notes]
    return [printable(line) for line in lines]


def verdict(path: Place, found: Verdict, advice: Advice) -> list[str]:
    """`check --reader` in lines: the answer, then each reason and what to do."""
    release = f"release {found.reader.release} (torch {found.reader.torch})"
    lines = [f"{_answer(found)}: {release} on {path}"]
    for obstacle in found.obstacles:
        lines.append(f"  because {obstacle.why}")
        lines.append(f"    error  {obstacle.error}")
        if obstacle.flag:
            lines.append(f"    flag   run the job with {obstacle.flag}")
    lines += [f"  warning: {warning}" for warning in found.warnings]
    lines += _advice(found, advice)
    return [printable(line) for line in lines]


def _advice(found: Verdict, advice: Advice) -> list[str]:
    flags = [f"run the job with {' '.join(advice.flags)}"] if advice.flags else []
    if advice.command:
        return [f"  fix: {advice.command}", *(f"  then: {flag}" for flag in flags)]
    if found.resumes:
        return []
    return [f"  fix: no command helps; {flag}" for flag in flags] or [
        f"  fix: no command and no flag helps: {advice.reason}"
    ]


def verdicts(path: Place, found: Sequence[Verdict]) -> list[str]:
    """`check` in lines, one per release."""
    good = sum(verdict.resumes for verdict in found)
    lines = [f"{path}: {good} of {len(found)} releases resume"]
    for each in found:
        reason = each.obstacles[0].error if each.obstacles else "; ".join(each.warnings)
        lines.append(f"  {each.reader.release:11}{_answer(each)}{': ' if reason else ''}{reason}")
    return [printable(line) for line in lines]


def _answer(found: Verdict) -> str:
    if not found.resumes:
        return "no"
    return f"yes, but without {', '.join(found.without)}" if found.without else "yes"


def repair(found: Repair) -> list[str]:
    """A repair in lines: plan by plan, then the tracker."""
    lines = [line for each in found.migration.plans for line in plan(each)]
    if found.tracker is not None:
        file = found.tracker.as_json()
        lines.append(f"repair {file['path']}: -> {found.tracker.text}")
        lines.append(f"  because {found.tracker.why}")
    return [printable(line) for line in lines]


def verification(found: Verification, *, full: bool) -> list[str]:
    """`verify` in lines: the answer, then each finding with what to do."""
    counts = [counted(n, s.value) for s in Severity if (n := found.count(s))]
    files = sum(each.payload_files for each in found.checkpoints)
    held = _payload(files, sum(each.payload_bytes for each in found.checkpoints))
    entries = counted(sum(each.entries for each in found.checkpoints), "entry", "entries")
    paths = {each.path for each in found.checkpoints}
    about = found.path if len(paths) != 1 else next(iter(paths))
    many = f"{len(paths)} checkpoints, " if len(paths) > 1 else ""
    answer = ", ".join([*([] if not found.clean else ["clean"]), *counts])
    lines = [f"{about}: {answer} ({many}{entries}, payload {held})"]
    for finding in found.findings:
        where = "" if finding.path == about else f"{finding.path}: "
        lines.append(f"  {finding.severity.value} {finding.code}: {where}{finding.what}")
        items = list(finding.items)
        items = items if full else _cut(items, _MOST_ITEMS, "--full or --json has")
        lines += [f"    {item}" for item in items]
        lines.append(f"    fix: {finding.remedy}")
    return [printable(line) for line in lines]


def recovered(done: Mapping[Place, str]) -> list[str]:
    """What was made of migrations that had not finished."""
    return [printable(f"{place}: {what}") for place, what in done.items()]


def outcome(done: Migration, link: Link | None, tracker: Tracker | None = None) -> list[str]:
    """What stands there after a migration, and how to undo it."""
    lines = []
    if done.destination is None:
        changed = [p.path for p in done.plans if not p.changes_nothing]
        changed += [tracker.root / TRACKER_FILE] if tracker else []
        lines += [f"rewrote {path}" for path in changed] or ["nothing was written"]
    else:
        by = "" if link is None else f", payload by {link.value}"
        # Megatron reads local paths and multi-storage-client; other stores are for its callers.
        loads = isinstance(done.destination, Path) or done.destination.protocol == "msc"
        use = f": use it as {shell('--load', done.destination)}" if loads else ""
        lines.append(f"wrote {done.destination}{by}{use}")
    note = " (the source is unchanged)" if done.destination else ""
    undo = done.undo() + ([tracker.undo] if tracker else [])
    lines += [f"undo: {command}{note}" for command in undo]
    lines += [f"caution: {left}" for left in done.leftovers]
    if link is Link.HARDLINK:
        lines.append(
            "caution: payload files are hard links; a job that saves one of these iterations "
            "again overwrites them in place, in both roots"
        )
    if link is Link.SYMLINK:
        lines.append("caution: payload files are links into the source, which must stay there")
    return [printable(line) for line in lines]


def differences(found: Sequence[Difference], *, full: bool) -> list[str]:
    """`diff` in lines."""
    if not found:
        return ["no difference"]
    lines = [str(difference) for difference in found]
    count = f"{len(lines)} difference{'s' if len(lines) > 1 else ''}"
    return [count, *(lines if full else _cut(lines))]


def _cut(lines: list[str], most: int = _MOST_LINES, where: str = "--json has") -> list[str]:
    if len(lines) <= most:
        return lines
    return [*lines[:most], f"... and {len(lines) - most} more ({where} all)"]
