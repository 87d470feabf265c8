"""Decide what a migration does, completely, before anything is written.

`plan` is pure: it reads a checkpoint and returns a value. `--dry-run` prints that value, and
`transaction` is the only code that carries it out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from ckptmigrate import (
    diffing,
    integrity,
    manifest,
    metadata,
    refusals,
    sidecar,
    storage,
    versions,
)
from ckptmigrate.change import Change
from ckptmigrate.commands import command
from ckptmigrate.converting import Converted
from ckptmigrate.diffing import Difference
from ckptmigrate.evidence import writer
from ckptmigrate.losses import INTEGRITY
from ckptmigrate.manifest import Manifest
from ckptmigrate.places import Place
from ckptmigrate.reading import Reading, read
from ckptmigrate.releases import minor
from ckptmigrate.sidecar import FileState, Original, Step, digest
from ckptmigrate.targets import Target, reach
from ckptmigrate.topology import Given


@dataclass(frozen=True)
class Plan:
    """What a migration will do to one checkpoint.

    Attributes:
        path: the checkpoint directory.
        iteration: the one it was saved at, or None.
        verb: `upgrade`, `downgrade` or `repair`.
        source: names of the layouts that the checkpoint may have now.
        target: the layout (or `universal`) asked for.
        layout: the layout on disk afterwards.
        undo: the command that takes it back in place.
        satisfied: whether the release asked for resumes from the checkpoint as it is, so that
            nothing is to be written anywhere.
        differences: what changes in meaning, in order.
        files: small file -> its new bytes, or None where it goes.
        sidecar: the bytes of the new sidecar; None where the result is the original itself.
        originals: file name -> bytes to keep for the way back, under `originals_folder`.
        originals_folder: relative to the checkpoint.
        kept_steps: how many steps of the sidecar stay, and their originals with them.
        before: small file -> its digest as it was planned from, or None where there is none.
        losses: names of the losses that happen, all of them allowed.
        notes: what the user should know: choices made, evidence used.
        payload: (number of payload files, their bytes), none of which is touched.
        result: what the checkpoint then is, as far as planning has it.
    """

    path: Place
    iteration: int | None
    verb: str
    source: tuple[str, ...]
    target: str
    layout: str
    undo: str
    satisfied: bool
    differences: tuple[Difference, ...]
    files: dict[str, bytes | None]
    sidecar: bytes | None
    originals: dict[str, bytes]
    originals_folder: str
    kept_steps: int
    before: dict[str, str | None]
    losses: tuple[str, ...]
    notes: tuple[str, ...]
    payload: tuple[int, int]
    result: Manifest | None = field(default=None, repr=False, compare=False)

    @property
    def changes_nothing(self) -> bool:
        """Whether the checkpoint is as asked for already."""
        return not self.files

    @property
    def change(self) -> Change:
        """What it comes to in place."""
        return Change(
            self.path,
            self.files,
            self.sidecar,
            self.originals,
            self.originals_folder,
            self.kept_steps,
            self.before,
            marks=(manifest.MARKER_FILE, metadata.FILE),
        )

    @property
    def after(self) -> dict[str, str | None]:
        """Like `before`: every small file, with the digest that it has afterwards."""
        return {**self.before, **{name: digest(new) for name, new in self.files.items()}}


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
    progress: Callable[[int], None] | None = None,
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
    directory = storage.directory(path)
    damaged = integrity.mismatched(directory, payload=hash_payload, progress=progress)
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
    wanted |= integrity.updated(original.directory, {**request.refreshed, **beyond_original})
    now = {
        name: directory.read(name) if name in directory.files() else None
        for name in (*manifest.METADATA_FILES, *wanted)
    }
    files = {name: content for name, content in wanted.items() if content != now[name]}
    originals = {name: content for name in files if (content := now[name]) is not None}
    differences = tuple(diffing.diff(current.manifest, result, payload=False))
    back_to_original = bool(original.undone) and not beyond_original
    kept = original.first if back_to_original else len(original.steps)
    steps = original.steps[:kept]
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
                files={
                    name: FileState(digest(now[name]), digest(files.get(name, now[name])))
                    for name in now
                },
            ),
        )
    return Plan(
        path=current.manifest.path,
        iteration=current.manifest.iteration,
        verb=request.verb,
        source=tuple(layout.ID for layout in current.layouts),
        target=request.target,
        layout=found.layout.ID,
        undo=_undo(current.manifest.path, original, recorded=len(steps) > kept),
        satisfied=request.sufficient and not files,
        differences=differences,
        files=files,
        sidecar=sidecar.dump(steps) if steps else None,
        originals={} if back_to_original else originals,
        originals_folder=sidecar.folder(len(steps) - 1),
        kept_steps=kept,
        before={name: digest(content) for name, content in now.items()},
        losses=request.losses,
        notes=request.notes,
        payload=untouched(current.manifest, files),
        result=result,
    )


def untouched(found: Manifest, files: Collection[str]) -> tuple[int, int]:
    """How many payload files stay as they are, and their bytes."""
    kept = [size for name, (_, size) in found.payload_files.items() if name not in files]
    return len(kept), sum(kept)


def _undo(path: Place, original: Original, *, recorded: bool) -> str:
    """The command that leads back in place: over what was recorded, or the last one again."""
    if recorded or not original.undone:
        return command("undo", path)
    last = original.undone[-1]
    return command(last.verb, path, "--to", last.target, "--in-place")
