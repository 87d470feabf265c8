"""Decide what a migration does, completely, before anything is written.

`plan` is pure: it reads a checkpoint and returns a value. `--dry-run` prints that value, and
`transaction` is the only code that carries it out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ckptmigrate import versions
from ckptmigrate.access import storage
from ckptmigrate.access.places import Place
from ckptmigrate.access.storage import Directory, Once, Progress
from ckptmigrate.checkpoint import diffing, integrity, nesting, sidecar
from ckptmigrate.checkpoint.diffing import Difference
from ckptmigrate.checkpoint.manifest import MARKS, Manifest
from ckptmigrate.checkpoint.metadata import Metadata
from ckptmigrate.checkpoint.sidecar import FileState, Original, Step, digest
from ckptmigrate.checkpoint.topology import Given
from ckptmigrate.planning import refusals
from ckptmigrate.planning.change import Change
from ckptmigrate.planning.converting import Converted
from ckptmigrate.planning.losses import INTEGRITY
from ckptmigrate.planning.targets import Target, reach
from ckptmigrate.releases.evidence import writer
from ckptmigrate.releases.facts import minor
from ckptmigrate.text.commands import command
from ckptmigrate.text.printable import few
from ckptmigrate.versions.reading import Reading, read


@dataclass(frozen=True)
class Plan:
    """What a migration will do to one checkpoint.

    Attributes:
        iteration: the one it was saved at, or None.
        verb: `upgrade`, `downgrade` or `repair`.
        source: names of the layouts that the checkpoint may have now.
        target: the layout (or `universal`) asked for.
        layout: the layout on disk afterwards.
        undo: the command that takes it back in place.
        satisfied: whether the release asked for resumes from the checkpoint as it is, so that
            nothing is to be written anywhere.
        differences: what changes in meaning, in order.
        change: the same as new bytes for small files, and what is kept for the way back; its
            sidecar is None where the result is the original itself.
        losses: names of the losses that happen, all of them allowed.
        notes: what the user should know: choices made, evidence used.
        payload: (number of payload files, their bytes), none of which is touched.
        written: the new `.metadata`, as it was read to verify it. As long as somebody has it,
            the same bytes are not taken apart once more when they are read back.
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
    written: Metadata | None = field(default=None, repr=False, compare=False)

    @property
    def path(self) -> Place:
        """The checkpoint directory."""
        return self.change.path

    @property
    def files(self) -> Mapping[str, bytes | None]:
        """Small file -> its new bytes, or None where it goes."""
        return self.change.files

    def out_of_place(self) -> Plan:
        """The same for a result beside the source: none of its steps was done in place there."""
        told = self.change.sidecar
        if told is None:
            return self
        return replace(self, change=replace(self.change, sidecar=sidecar.out_of_place(told)))

    @property
    def changes_nothing(self) -> bool:
        """Whether the checkpoint is as asked for already."""
        return not self.files


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
    """Plan the migration of one checkpoint directory.

    Args:
        path: the checkpoint directory.
        target: a layout, `universal`, or a release.
        verb: `upgrade` or `downgrade`, to refuse the other direction; None takes either.
        allowed: names of the losses (see LOSSES) that the user accepts.
        given: parallel sizes, in ranks, that the checkpoint does not tell.
        now: the time to record, ISO 8601.
        version: of ckptmigrate, to record.
        hash_payload: whether payload, too, must have the digests of integrity.json.
        progress: called with a number of bytes whenever that many were hashed.

    Raises:
        CorruptError: rerun shards are missing.
        RefusedError: wrong direction, unknown layout, a loss that is not allowed, or sizes
            that are unknown or contradict each other.
        CkptMigrateError: no readable torch_dist checkpoint.
    """
    directory = Once(storage.directory(path))
    damaged = integrity.mismatched(directory, payload=hash_payload, progress=progress)
    for folder, inside in nesting.nested(directory):
        other = integrity.mismatched(inside, payload=hash_payload, progress=progress)
        damaged += [f"{folder}/{name}" for name in other]
    if damaged and INTEGRITY not in allowed:
        raise refusals.no_integrity(path, damaged)
    current = read(directory)
    verb = verb or _verb_for(current, target)
    refusals.check_direction(current, target, verb)
    original = sidecar.original(directory)
    begin = read(original.directory) if original.undone else current
    refusals.check_corrupt(begin)
    result = reach(begin, target, given)
    # What an earlier step was allowed to lose is lost already: do not ask for it again.
    agreed = {*allowed, *(loss for step in original.undone for loss in step.losses)}
    refusals.check_allowed(begin, target, result, agreed, verb)
    notes = result.notes
    if target.reader is not None and target.reader.caveat is not None:
        notes += (target.reader.caveat,)
    if original.undone:
        notes += ("starts from the original files that the sidecar keeps",)
    elif original.stale:
        notes += (f"the sidecar's originals are not used: {original.stale}",)
    if hash_payload and integrity.FILE not in directory.files():
        notes += (f"there is no {integrity.FILE} to compare payload with",)
    request = Request(
        verb,
        target.name,
        notes,
        now,
        version,
        losses=result.losses + ((INTEGRITY,) if damaged else ()),
        sufficient=target.reader is not None and not target.native,
    )
    return assemble(current, original, result, begin.manifest, request)


