"""The result of `inspect`: writer, layout, rerun state, sizes, history and problems."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.checkpoint.adapters import AdapterSummary
from ckptmigrate.checkpoint.rerun import STATES, Kind, RerunRecord
from ckptmigrate.checkpoint.sidecar import REPAIR, Step
from ckptmigrate.checkpoint.topology import Topology
from ckptmigrate.optimizer.description import OptimizerSummary
from ckptmigrate.places import Place
from ckptmigrate.releases.facts import compat
from ckptmigrate.releases.writer_evidence import PossibleWriters
from ckptmigrate.report.document import CommandOutcome, Document, Facts
from ckptmigrate.text.printable import counted
from ckptmigrate.text.sizes import data_files, size
from ckptmigrate.verbs.layouts import layout_name
from ckptmigrate.verbs.result import Digests, Status, Written, digests_of

EVIDENCE: Final = "evidence"  # the label of the facts that `inspect --full` adds


@dataclass(frozen=True)
class FaultyRank:
    """The fault context in one rerun shard.

    Attributes:
        position: the offset of the shard: (rank,), or (PP rank, TP rank).
        call: the validation call that failed, or None if it failed on another rank.
        node, device: the suspicious node and device, or None.
        microbatches: number of saved microbatches, which the job reruns.
    """

    position: tuple[int, ...]
    call: str | None
    node: str | None
    device: str | None
    microbatches: int


@dataclass(frozen=True)
class Nested:
    """A checkpoint in a directory of another checkpoint.

    Attributes:
        folder: its path relative to the outer checkpoint.
        tensors, objects: number of keys of tensors and of sharded objects.
        payload_files, payload_bytes: number and size, in bytes, of the data files.
        common_place: where the common state is stored: `common.pt`, or the key of the sharded
            object.
    """

    folder: str
    tensors: int
    objects: int
    payload_files: int
    payload_bytes: int
    common_place: str

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (docs/json.md, `inspect --json`)."""
        return {
            "folder": self.folder,
            "entries": _entries_json(self.tensors, self.objects),
            "payload": {"files": self.payload_files, "bytes": self.payload_bytes},
            "common_state": self.common_place,
        }


