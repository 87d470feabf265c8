"""The lookup of checkpoint directories from a PATH: a checkpoint, a save, or a root.

How a framework lays out its saves is in the table of root_kinds.py.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate import places
from ckptmigrate.checkpoint import (
    formats,
    manifest,
    migration_state,
    root_reading,
    root_recognition,
)
from ckptmigrate.checkpoint.root_kinds import FLAT, RootKind
from ckptmigrate.checkpoint.root_reading import (
    NON_PERSISTENT,
    SavedRoot,
    has_tracker,
    name_one,
)
from ckptmigrate.checkpoint.root_recognition import InSave
from ckptmigrate.checkpoint.trackers import TRACKER_FILE
from ckptmigrate.errors import (
    CkptMigrateError,
    NotACheckpointError,
    Retry,
    SeveralCheckpointsError,
    StoreError,
)
from ckptmigrate.places import Place
from ckptmigrate.storage import directories
from ckptmigrate.text.commands import command, job_options, removal

RELEASE: Final = manifest.RELEASE
_SHOWN: Final = 5  # iterations


@dataclass(frozen=True)
class Located:
    """What a PATH means: the checkpoints that it selects.

    Attributes:
        path: the PATH, absolute.
        kind: the layout of the root or save that PATH is, or is in.
        base: the directory whose layout a result has: the root, or a save that has any name.
        checkpoints: the selected checkpoints, in order of iteration.
        tracker: the text of a tracker file that names the save of the last of them, or None.
        is_root: whether PATH is a root.
        error: why a PATH of a batch has no checkpoints, or None.
    """

    path: Place
    kind: RootKind
    base: Place
    checkpoints: tuple[Place, ...] = ()
    tracker: str | None = None
    is_root: bool = False
    error: CkptMigrateError | None = None

    @property
    def source(self) -> Place:
        """Return what a new root is made of: PATH, or the save that PATH is inside of."""
        return self.base if self.is_root or self.kind.saves is None else self.saves[0]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the paths of the checkpoints relative to `base`."""
        base = str(self.base)
        return tuple(str(each).removeprefix(base).lstrip("/") for each in self.checkpoints)

    @property
    def saves(self) -> tuple[Place, ...]:
        """Return the saves of the checkpoints."""
        if self.kind.saves is None and not self.is_root:
            return (self.base,)
        found = dict.fromkeys(name.partition("/")[0] for name in self.names)
        return tuple(self.base / name for name in found)

    @property
    def loadable(self) -> Place | None:
        """Return the existing root from which a job loads the last of the checkpoints, or None."""
        if not self.kind.trackers:
            return self.base
        root = SavedRoot(directories.directory(self.base, by_name=True), self.kind)
        return self.base if self.tracker is not None and root.text == self.tracker else None

    def job_options(self, root: Place) -> str | None:
        """Return the options with which a job loads the last checkpoint of a root, or None.

        Args:
            root: `base`, or a new root that is made of it.
        """
        has_saves = self.is_root or self.kind.saves is not None
        save = root / self.names[-1].partition("/")[0] if has_saves else root
        return job_options(self.kind.resume, root, save)

    def words(self, iteration: int | None) -> tuple[str | Place, ...]:
        """Return the arguments of a command for the same PATH and `--iteration`."""
        return (self.path, *(() if iteration is None else ("--iteration", str(iteration))))


def failed(path: Place, error: CkptMigrateError) -> Located:
    """Return a PATH of a batch that has no checkpoints."""
    return Located(path, FLAT, path, error=error)


def locate(path: Place, *, iteration: int | None = None, every: bool = False) -> Located:
    """Return the checkpoints of a PATH: the PATH itself, those of a save, or those of a root.

    Args:
        path: a checkpoint directory, a save, or a root.
        iteration: the iteration of a root to use instead of the one in the tracker file.
        every: whether to return every iteration of a root; no effect on a checkpoint directory.

    Raises:
        NotACheckpointError: PATH is none of them; a tracker file is missing, empty or names a
            missing iteration; the save did not finish; or a job may load another checkpoint of the
            root instead.
        DestinationError: an in-place migration of one of the checkpoints is incomplete.
    """
    found = find(path, iteration=iteration, every=every)
    for checkpoint in found.checkpoints:
        migration_state.check_complete(checkpoint)
    return found


def only(path: Place, *, iteration: int | None = None) -> Located:
    """Do what `locate` does, for a PATH that must select one checkpoint.

    Raises:
        SeveralCheckpointsError: it selects several; names them.
    """
    found = locate(path, iteration=iteration)
    if len(found.checkpoints) > 1:
        raise SeveralCheckpointsError(
            f"has {len(found.checkpoints)} checkpoints: {', '.join(found.names)}",
            path=found.path,
            fix="use one of them",
            retry=Retry(path=found.checkpoints[0]),
        )
    return found