@dataclass(frozen=True)
class Request:
    """What was asked for, and what deciding it brought up.

    Attributes:
        verb: `upgrade`, `downgrade` or `repair`.
        target: what it leads to, by name.
        notes: as in Plan.
        now: the time to record, ISO 8601.
        version: of ckptmigrate, to record.
        losses: names of the losses that happen.
        sufficient: whether no change at all means that nothing is to be written anywhere.
        refreshed: files that stay, and whose digest in integrity.json becomes that of these bytes.
    """

    verb: str
    target: str
    notes: tuple[str, ...]
    now: str
    version: str
    losses: tuple[str, ...] = ()
    sufficient: bool = False
    refreshed: Mapping[str, bytes] = field(default_factory=dict)


def _verb_for(current: Reading, target: Target) -> str:
    places = [versions.order(found) for found in current.layouts]
    wanted = versions.order(target.layout)
    if target.reader is not None and min(places) <= wanted <= max(places):
        # Both directions fit the layouts: the release that wrote it tells.
        writers = writer(current.manifest, target.reader.compat).releases
        if writers:
            newer = minor(writers[0]) > minor(target.reader.release)
            return "downgrade" if newer else "upgrade"
    return "upgrade" if wanted >= max(places) else "downgrade"


def assemble(
    current: Reading, original: Original, found: Converted, begin: Manifest, request: Request
) -> Plan:
    """The plan: file by file against what is on disk now, and the step for the sidecar."""
    directory, result = current.manifest.directory, found.manifest
    beyond_original = result.contents(begin)
    wanted = {**original.files, **beyond_original}
    wanted |= _digests(original.directory, begin, {**request.refreshed, **beyond_original})
    now = {
        name: storage.read_if_there(directory, name)
        for name in {**dict.fromkeys(current.manifest.small_files), **wanted}
    }
    files = {name: content for name, content in wanted.items() if content != now[name]}
    originals = {name: content for name in files if (content := now[name]) is not None}
    differences = tuple(diffing.diff(current.manifest, result, payload=False))
    back_to_original = bool(original.undone) and not beyond_original
    kept = original.first if back_to_original else len(original.steps)
    steps = original.steps[:kept]
    before = {name: digest(content) for name, content in now.items()}
    after = {**before, **{name: digest(content) for name, content in files.items()}}
    if files and not back_to_original:
        steps += (
            Step(
                verb=request.verb,
                source=tuple(layout.ID for layout in current.layouts),
                target=request.target,
                version=request.version,
                time=request.now,
                losses=request.losses,
                changes=tuple(str(d) for d in differences),
                files={name: FileState(before[name], after[name]) for name in now},
            ),
        )
    return Plan(
        iteration=current.manifest.iteration,
        verb=request.verb,
        source=tuple(layout.ID for layout in current.layouts),
        target=request.target,
        layout=found.layout.ID,
        undo=_undo(current.manifest.path, original, recorded=len(steps) > kept),
        satisfied=request.sufficient and not files,
        differences=differences,
        change=change_of(
            current.manifest.path,
            files,
            steps,
            kept=kept,
            originals={} if back_to_original else originals,
            before=before,
            after=after,
        ),
        losses=request.losses,
        notes=request.notes + _links(current.manifest.path),
        payload=untouched(current.manifest, files),
        written=result.metadata.written(),
    )


def _digests(
    directory: Directory, found: Manifest, changes: Mapping[str, bytes | None]
) -> dict[str, bytes]:
    """Every integrity.json of a checkpoint and of those in it, once files have changed."""
    files = integrity.updated(directory, {n: c for n, c in changes.items() if "/" not in n})
    for folder, inside in found.nested.items():
        new = integrity.updated(inside.directory, storage.within(folder, changes))
        files |= {f"{folder}/{name}": content for name, content in new.items()}
    return files


def _links(path: Place) -> tuple[str, ...]:
    found = list(storage.links(path, (sidecar.FOLDER,))) if isinstance(path, Path) else []
    return (f"not followed, and kept as a link: {few(found)}",) if found else ()


def change_of(
    path: Place,
    files: Mapping[str, bytes | None],
    steps: tuple[Step, ...],
    *,
    kept: int,
    originals: Mapping[str, bytes],
    before: Mapping[str, str | None],
    after: Mapping[str, str | None],
) -> Change:
    """A change of a checkpoint whose sidecar then tells of `steps`, `kept` of them old ones."""
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
    )


def untouched(found: Manifest, files: Collection[str]) -> tuple[int, int]:
    """How many payload files stay as they are, and their bytes."""
    kept = [size for name, size in found.all_payload.items() if name not in files]
    return len(kept), sum(kept)


def _undo(path: Place, original: Original, *, recorded: bool) -> str:
    """The command that leads back in place: over what was recorded, or the last one again."""
    if recorded or not original.undone:
        return command("undo", path)
    last = original.undone[-1]
    return command(last.verb, path, "--to", last.target, "--in-place")
