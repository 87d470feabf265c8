"""Planning of a migration.

`plan` has no side effects: it reads a checkpoint and returns a value. `--dry-run` prints the value,
and only `writing` carries it out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckptmigrate import versions
from ckptmigrate.checkpoint import integrity, nested, sidecar
from ckptmigrate.checkpoint.differences import Difference
from ckptmigrate.checkpoint.manifest import MARKS, Manifest
from ckptmigrate.checkpoint.metadata import Metadata
from ckptmigrate.checkpoint.sidecar import FileState, Original, Step, digest
from ckptmigrate.checkpoint.topology import Given
from ckptmigrate.places import Place
from ckptmigrate.planning import optimizers, refusals
from ckptmigrate.planning.change import Change, NewPayload
from ckptmigrate.planning.compaction import Compaction
from ckptmigrate.planning.conversion import Converted
from ckptmigrate.planning.extra_states import ExtraStateChange, summarized
from ckptmigrate.planning.losses import INTEGRITY, OPTIMIZER_STATE
from ckptmigrate.planning.results import beginning, reached
from ckptmigrate.planning.targets import DROP, Target, continued
from ckptmigrate.releases import optimizer_damage
from ckptmigrate.releases.facts import minor
from ckptmigrate.releases.writer_evidence import possible_writers
from ckptmigrate.storage import directories, link_rules
from ckptmigrate.storage.directories import Directory, Once
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.commands import command
from ckptmigrate.text.printable import few
from ckptmigrate.versions.detection import Reading, read

if TYPE_CHECKING:
    from ckptmigrate.optimizer.resharding import Conversion


@dataclass(frozen=True)
class Plan:
    """The plan of a migration of one checkpoint.

    Attributes:
        iteration: the iteration of the checkpoint, or None.
        verb: `upgrade`, `downgrade`, `repair` or `undo`.
        source: names of the layouts that the checkpoint may have now.
        target: the name of the target.
        layout: the layout of the result.
        undo: the command that reverts the migration in place.
        satisfied: whether the target release can resume from the unmigrated checkpoint, so that
            nothing is written.
        differences: the changes in meaning, in order.
        change: the new bytes of metadata files, and the original files to keep for undo; its
            sidecar is None if the result is the original checkpoint.
        losses: names of the data losses, all of them allowed.
        permitted: those of `losses` that the user had to allow with --allow-loss.
        notes: choices made and evidence used.
        payload: (number of data files of the result that exist, their size in bytes); none of
            them changes.
        unused: the number of bytes in these data files that no key uses; None if not counted.
        optimizer: the conversion or removal of the optimizer, or None if it is kept as it is.
        extra_state: the change of the `_extra_state`, or None if it is kept as it is.
        compaction: the new data files without unused bytes, or None if there are none.
        freed: the bytes of the originals that `undo --forget` removes, or None if they are kept.
        written: the new `.metadata`, parsed during validation. While a reference to it exists,
            reading the same bytes back does not parse them again.
    """

    iteration: int | None
    verb: str
    source: tuple[str, ...]
    target: str
    layout: str
    undo: str
    satisfied: bool
    differences: tuple[Difference, ...]
    change: Change
    losses: tuple[str, ...]
    notes: tuple[str, ...]
    payload: tuple[int, int]
    permitted: tuple[str, ...] = ()
    unused: int | None = None
    optimizer: Conversion | None = field(default=None, repr=False, compare=False)
    extra_state: ExtraStateChange | None = field(default=None, repr=False, compare=False)
    compaction: Compaction | None = field(default=None, repr=False, compare=False)
    freed: int | None = None
    written: Metadata | None = field(default=None, repr=False, compare=False)

    @property
    def path(self) -> Place:
        """The path of the checkpoint."""
        return self.change.path

    @property
    def files(self) -> Mapping[str, bytes | None]:
        """Metadata file -> its new bytes, or None to remove it."""
        return self.change.files

    def out_of_place(self) -> Plan:
        """Return the plan for a result in a new root, with its steps recorded as out of place."""
        known = self.change.sidecar
        if known is None:
            return self
        # In place, the data files that the result does not use are kept for `undo`.
        left_out = () if self.compaction is None else self.compaction.left_out
        change = replace(
            self.change,
            files={**self.change.files, **dict.fromkeys(left_out)},
            after={**self.change.after, **dict.fromkeys(left_out)},
            sidecar=sidecar.out_of_place(known),
        )
        return replace(self, change=change)

    @property
    def changes_nothing(self) -> bool:
        """Whether no file changes, not even the migration history."""
        return not self.files and self.compaction is None and self.verb != "undo"


def plan(
    path: Place,
    target: Target,
    *,
    verb: str | None,
    allowed: Collection[str] = (),
    given: Given | None = None,
    now: str,
    version: str,
    hash_payload: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """Plan the migration of one checkpoint.

    Args:
        path: the path of the checkpoint.
        target: a layout, `universal`, or a release.
        verb: `upgrade` or `downgrade`, to refuse the other direction; None allows both.
        allowed: names of the data losses (see LOSSES) that the user allows.
        given: parallel sizes, in ranks, that the checkpoint does not contain.
        now: the time to record, ISO 8601.
        version: the version of ckptmigrate to record.
        hash_payload: whether the hashes of data files must match integrity.json, too.
        progress: called with the number of bytes hashed, or read of an optimizer to convert, since
            the last call.

    Raises:
        CorruptError: rerun shards are missing.
        RefusedError: the direction is wrong, the layout is unknown, a data loss is not allowed, or
            parallel sizes are unknown or contradict each other.
        CkptMigrateError: the directory is not a readable torch_dist checkpoint.
    """
    directory = Once(directories.directory(path))
    current = read(directory)
    damaged = [
        f"{start}{name}"
        for start, part in nested.parts(directory)
        for name in integrity.mismatched(part, payload=hash_payload, progress=progress)
    ]
    if damaged and INTEGRITY not in allowed:
        raise refusals.no_integrity(path, damaged)
    verb = verb or _verb_for(current, target)
    refusals.check_direction(current, target, verb)
    original, begin = beginning(current, target)
    target = continued(target, original.undone)
    refusals.check_corrupt(begin)
    result = reached(begin, target, given, progress, taken=directory.files())
    # An earlier step already dropped this data, so it needs no permission again.
    granted = {loss for step in original.undone for loss in step.losses}
    granted |= {OPTIMIZER_STATE} if target.optimizer == DROP else set()
    refusals.check_allowed(begin, target, result, allowed, granted, verb, given)
    notes = result.notes
    if result.optimizer is None:
        risk = optimizer_damage.advice(begin.manifest)
        notes += () if risk is None else (risk,)
    if target.reader is not None and target.reader.caveat is not None:
        notes += (target.reader.caveat,)
    if original.undone:
        notes += ("restored from the original files in .ckptmigrate/",)
    elif original.stale:
        notes += (f"the original files in .ckptmigrate/ are not used: {original.stale}",)
    if hash_payload and integrity.FILE not in directory.files():
        notes += (f"the checkpoint has no {integrity.FILE} to compare the data files with",)
    losses = result.losses + ((INTEGRITY,) if damaged else ())
    request = Request(
        verb,
        target.name,
        notes,
        now,
        version,
        losses=losses,
        permitted=tuple(loss for loss in losses if loss not in granted),
        sufficient=target.stays or (target.reader is not None and not target.native),
    )
    return assemble(current, original, result, begin.manifest, request)


@dataclass(frozen=True)
class Request:
    """What the user requested, and the results of the decisions so far.

    Attributes:
        verb: `upgrade`, `downgrade` or `repair`.
        target: the name of the target.
        notes: as in Plan.
        now: the time to record, ISO 8601.
        version: the version of ckptmigrate to record.
        losses, permitted: names of the data losses; see Plan.
        sufficient: whether nothing is written, even to a new root, if no file changes.
        refreshed: unchanged files -> bytes whose digest replaces the one in integrity.json.
    """

    verb: str
    target: str
    notes: tuple[str, ...]
    now: str
    version: str
    losses: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    sufficient: bool = False
    refreshed: Mapping[str, bytes] = field(default_factory=dict)


def _verb_for(current: Reading, target: Target) -> str:
    if target.stays:
        return "migrate"
    places = [versions.order(found) for found in current.layouts]
    wanted = versions.order(target.layout)
    if target.reader is not None and min(places) <= wanted <= max(places):
        # The layouts allow both directions, so the release that wrote the checkpoint decides.
        writers = possible_writers(current.manifest, target.reader.compat).releases
        if writers:
            newer = minor(writers[0]) > minor(target.reader.release)
            return "downgrade" if newer else "upgrade"
    return "upgrade" if wanted >= max(places) else "downgrade"


def assemble(
    current: Reading, original: Original, found: Converted, begin: Manifest, request: Request
) -> Plan:
    """Assemble the plan: the files that differ from those on disk, and the step of the sidecar."""
    directory, result = current.manifest.directory, found.manifest
    beyond_original = result.contents(begin)
    wanted = {**original.files, **beyond_original}
    left_out = {} if found.compaction is None else dict.fromkeys(found.compaction.left_out)
    changed = {**request.refreshed, **beyond_original, **left_out}
    wanted |= _digests(original.directory, begin, changed)
    now = {
        name: directories.read_if_there(directory, name)
        for name in {**dict.fromkeys(current.manifest.small_files), **wanted}
    }
    files = {name: content for name, content in wanted.items() if content != now[name]}
    originals = {name: content for name in files if (content := now[name]) is not None}
    compacts = found.compaction is not None
    back_to_original = bool(original.undone) and not beyond_original and not compacts
    if back_to_original:  # otherwise the data files stay, to undo the new step
        files |= dict.fromkeys(original.payload)
    made, extra = found.optimizer, found.extra_state
    differences = summarized(optimizers.differences(current.manifest, result, compacted=compacts))
    kept = original.first if back_to_original else len(original.steps)
    steps = original.steps[:kept]
    before = {**original.payload, **{name: digest(content) for name, content in now.items()}}
    after = {**before, **{name: digest(content) for name, content in files.items()}}
    if (files or compacts) and not back_to_original:
        steps += (
            Step(
                verb=request.verb,
                source=tuple(layout.ID for layout in current.layouts),
                target=request.target,
                version=request.version,
                time=request.now,
                losses=request.losses,
                changes=tuple(str(d) for d in differences),
                files={name: FileState(before[name], after[name]) for name in before},
                extra_state=extra.how if extra else "",
                transformer_engine=(extra.engine if extra else None) or "",
                optimizer="" if made is None else made.after or sidecar.DROPPED,
                compacts=compacts,
            ),
        )
    return Plan(
        iteration=current.manifest.iteration,
        verb=request.verb,
        source=tuple(layout.ID for layout in current.layouts),
        target=request.target,
        layout=found.layout.ID,
        undo=_undo(current.manifest.path, original, recorded=len(steps) > kept),
        satisfied=request.sufficient and not files and not compacts,
        differences=differences,
        change=change_of(
            current.manifest.path,
            files,
            steps,
            kept=kept,
            originals={} if back_to_original else originals,
            before=before,
            after=after,
            payload=_payload(found),
        ),
        losses=request.losses,
        permitted=request.permitted,
        notes=request.notes + _links(current.manifest.path),
        optimizer=made,
        extra_state=extra,
        compaction=found.compaction,
        unused=found.unused,
        payload=untouched(current.manifest, {*files, *left_out}),
        written=result.metadata.written(),
    )


def _payload(found: Converted) -> dict[str, NewPayload]:
    """Return the new data files."""
    made = {} if found.optimizer is None else optimizers.payload(found.optimizer)
    return {**made, **({} if found.compaction is None else found.compaction.payload)}


def _digests(
    directory: Directory, found: Manifest, changes: Mapping[str, bytes | None]
) -> dict[str, bytes]:
    """Return every updated integrity.json of a checkpoint and its nested ones."""
    files = integrity.updated(directory, {n: c for n, c in changes.items() if "/" not in n})
    for folder, inside in found.nested.items():
        new = integrity.updated(inside.directory, directories.within(folder, changes))
        files |= {f"{folder}/{name}": content for name, content in new.items()}
    return files


def _links(path: Place) -> tuple[str, ...]:
    found = list(link_rules.links(path, (sidecar.FOLDER,))) if isinstance(path, Path) else []
    return (f"links are kept and not followed: {few(found)}",) if found else ()


def change_of(
    path: Place,
    files: Mapping[str, bytes | None],
    steps: tuple[Step, ...],
    *,
    kept: int,
    originals: Mapping[str, bytes],
    before: Mapping[str, str | None],
    after: Mapping[str, str | None],
    payload: Mapping[str, NewPayload] | None = None,
) -> Change:
    """Return the change of a checkpoint.

    Args:
        steps: the steps of the new sidecar.
        kept: how many of `steps` are in the current sidecar.
    """
    return Change(
        path=path,
        files=files,
        sidecar=sidecar.dump(steps) if steps else None,
        originals=originals,
        originals_folder=sidecar.folder(len(steps) - 1),
        kept_steps=kept,
        before=before,
        after=after,
        marks=tuple(name for name in before if name.rpartition("/")[2] in MARKS),
        payload=payload or {},
    )


def untouched(found: Manifest, files: Collection[str]) -> tuple[int, int]:
    """Return the number of data files that do not change, and their total size in bytes."""
    kept = [size for name, size in found.all_payload.items() if name not in files]
    return len(kept), sum(kept)


def _undo(path: Place, original: Original, *, recorded: bool) -> str:
    """Return the command that reverts a plan in place.

    It is `undo` if the plan records a step, and otherwise the migration that the plan reverted.
    """
    if recorded or not original.undone:
        return command("undo", path)
    return optimizers.repeated(original.undone[-1], path)