def find(path: Place, *, iteration: int | None = None, every: bool = False) -> Located:
    """Do what `locate` does, but accept checkpoints with an incomplete in-place migration."""
    path = places.absolute(path)
    require_directory(path)
    here = root_reading.opened(path)
    inside = None if has_tracker(here) else root_recognition.in_save(path, here)
    if inside is not None:
        found = of_save(path, inside)
        if iteration is not None:
            raise NotACheckpointError(
                "is a checkpoint, and --iteration selects a checkpoint of a root",
                path=path,
                fix="omit it",
                retry=Retry(leave_out=("--iteration",)),
            )
        _check_finished(inside.kind, inside.save)
        return found
    root = root_reading.read(path, here)
    kind = root.kind
    if every:
        return _every(root)
    if kind.saves is None:
        return _latest(root, iteration)
    if iteration is None:
        tracker = _read_tracker(root)
        save = path / kind.directory_of(tracker)
        if save.name not in here.folders():
            raise _dangling(root, save.name, **_choices(root))
        _check_non_persistent(root, tracker)
    else:
        tracker = str(iteration)
        save = path / kind.directory_of(tracker)
        if save.name not in here.folders():
            raise NotACheckpointError(f"has no {save.name}", path=path, **_choices(root))
    return Located(path, kind, path, kind.checkpoints(save), tracker, True)


def of_save(path: Place, inside: InSave) -> Located:
    """Return what a PATH means that is a save, or a part of one.

    Raises:
        NotACheckpointError: it is a checkpoint nested in another one.
    """
    formats.require_outermost(path)
    kind, save = inside.kind, inside.save
    base = save if kind.saves is None else save.parent
    return Located(path, kind, base, inside.checkpoints, kind.tracker_of(save.name))


def _latest(root: SavedRoot, iteration: int | None) -> Located:
    """Return the save of a root without a tracker file from which a job resumes."""
    kind, found = root.kind, list(root.saves)
    listed = ", ".join(save.name for save in found[-_SHOWN:])
    if iteration is not None:
        raise NotACheckpointError(
            f"is a directory of {kind.framework}, whose saves have names, not iterations",
            path=root.place,
            fix=f"use one of its saves: {listed}",
            retry=Retry(path=found[-1], leave_out=("--iteration",)),
        )
    if len(found) > 1:
        done = [save for save in found if not kind.is_marked(save)]
        found = [save for save in done if kind.latest and save.name.endswith(kind.latest)] or done
    if len(found) != 1:
        raise NotACheckpointError(
            f"has {len(found)} saves of {kind.framework} from which a job may resume",
            path=root.place,
            fix=f"use one of them: {listed}",
            retry=Retry(path=found[-1]) if found else None,
        )
    _check_finished(kind, found[0])
    return Located(root.place, kind, root.place, kind.checkpoints(found[0]), None, True)


def _check_finished(kind: RootKind, save: Place) -> None:
    """Raise if a file marks a save as not finished.

    Raises:
        NotACheckpointError: there is such a file; names it.
    """
    if kind.is_marked(save):
        marker = kind.marker(save)
        raise NotACheckpointError(
            f"is an unfinished save of {kind.framework}: {marker.name} exists, and a job deletes "
            "such a save when it starts",
            path=save,
            fix=f"use another save; if you know that it is complete, run `{removal(marker)}`",
        )


def require_directory(path: Place) -> None:
    """Raise if a PATH is not a directory.

    Raises:
        NotACheckpointError: PATH is a file, or does not exist.
    """
    if not directories.is_dir(path):
        what = "is a file" if directories.exists(path) else "does not exist"
        raise NotACheckpointError(
            f"{what} (a checkpoint is a directory)",
            path=path,
            **_near(path),
        )


def words(checkpoint: Place) -> tuple[str | Place, ...]:
    """Return the arguments that name a checkpoint in a command: its root if that has a tracker
    file, with `--iteration` if the tracker file names another iteration; else its directory."""
    try:
        inside = root_recognition.in_save(checkpoint)
        if inside is None or inside.kind.saves is None:
            return (checkpoint,)
        root, kind = inside.save.parent, inside.kind
        if not root_reading.is_root(root) or len(kind.checkpoints(inside.save)) > 1:
            return (checkpoint,)
        named = root_reading.read(root).text
    except (CkptMigrateError, OSError):  # the root may be unreadable, the checkpoint readable
        return (checkpoint,)
    number = kind.tracker_of(inside.save.name)
    if named is not None and named == number:
        return (root,)
    return (checkpoint,) if number in (None, RELEASE) else (root, "--iteration", str(number))


