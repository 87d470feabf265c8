"""A root on disk: its kind, its saves, and what its tracker files name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from ckptmigrate.checkpoint import manifest, root_recognition, trackers
from ckptmigrate.checkpoint.root_kinds import RootKind
from ckptmigrate.checkpoint.trackers import TRACKER_FILE, TRACKERS
from ckptmigrate.errors import NotACheckpointError
from ckptmigrate.places import Place
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import Directory
from ckptmigrate.text.commands import shell

NON_PERSISTENT: Final = "non_persistent"


@dataclass(frozen=True)
class SavedRoot:
    """A root: its directory, listed once, and its kind."""

    directory: Directory
    kind: RootKind

    @property
    def place(self) -> Place:
        """Return the path of the root."""
        return self.directory.path

    @cached_property
    def saves(self) -> tuple[Place, ...]:
        """Return the saves, oldest first; one without iteration is the oldest."""
        names = root_recognition.saves(self.kind, self.place, self.directory.folders())
        return tuple(self.place / name for name in names)

    @property
    def numbers(self) -> list[int]:
        """Return the iterations that have a save, oldest first."""
        return numbers(self.kind, self.directory.folders())

    @property
    def has_tracker(self) -> bool:
        """Return whether there is a tracker file of its kind."""
        return any(name in self.directory.files() for name in self.kind.trackers)

    @cached_property
    def texts(self) -> dict[str, str]:
        """Return the text of each tracker file, in the order in which the framework reads them."""
        return trackers.texts(self.directory, self.kind.trackers)

    @property
    def text(self) -> str | None:
        """Return the text that names the latest save; None if there is no such text."""
        texts = reversed(self.texts.values())
        return next((text for text in texts if self.kind.leads(text)), None)

    @property
    def named(self) -> Place | None:
        """Return the save that the tracker files name, or None if there is none."""
        if self.text is None:
            return None
        name = self.kind.directory_of(self.text)
        return self.place / name if name in self.directory.folders() else None

    def newest_non_persistent(self, tracker: str) -> int | None:
        """Return the newest non-persistent iteration if not older than the tracker's, or None."""
        if NON_PERSISTENT not in self.directory.folders():
            return None
        beside = directories.directory(self.place / NON_PERSISTENT)
        newest = max(numbers(self.kind, beside.folders()), default=-1)
        persistent = 0 if tracker == manifest.RELEASE else int(tracker)
        return newest if newest >= persistent else None


def read(root: Place, directory: Directory | None = None) -> SavedRoot:
    """Return a root.

    Args:
        directory: its directory, if it is listed already.

    Raises:
        NotACheckpointError: there is neither a save nor a tracker file.
    """
    found = find(root, directory)
    if found is None:
        raise NotACheckpointError(
            f"is neither a checkpoint nor a root (no metadata.json or {TRACKER_FILE})",
            path=root,
            fix=name_one(root),
        )
    return found


def find(root: Place, directory: Directory | None = None) -> SavedRoot | None:
    """Return a root, or None if there is neither a save nor a tracker file."""
    directory = directory or opened(root)
    kind = root_recognition.of_root(directory)
    return None if kind is None else SavedRoot(directory, kind)


def opened(place: Place) -> Directory:
    """Return the directory of a PATH; of a root with a tracker file, a few names are enough."""
    return directories.directory(place, by_name=is_root(place))


def has_tracker(directory: Directory) -> bool:
    """Return whether a directory has a tracker file of any framework."""
    return any(name in directory.files() for name in TRACKERS)


def is_root(place: Place) -> bool:
    """Return whether a place has a tracker file of any framework, without listing it."""
    return any(directories.is_file(place / name) for name in reversed(TRACKERS))


def numbers(kind: RootKind, folders: Collection[str]) -> list[int]:
    """Return the iterations of the saves among directories, oldest first."""
    texts = (kind.tracker_of(name) for name in folders)
    return sorted(int(text) for text in texts if text is not None and text.isdigit())


def possible(path: Place) -> tuple[Place, ...]:
    """Return where the checkpoints of a PATH are or would be, even if nothing can be read there."""
    if not directories.is_dir(path):
        return ()
    here = opened(path)
    inside = None if has_tracker(here) else root_recognition.in_save(path, here)
    return root_recognition.places(here) if inside is None else inside.checkpoints


def name_one(path: Place) -> str:
    """Return the fix for a path that is not a checkpoint: a command that finds one near it."""
    if not isinstance(path, Path):
        return f"use a root, which has {TRACKER_FILE}, or an iter_* directory in a root"
    there = next(each for each in (path, *path.parents) if each.is_dir())
    # Some frameworks write no tracker file; every checkpoint has a metadata.json.
    names = ("-name", TRACKER_FILE, "-o", "-name", manifest.MARKER_FILE)
    find = shell("find", there, "-maxdepth", "4", *names)
    return (
        f"use a root, which has {TRACKER_FILE}, or an iter_* directory in a root; to find one, "
        f"run `{find}`"
    )
