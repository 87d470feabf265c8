"""Selection of the checkpoints of a PATH, and checks of the tracker file of a root.

`locate` raises at the first problem; this module reports all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ckptmigrate import places
from ckptmigrate.checkpoint import downloads, locate, manifest, migration_state, trackers
from ckptmigrate.checks.codes import PAIR
from ckptmigrate.checks.findings import Finding
from ckptmigrate.errors import DamagedError, NotACheckpointError, PointerError
from ckptmigrate.places import Place
from ckptmigrate.storage import directories
from ckptmigrate.text.commands import removal


@dataclass(frozen=True)
class Chosen:
    """The checkpoints that a PATH selects.

    Attributes:
        path: the PATH, absolute.
        checkpoints: the checkpoints to verify, in order of iteration.
        named: the checkpoint that the tracker file names; None if PATH is a checkpoint, or if the
            tracker file names no existing checkpoint.
        is_root: whether PATH is a root.
        findings: findings about the tracker file.
    """

    path: Place
    checkpoints: tuple[Place, ...]
    named: Place | None
    is_root: bool
    findings: tuple[Finding, ...]


def choose(path: Place, *, iteration: int | None = None, every: bool = False) -> Chosen:
    """Return the checkpoints that a PATH selects, and the findings about its tracker file.

    If the tracker file names no existing checkpoint, the newest iteration is selected.

    Args:
        iteration: select this iteration.
        every: select all iterations.

    Raises:
        NotACheckpointError: there is no checkpoint.
    """
    path = places.absolute(path)
    is_root = directories.is_dir(path) and not locate.is_one(path)
    there = locate.all_of(path) if is_root else ()
    if not there and not directories.exists(
        path / locate.TRACKER_FILE
    ):  # a checkpoint, or an error
        return Chosen(path, locate.find(path, iteration=iteration).checkpoints, None, False, ())
    named, findings = _tracker(path, there)
    if every:
        checkpoints = there
    elif iteration is not None:
        checkpoints = locate.find(path, iteration=iteration).checkpoints
    else:
        checkpoints = (named,) if named is not None else there[-1:]
    if not checkpoints:
        raise NotACheckpointError(
            "has a tracker file and no iter_* directory",
            path=path,
            fix="restore an iteration from a copy",
        )
    return Chosen(path, checkpoints, named, True, findings)


def is_finished(checkpoint: Place) -> bool:
    """Return whether a checkpoint has both files that a save writes last."""
    files = directories.directory(checkpoint).files()
    return all(name in files for name in manifest.MARKS)


def _tracker(root: Place, there: tuple[Place, ...]) -> tuple[Place | None, tuple[Finding, ...]]:
    """Return the checkpoint that the tracker file names, if it exists, and the findings."""
    file = root / locate.TRACKER_FILE
    if not directories.is_file(file):
        return None, (Finding("tracker-missing", root, f"{locate.TRACKER_FILE} is missing"),)
    text = locate.tracker_text(root)
    if text is None:
        what = f"{locate.TRACKER_FILE} contains neither an iteration nor `release`"
        return None, (Finding("tracker-unreadable", root, what),)
    named = root / locate.directory_of(text)
    if not directories.is_dir(named):
        what = f"{locate.TRACKER_FILE} names {named.name}, which does not exist"
        return None, (Finding("tracker-dangling", root, what),)
    found = []
    if not is_finished(named) and not migration_state.is_staged(named):
        what = f"{locate.TRACKER_FILE} names {named.name}, which lacks .metadata or metadata.json"
        fix = downloads.fix(named, "") or None
        found.append(Finding("tracker-half-written", root, what, fix=fix))
    found += _pair(root, text, named)
    newer = there[there.index(named) + 1 :] if text != locate.RELEASE and named in there else ()
    newest = next(filter(is_finished, reversed(newer)), None)
    if newest is not None:
        what = f"{locate.TRACKER_FILE} names {named.name}, and {newest.name} is newer"
        found.append(Finding("tracker-behind", root, what))
    beside = locate.newest_non_persistent(root, text)
    if beside is not None:
        what = f"non_persistent has iteration {beside}, and the tracker file names {text}"
        found.append(Finding("non-persistent-newer", root, what))
    return named, tuple(found)


def latest_of_bridge(root: Place) -> Place | None:
    """Return the checkpoint that latest_train_state.pt names, or None."""
    if not directories.is_file(root / trackers.LATEST_TRAIN_STATE):
        return None
    content = directories.directory(root).read(trackers.LATEST_TRAIN_STATE)
    try:
        return root / f"iter_{trackers.step(content):07d}"
    except DamagedError:
        return None


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
        if text in (locate.RELEASE, str(step)):
            return []
        what = f"{file.name} names iteration {step}, and {locate.TRACKER_FILE} names {text}"
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
        f"Megatron-Bridge use {locate.TRACKER_FILE}, run "
        f"`{removal(root / trackers.LATEST_TRAIN_STATE)}`"
    )