def _every(root: SavedRoot) -> Located:
    place, kind = root.place, root.kind
    whole = [save for save in root.saves if not kind.is_marked(save)]
    if not whole:
        what = f"has no {kind.prefix}* directory"
        if root.saves:
            what = f"has no finished save of {kind.framework}"
        raise NotACheckpointError(what, path=place, fix=name_one(place))
    found = tuple(each for save in whole for each in kind.checkpoints(save))
    text = kind.tracker_of(whole[-1].name)
    if root.has_tracker:
        text = _read_tracker(root)
        if place / kind.directory_of(text) not in whole:
            fix = f"to list the problems and fixes, run `{command('verify', place)}`"
            raise _dangling(root, kind.directory_of(text), fix=fix)
    return Located(place, kind, place, found, text, True)


def _dangling(root: SavedRoot, name: str, **fix: Any) -> NotACheckpointError:
    file = next(reversed(root.texts))
    return NotACheckpointError(
        f"the tracker file names {name}, which does not exist", path=root.place / file, **fix
    )


def _read_tracker(root: SavedRoot) -> str:
    """Return the text of the tracker file of a root.

    Raises:
        NotACheckpointError: there is none, it names no save, or two name different saves.
    """
    kind, texts = root.kind, root.texts
    if not texts:
        raise NotACheckpointError(
            f"is neither a checkpoint nor a root (no metadata.json or {TRACKER_FILE})",
            path=root.place,
            **_choices(root),
        )
    good = {name: text for name, text in texts.items() if kind.leads(text)}
    if len(set(good.values()) - {RELEASE}) > 1:
        first, *others = (f"{name} names {text}" for name, text in good.items())
        raise NotACheckpointError(
            f"has tracker files that name different iterations: {first}, which "
            f"{kind.framework} reads, and {', '.join(others)}",
            path=root.place,
            **_choices(root),
        )
    if root.text is not None:
        return root.text
    name, text = next(reversed(texts.items()))
    raise NotACheckpointError(
        f"contains {text!r}, which is neither an iteration nor `release`" if text else "is empty",
        path=root.place / name,
        **_choices(root),
    )


def _choices(root: SavedRoot) -> dict[str, Any]:
    """Return the fix for a root whose requested iteration is missing."""
    found = root.numbers
    if not found:
        return {"fix": name_one(root.place)}
    return {
        "fix": f"select one with --iteration {found[-1]} ({_listed(found)})",
        "retry": Retry(add=("--iteration", str(found[-1])), leave_out=("--all",)),
    }


def _near(path: Place) -> dict[str, Any]:
    """Return the fix for a path that is not a directory: its parent, or a checkpoint in that."""
    around = path.parent
    if directories.exists(path) and (
        root_reading.is_root(around) or root_recognition.in_save(around)
    ):
        return {"fix": "use the directory that contains it", "retry": Retry(path=around)}
    root = None
    with contextlib.suppress(OSError, StoreError):  # the parent may be unreadable
        root = root_reading.find(around) if directories.is_dir(around) else None
    if root is not None and root.numbers:
        return {
            "fix": f"use a checkpoint of the root {around} ({_listed(root.numbers)})",
            "retry": Retry(path=root.saves[-1]),
        }
    return {"fix": name_one(path)}


def _listed(found: list[int]) -> str:
    """Format the iterations of a root; of more than _SHOWN, only the newest."""
    shown = ", ".join(map(str, found[-_SHOWN:]))
    if len(found) > _SHOWN:
        return f"there are {len(found)} iterations, the newest {shown}"
    return f"there is iteration {shown}" if len(found) == 1 else f"there are iterations {shown}"


def _check_non_persistent(root: SavedRoot, tracker: str) -> None:
    """Raise if a job may load a non-persistent checkpoint instead of the one in the tracker file.

    With --non-persistent-ckpt-type global, a job prefers ROOT/non_persistent if its iteration is
    not older (_load_base_checkpoint, megatron/training/checkpointing.py).
    """
    newest = root.newest_non_persistent(tracker)
    if newest is not None:
        place, kind = root.place, root.kind
        other = place / NON_PERSISTENT / kind.directory_of(str(newest))
        raise NotACheckpointError(
            f"has a non-persistent checkpoint of iteration {newest}, which a job with "
            f"--non-persistent-ckpt-type global loads instead of {tracker} in the tracker file",
            path=place,
            fix=f"use {other}, or {place / kind.directory_of(tracker)} for the "
            "one in the tracker file",
            retry=Retry(path=place / kind.directory_of(tracker)),
        )
