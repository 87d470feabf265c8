"""The verb `inspect`: show what a checkpoint contains and which release wrote it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ckptmigrate.checkpoint import (
    adapters,
    common,
    locate,
    metadata,
    nested,
    root_kinds,
    root_recognition,
    sidecar,
)
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import Kind, RerunRecord
from ckptmigrate.checkpoint.sidecar import Step
from ckptmigrate.checkpoint.topology import derive
from ckptmigrate.errors import CkptMigrateError, DamagedError, RefusedError
from ckptmigrate.optimizer.description import describe
from ckptmigrate.pickles.display import short_repr, words
from ckptmigrate.pickles.tree import Object
from ckptmigrate.places import Place
from ckptmigrate.releases import (
    known_globals,
    optimizer_damage,
    optimizer_state,
    writer_evidence,
)
from ckptmigrate.releases.facts import compat, matches
from ckptmigrate.releases.readers import readers
from ckptmigrate.releases.writer_evidence import PossibleWriters
from ckptmigrate.storage import directories
from ckptmigrate.verbs.inspection import FaultyRank, Inspection, Nested
from ckptmigrate.verbs.result import Watch, unwatched
from ckptmigrate.versions.detection import Reading, read


@dataclass(frozen=True)
class InspectRequest:
    """A request to inspect the checkpoint of a PATH."""

    iteration: int | None = None
    every: bool = False
    verb: str = "inspect"
    target: None = None

    def options(self) -> dict[str, Any]:
        """Return no options: the result depends only on the checkpoint."""
        return {}

    def run(self, path: Place, *, reported: bool = False, watch: Watch = unwatched) -> Inspection:
        """Inspect the checkpoint of a PATH."""
        return inspect(locate.only(path, iteration=self.iteration).checkpoints[0])


def inspect(path: Place) -> Inspection:
    """Inspect one checkpoint.

    Raises:
        CkptMigrateError: `path` is not a readable torch_dist checkpoint.
    """
    directory = directories.directory(path)
    reading = read(directory)
    manifest, anomalies = reading.manifest, []
    written = manifest
    try:
        original = sidecar.original(directory)
        steps, undone, stale = original.steps, original.undone, original.stale
        if undone:  # its release wrote the original; the result has traces of the target, too
            written = nested.load(original.directory, unmarked=True)
    except CkptMigrateError as error:
        steps, undone, stale = (), (), str(error)
    if stale:
        anomalies.append(f"the sidecar does not match the checkpoint: {stale}")
    writer = writer_evidence.possible_writers(written, compat())
    layouts = tuple(layout.ID for layout in reading.layouts)
    likely = _narrowed(layouts, writer, undone)
    try:
        topology = derive(manifest)
    except RefusedError as error:
        topology = None
        anomalies.append(error.reason)
    optimizer, reads = None, tuple[str, ...]()
    try:
        optimizer = describe(manifest)
        reads = () if optimizer is None else _readers(manifest)
    except DamagedError as error:
        anomalies.append(error.reason)
    risk = optimizer_damage.advice(manifest)
    anomalies += [] if risk is None else [risk]
    objects = manifest.metadata.count_objects()
    return Inspection(
        path=path,
        framework=_framework(manifest),
        iteration=manifest.iteration,
        layouts=layouts,
        likely=likely,
        evidence=reading.evidence,
        writer=writer,
        rerun=reading.record,
        faulty=_faulty(reading.record),
        topology=topology,
        tensors=len(manifest.metadata.entries) - objects,
        objects=objects,
        payload_files=len(manifest.payload_files),
        payload_bytes=sum(size for _, size in manifest.payload_files.values()),
        common_place=_common_place(manifest),
        optimizer=optimizer,
        optimizer_readers=reads,
        adapters=adapters.find(manifest.metadata.entries),
        nested=tuple(_nested(*each) for each in manifest.nested.items()),
        steps=steps,
        anomalies=(*anomalies, *_anomalies(reading, writer, likely, migrated=bool(undone))),
    )


def _framework(manifest: Manifest) -> str | None:
    """Return the framework that wrote a checkpoint, if its directories or its globals show it."""
    inside = root_recognition.in_save(manifest.path)
    if inside is not None and inside.kind.framework is not None:
        return inside.kind.framework
    found = root_kinds.of_modules(each.path for each in manifest.common.symbols)
    return None if found is None else found.framework


def _readers(manifest: Manifest) -> tuple[str, ...]:
    """Return the known releases that read the optimizer, if TP and PP stay the same."""
    return tuple(
        each.release for each in readers(compat()) if not optimizer_state.problems(manifest, each)
    )


def _nested(folder: str, found: Manifest) -> Nested:
    objects = found.metadata.count_objects()
    return Nested(
        folder,
        len(found.metadata.entries) - objects,
        objects,
        len(found.payload_files),
        sum(found.all_payload.values()),
        _common_place(found),
    )


def _common_place(found: Manifest) -> str:
    return common.FILE if found.common.in_file else common.KEY


def _narrowed(
    layouts: tuple[str, ...], writer: PossibleWriters, undone: tuple[Step, ...]
) -> tuple[str, ...]:
    """Return the likely layouts: the target of the last migration, else the layouts that the
    possible writers write, else all."""
    if undone and undone[-1].target in layouts:
        return (undone[-1].target,)
    rows = compat()
    left = tuple(
        layout
        for layout in layouts
        if any(matches(release, rows.row(layout).releases) for release in writer.releases)
    )
    return left or layouts


def _faulty(record: RerunRecord) -> tuple[FaultyRank, ...]:
    if record.kind is not Kind.FAULT:
        return ()
    found = []
    for position, shard in sorted(record.shards.items()):
        fields = shard.fields
        rank = FaultyRank(
            position,
            _call(fields.get("failed_validation_call")),
            _suspect(fields.get("suspicious_node")),
            _suspect(fields.get("suspicious_device")),
            _microbatches(fields.get("data_iterator_checkpoints")),
        )
        if (rank.call, rank.node, rank.device) != (None, None, None):
            found.append(rank)
    return tuple(found)


def _call(value: Any) -> str | None:
    """Format a `Call(caller, sequence)`; the caller is (filename, lineno, rank) up to 0.13 and
    (message, rank) from 0.14."""
    if not isinstance(value, Object):
        return None
    caller = value.args[0] if value.args else None
    if not isinstance(caller, Object):
        return short_repr(value)
    *where, rank = caller.args or (None,)
    place = ":".join(words(part) for part in where if isinstance(part, (str, int)))
    return f"{place} on rank {short_repr(rank) if isinstance(rank, int) else '?'}"


def _suspect(value: Any) -> str | None:
    return None if value is None else words(value)


def _microbatches(value: Any) -> int:
    if not isinstance(value, list):
        return 0
    saved = (i.get("saved_microbatches") for i in value if isinstance(i, dict))
    return sum(len(batches) for batches in saved if isinstance(batches, list))


def _anomalies(
    reading: Reading, writer: PossibleWriters, likely: tuple[str, ...], *, migrated: bool
) -> list[str]:
    manifest, record, found = reading.manifest, reading.record, []
    if manifest.common.in_file and common.KEY in manifest.metadata.entries:
        found.append("the common state is there twice; every release reads common.pt")
    if record.kind is Kind.CORRUPT:
        found.append(f"{record.promise}, and {len(record.missing)} shards of it are missing")
    elif manifest.rerun_keys and record.entry is None and not record.shards:
        found.append("rerun shards without a rerun entry; no release asks for them")
    if record.entry is not None and record.kind is Kind.IDLE and not record.shards:
        found.append("an idle rerun entry without its sentinel shards")
    elif record.kind is Kind.IDLE and record.missing:
        found.append(f"an idle rerun entry without {len(record.missing)} of its sentinel shards")
    found += _unknown(reading)
    orphans = [name for name in manifest.payload_files if name not in manifest.metadata.ends]
    if orphans:
        found.append(f"{len(orphans)} data files that no key uses: {', '.join(orphans[:3])}")
    if migrated:  # a migrated checkpoint has traces of two releases
        return found
    if not writer.releases:
        found.append("the checkpoint has traces of several releases, and no migration history")
    elif not any(
        matches(release, compat().row(layout).releases)
        for layout in likely
        for release in writer.releases
    ):
        span = " or ".join(writer.releases)
        found.append(f"layout {likely[0]}, but signs of release {span}: migrated before?")
    return found


def _unknown(reading: Reading) -> list[str]:
    """Return a sentence per unknown global, which a job would import and call, with its file."""
    shards = reading.record.shards.values()
    named: dict[str, Iterable[str]] = {}
    for start, found in reading.manifest.parts.items():
        named[f"{start}{metadata.FILE}"] = found.metadata.named
        named[f"{start}{_common_place(found)}"] = found.common.torch_file.named
    named["the rerun shards"] = [path for shard in shards for path in shard.file.named]
    return [
        f"{where} names a symbol of {_writer_of(path)}, which a job would load: {path}"
        for where, paths in named.items()
        for path in known_globals.unknown(paths)
    ]


def _writer_of(path: str) -> str:
    found = root_kinds.of_modules((path,))
    return "no known writer" if found is None else f"{found.framework} alone"
