"""Selection of the checkpoints of a PATH for `verify`, and checks of the files of a root.

`locate` raises at the first problem; this module reports all of them.
"""

from __future__ import annotations

from ckptmigrate import places
from ckptmigrate.checkpoint import (
    downloads,
    locate,
    manifest,
    migration_state,
    root_reading,
    root_recognition,
    trackers,
)
from ckptmigrate.checkpoint.locate import Located
from ckptmigrate.checkpoint.root_kinds import RootKind
from ckptmigrate.checkpoint.root_reading import SavedRoot
from ckptmigrate.checks.findings import Finding
from ckptmigrate.checks.root_codes import PAIR, TEXT_MISSING
from ckptmigrate.errors import DamagedError, NotACheckpointError, PointerError
from ckptmigrate.places import Place
from ckptmigrate.storage import directories
from ckptmigrate.text.commands import removal


def choose(path: Place, *, iteration: int | None = None, every: bool = False) -> Located:
    """Return the checkpoints that a PATH selects, whatever its tracker files contain.

    If no tracker file names an existing save, the newest save is selected.

    Args:
        iteration: select this iteration.
        every: select all iterations.

    Raises:
        NotACheckpointError: there is no checkpoint.
    """
    path = places.absolute(path)
    locate.require_directory(path)
    here = root_reading.opened(path)
    inside = None if root_reading.has_tracker(here) else root_recognition.in_save(path, here)
    if iteration is not None and not every:
        return locate.find(path, iteration=iteration)
    if inside is not None:
        return locate.of_save(path, inside)
    root = root_reading.read(path, here)
    kind, named = root.kind, None if every else root.named
    there = root.saves if named is None else (named,)
    if not there:
        if not root.has_tracker:
            return locate.find(path)
        raise NotACheckpointError(
            f"has a tracker file and no {kind.prefix}* directory",
            path=path,
            fix="restore an iteration from a copy",
        )
    saves = there[-1:]
    if every:
        saves = there
    elif kind.latest is not None:
        saves = tuple(save for save in there if save.name.endswith(kind.latest))[-1:] or saves
    found = tuple(each for save in saves for each in kind.checkpoints(save))
    return Located(path, kind, path, found, kind.tracker_of(saves[-1].name), True)


def root_of(checkpoint: Place) -> Located:
    """Return the root that a checkpoint is in, with all its checkpoints."""
    inside = root_recognition.in_save(checkpoint)
    save = checkpoint if inside is None else inside.save
    return choose(save.parent, every=True)


def is_finished(checkpoint: Place) -> bool:
    """Return whether a checkpoint has both files that a save writes last."""
    files = directories.directory(checkpoint).files()
    return all(name in files for name in manifest.MARKS)


def findings(found: Located) -> tuple[Finding, ...]:
    """Return the findings about the tracker files of a root, and the markers of its saves."""
    kind = found.kind
    if not found.is_root:
        return tuple(_unfinished(kind, save) for save in found.saves if kind.is_marked(save))
    root = root_reading.read(found.path)
    saves = root.saves if kind.unfinished else ()
    made = [_unfinished(kind, save) for save in saves if kind.is_marked(save)]
    return (*made, *(_trackers(root) if kind.trackers else ()))


def _unfinished(kind: RootKind, save: Place) -> Finding:
    """Return the finding about a save that a file beside it marks as not finished."""
    marker = kind.marker(save)
    what = f"{marker.name} exists: {kind.framework} marks the save as not finished"
    fix = f"use another save; if you know that it is complete, run `{removal(marker)}`"
    return Finding("save-unfinished", save, what, fix=fix)


def _trackers(found: SavedRoot) -> list[Finding]:
    root, kind, there, texts = found.place, found.kind, found.saves, found.texts
    good = [name for name, text in texts.items() if kind.leads(text)]
    missing = trackers.TRACKER_FILE not in texts
    if missing and not good:
        return [Finding("tracker-missing", root, f"{trackers.TRACKER_FILE} is missing")]
    file = good[0] if missing else trackers.TRACKER_FILE
    if file not in good:
        what = f"{file} contains neither an iteration nor `release`"
        return [Finding("tracker-unreadable", root, what)]
    text = texts[file]
    named = root / kind.directory_of(text)
    if named.name not in found.directory.folders():
        what = f"{file} names {named.name}, which does not exist"
        return [Finding("tracker-dangling", root, what)]
    made = []
    if not all(is_finished(e) or migration_state.is_staged(e) for e in kind.checkpoints(named)):
        what = f"{file} names {named.name}, which lacks .metadata or metadata.json"
        fix = downloads.fix(kind.checkpoints(named)[0], "") or None
        made.append(Finding("tracker-half-written", root, what, fix=fix))
    elif missing:
        what = f"{trackers.TRACKER_FILE} is missing, and {file} names {named.name}"
        made.append(Finding(TEXT_MISSING, root, what))
    if not missing and trackers.LATEST_TRAIN_STATE in kind.trackers:
        made += _pair(root, text, named)
    newer = there[there.index(named) + 1 :] if text != kind.released and named in there else ()
    newest = next((s for s in reversed(newer) if all(map(is_finished, kind.checkpoints(s)))), None)
    if newest is not None:
        what = f"{file} names {named.name}, and {newest.name} is newer"
        made.append(Finding("tracker-behind", root, what))
    beside = found.newest_non_persistent(text)
    if beside is not None:
        what = f"non_persistent has iteration {beside}, and the tracker file names {text}"
        made.append(Finding("non-persistent-newer", root, what))
    return made


def _pair(root: Place, text: str, named: Place) -> list[Finding]:
    """Return findings about a Megatron-Bridge tracker file that differs from that of Megatron-LM.

    Args:
        text: the content of the Megatron-LM tracker file.
        named: the checkpoint that the Megatron-LM tracker file names.
    """
    file = root / trackers.LATEST_TRAIN_STATE
    if not directories.is_file(file):
        return []
    try:
        step = trackers.step(directories.directory(root).read(file.name))
    except DamagedError as error:
        what = f"{file.name} {error.reason}"
        if isinstance(error, PointerError):
            return [Finding(PAIR, root, what, fix=error.fix)]
    else:
        # `release` has no iteration to compare with.
        if text in (manifest.RELEASE, str(step)):
            return []
        what = f"{file.name} names iteration {step}, and {trackers.TRACKER_FILE} names {text}"
    return [Finding(PAIR, root, what, fix=no_train_state(root, text, named))]


def no_train_state(root: Place, text: str, named: Place) -> str | None:
    """Return what to do if an iteration has no train_state.pt to copy for Megatron-Bridge, or None.

    Args:
        text: the text of latest_checkpointed_iteration.txt that names the iteration.
    """
    if trackers.train_state(text, directories.directory(named)) is not None:
        return None
    return (
        f"{named.name} has no {trackers.TRAIN_STATE} of that iteration to copy; to make "
        f"Megatron-Bridge use {trackers.TRACKER_FILE}, run "
        f"`{removal(root / trackers.LATEST_TRAIN_STATE)}`"
    )
