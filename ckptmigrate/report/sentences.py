"""Sentences that the terminal output and the reports share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ckptmigrate.checkpoint.rerun import STATES, Kind
from ckptmigrate.checkpoint.topology import Topology
from ckptmigrate.checks.codes import Severity
from ckptmigrate.text.printable import counted
from ckptmigrate.writing.links import Link

if TYPE_CHECKING:
    from ckptmigrate.checks.verification import Verification
    from ckptmigrate.verbs.inspect import Inspection

CAUTIONS: Final[Mapping[Link | None, str]] = {
    Link.HARDLINK: "payload files are hard links; a job that saves one of these iterations again "
    "overwrites them in place, in both roots",
    Link.SYMLINK: "payload files are links into the source, which must stay there",
}


def size(count: int) -> str:
    """Return a number of bytes in decimal units."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError


def payload(files: int, count: int) -> str:
    """Return the number and the size of data files as text."""
    return f"{counted(files, 'file')}, {size(count)}"


def severities(found: Verification) -> list[str]:
    """Return the number of problems for each severity that occurs."""
    return [counted(n, s.value) for s in Severity if (n := found.count(s))]


def inspected(found: Inspection) -> dict[str, Sequence[str]]:
    """Return the facts of a checkpoint: label -> the answer, then the evidence for it."""
    first, *others = found.likely + tuple(x for x in found.layouts if x not in found.likely)
    layout = first
    if others:
        layout += f" (or {', '.join(others)}: its rerun facts fit them too)"
    total = found.tensors + found.objects
    history = [
        f"{step.time} {step.verb} from {' or '.join(step.source)} to {step.target}"
        + (f", lost {', '.join(step.losses)}" if step.losses else "")
        + f" (ckptmigrate {step.version})"
        for step in found.steps
    ]
    nested = [
        f"{each.folder}: {counted(each.tensors + each.objects, 'entry', 'entries')}, common state "
        f"in {each.common_place}, payload {payload(each.payload_files, each.payload_bytes)}"
        for each in found.nested
    ]
    return {
        "layout": [layout, *dict.fromkeys(found.evidence)],
        "writer": _writer(found),
        "rerun": _rerun(found),
        "job": [_job(found.topology)],
        "iteration": ["unknown" if found.iteration is None else str(found.iteration)],
        "entries": [f"{total} ({found.tensors} tensors, {found.objects} sharded objects)"],
        "payload": [payload(found.payload_files, found.payload_bytes)],
        "common": [f"in {found.common_place}"],
        **({"nested": nested} if nested else {}),
        "history": history or ["no migration"],
        "anomalies": found.anomalies or ["none"],
    }


def _writer(found: Inspection) -> list[str]:
    releases = found.writer.releases
    if not releases:
        return ["unknown: the signs contradict each other", *map(str, found.writer.decisive)]
    span = releases[0] if len(releases) == 1 else f"{releases[0]} to {releases[-1]}"
    torch = ", ".join(_tightest(found.writer.torch))
    return [f"release {span} (torch {torch})", *map(str, found.writer.decisive)]


def _tightest(specifiers: Iterable[str]) -> list[str]:
    """Return the tightest lower and upper bound: `>2.5.1` for `>=2.3, >2.5.1`.

    Args:
        specifiers: single bounds that all hold.
    """
    from packaging.version import Version

    def bound(specifier: str) -> Version:
        return Version(specifier.lstrip("<>="))

    least = sorted((each for each in specifiers if each.startswith(">")), key=bound)[-1:]
    most = sorted((each for each in specifiers if each.startswith("<")), key=bound)[:1]
    return least + most


def _rerun(found: Inspection) -> list[str]:
    record = found.rerun
    if record.kind is Kind.CORRUPT:
        return [
            f"corrupt: {record.promise} and these shards are missing",
            *(f"missing {key}" for key in record.missing),
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
        shards = "1 shard" if len(record.shards) == 1 else f"{len(record.shards)} shards"
        parts.append(f"{shards} in a grid of {grid}")
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
    return lines


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