def _entries_json(tensors: int, objects: int) -> dict[str, int]:
    return {"total": tensors + objects, "tensors": tensors, "objects": objects}


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect`.

    Attributes:
        path: the directory of the checkpoint.
        framework: the framework whose layout or globals it has; None if only Megatron's.
        iteration: the iteration of the checkpoint, or None.
        layouts: names of all layouts that match the rerun data.
        likely: the layouts that the other evidence does not exclude; never empty.
        evidence: the reasons, one sentence per layout in `layouts`.
        writer: the releases that may have written the checkpoint; of a migrated one, its original.
        rerun: the rerun state.
        faulty: the fault contexts that have a failed call or a suspicious node or device.
        topology: the parallelism, in ranks; None if unknown.
        tensors, objects: number of keys of tensors and of sharded objects.
        payload_files, payload_bytes: number and size, in bytes, of the data files.
        common_place: where the common state is stored: `common.pt`, or the key of the sharded
            object.
        optimizer: a summary of the optimizer; None if there is none, or it cannot be read.
        optimizer_readers: the known releases that read it, oldest first.
        adapters: the adapters of a checkpoint without a base model, or None.
        nested: the checkpoints in directories of this checkpoint.
        steps: the migration history.
        anomalies: problems, one sentence each.
    """

    path: Place
    framework: str | None
    iteration: int | None
    layouts: tuple[str, ...]
    likely: tuple[str, ...]
    evidence: tuple[str, ...]
    writer: PossibleWriters
    rerun: RerunRecord
    faulty: tuple[FaultyRank, ...]
    topology: Topology | None
    tensors: int
    objects: int
    payload_files: int
    payload_bytes: int
    common_place: str
    optimizer: OptimizerSummary | None
    optimizer_readers: tuple[str, ...]
    adapters: AdapterSummary | None
    nested: tuple[Nested, ...]
    steps: tuple[Step, ...]
    anomalies: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Return whether a release of its layout can load it: the rerun state is not corrupt."""
        return self.rerun.kind is not Kind.CORRUPT

    @property
    def status(self) -> Status:
        """Return the status."""
        return Status.OK if self.healthy else Status.PROBLEMS

    @property
    def text(self) -> str:
        """Return a summary in a few words: the release that wrote it, iteration, rerun state."""
        first = f": {self.anomalies[0]}" if self.anomalies else ""
        return f"{self._summary}{first}"

    @property
    def written(self) -> Written:
        """Return an empty value: nothing is written."""
        return Written()

    @property
    def digests(self) -> Digests:
        """Return the hashes of the metadata files."""
        return {str(self.path): digests_of(self.path)}

    @property
    def _summary(self) -> str:
        iteration = "" if self.iteration is None else f", iteration {self.iteration}"
        adapters = "" if self.adapters is None else "adapters alone, "
        targets = [step.target for step in self.steps if step.verb != REPAIR]
        migrated = f", migrated to {targets[-1]}" if targets else ""
        writer = f"{adapters}{_writer(self.writer)}{migrated}"
        return f"{writer}{iteration}, rerun state {self.rerun.kind.value}"

    @property
    def facts(self) -> Facts:
        """Return the facts: label -> lines."""
        return _facts(self)

    def document(self) -> Document:
        """Return the document."""
        problems = counted(len(self.anomalies), "problem") if self.anomalies else "no problems"
        return Document(
            CommandOutcome.PASSED if self.healthy else CommandOutcome.FAILED,
            f"{self.path}: {self._summary}, {problems}",
            found=(self.facts,),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (docs/json.md, `inspect --json`)."""
        record, topology = self.rerun, self.topology
        return {
            "path": str(self.path),
            "framework": self.framework,
            "iteration": self.iteration,
            "layout": {
                "candidates": list(self.layouts),
                "likely": list(self.likely),
                "evidence": list(self.evidence),
            },
            "writer": {
                "releases": list(self.writer.releases),
                "evidence": [str(sign) for sign in self.writer.decisive],
                "torch": list(self.writer.torch),
            },
            "rerun": {
                "state": record.kind.value,
                "mode": record.mode,
                "machine_state": None if record.state is None else STATES[record.state],
                "iteration": record.iteration,
                "grid": list(record.grid),
                "shards": len(record.shards),
                "missing": list(record.missing),
                "fault": [
                    {
                        "position": list(rank.position),
                        "failed_call": rank.call,
                        "suspicious_node": rank.node,
                        "suspicious_device": rank.device,
                        "saved_microbatches": rank.microbatches,
                    }
                    for rank in self.faulty
                ],
            },
            "topology": {
                "world": topology.world if topology else None,
                "tensor": topology.tensor if topology else None,
                "pipeline": topology.pipeline if topology else None,
                "data": topology.data if topology else None,
                "context": topology.context if topology else None,
            },
            "entries": _entries_json(self.tensors, self.objects),
            "payload": {"files": self.payload_files, "bytes": self.payload_bytes},
            "common_state": self.common_place,
            "optimizer": self._optimizer_json(),
            "adapters": None if self.adapters is None else self.adapters.as_json(),
            "nested": [each.as_json() for each in self.nested],
            "migrations": [
                {
                    "verb": step.verb,
                    "from": list(step.source),
                    "to": step.target,
                    "version": step.version,
                    "time": step.time,
                    "losses": list(step.losses),
                    "changes": list(step.changes),
                }
                for step in self.steps
            ],
            "anomalies": list(self.anomalies),
        }

    def _optimizer_json(self) -> dict[str, Any] | None:
        found = self.optimizer
        if found is None:
            return None
        return {
            "sharding_type": found.type,
            "kind": found.kind,
            "optimizers": found.chained,
            "dtypes": list(found.dtypes),
            "parameters": found.parameters,
            "buckets": found.buckets,
            "elements": found.elements,
            "bytes": found.size,
            "readers": list(self.optimizer_readers),
        }


# -- the facts


def _facts(found: Inspection) -> Facts:
    kinds = f"{found.tensors} tensors, {found.objects} sharded objects"
    nested = [
        f"{each.folder}: {counted(each.tensors + each.objects, 'key')}, common state in "
        f"{each.common_place}, {data_files(each.payload_files, each.payload_bytes)}"
        for each in found.nested
    ]
    history = [
        f"{step.time} {step.verb} from {' or '.join(step.source)} to {step.target}"
        + (f", dropped {', '.join(step.losses)}" if step.losses else "")
        + f" (ckptmigrate {step.version})"
        for step in found.steps
    ]
    torch = ", ".join(_tightest(found.writer.torch))
    others = [each for each in found.layouts if each not in found.likely]
    also = f"same rerun data as {', '.join((*found.likely[1:], *others))}"
    rows: dict[str, Sequence[str]] = {
        "written by": [f"{_writer(found.writer)} (torch {torch})"],
        "framework": [] if found.framework is None else [found.framework],
        "iteration": ["unknown" if found.iteration is None else str(found.iteration)],
        "parallelism": [_parallelism(found.topology)],
        "rerun state": _rerun(found),
        "layout": [layout_name(found.likely[0])],
        "keys": [f"{found.tensors + found.objects} ({kinds})"],
        "data files": [f"{found.payload_files} ({size(found.payload_bytes)})"],
        "common state": [found.common_place],
        "optimizer": _optimizer(found),
        "adapters": [] if found.adapters is None else [found.adapters.text, found.adapters.need],
        "nested": nested,
        "history": history,
        "problems": found.anomalies or ["none"],
        EVIDENCE: [
            *map(str, found.writer.decisive),
            *dict.fromkeys(found.evidence),
            *([also] if len(found.layouts) > 1 else []),
        ],
    }
    return Facts(str(found.path), {label: tuple(lines) for label, lines in rows.items() if lines})


def _optimizer(found: Inspection) -> list[str]:
    about = found.optimizer
    if about is None:
        return ["none"]
    parts = [
        about.kind,
        *([f"{about.chained} optimizers"] if about.chained > 1 else []),
        *([" and ".join(about.dtypes)] if about.dtypes else []),
        *([] if about.parameters is None else [counted(about.parameters, "parameter")]),
        *([] if about.buckets is None else [counted(about.buckets, "bucket")]),
        *([] if about.elements is None else [f"{about.elements} elements"]),
        size(about.size),
    ]
    return [", ".join(parts), f"read by {_spans(found.optimizer_readers)}"]


def _spans(releases: Sequence[str]) -> str:
    """Return known releases in words, consecutive ones as a range."""
    known = [row.release for row in compat().readers]
    runs: list[list[str]] = []
    for each in known:
        if each not in releases:
            runs.append([])
        elif runs:
            runs[-1].append(each)
        else:
            runs = [[each]]
    ranges = [run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs if run]
    return f"Megatron-Core {' and '.join(ranges)}" if ranges else "no known release"


def _writer(found: PossibleWriters) -> str:
    """Return the releases that may have written a checkpoint."""
    if not found.releases:
        return "unknown release (it has traces of several releases)"
    first, last = found.releases[0], found.releases[-1]
    return f"Megatron-Core {first if first == last else f'{first} to {last}'}"


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
            "corrupt: a fault is recorded, and these rerun shards are missing",
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
        call = [f"failed call {rank.call}"] if rank.call else []
        lines.append(f"shard {at}: {', '.join([*call, *suspects])}")
    return lines


def _parallelism(topology: Topology | None) -> str:
    if topology is None:
        return "contradictory, see problems"
    sizes = [
        ("TP", topology.tensor),
        ("PP", topology.pipeline),
        ("CP", topology.context),
        ("DP", topology.data),
    ]
    parts = " x ".join(f"{name} {value or '?'}" for name, value in sizes)
    return f"world size {topology.world or '?'} = {parts}"
