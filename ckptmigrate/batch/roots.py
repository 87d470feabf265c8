"""The new roots of a batch: what is in one already, and its tracker file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ckptmigrate import locate
from ckptmigrate.access import storage
from ckptmigrate.access.places import TRACKERS, Place
from ckptmigrate.checkpoint import trackers
from ckptmigrate.errors import DestinationError
from ckptmigrate.writing.writer import writer


def check(root: Place, source: Place, names: Collection[str], *, go_on: bool) -> None:
    """Make sure that a root can be made, or filled further.

    Args:
        names: of the checkpoints that are to come into it; no others are in it.
        go_on: whether it may be there already.

    Raises:
        DestinationError: as `Writer.check_free`, or something else is in it.
    """
    if not go_on or not root.is_dir() or _is_link(root):
        # The directory of several roots is made with them; a store has no directories.
        made = isinstance(root, Path) and not root.parent.is_dir()
        writer(root.parent if made else root).check_free(source)
        return
    found = storage.directory(root)
    begun = tuple(f".{name}.ckptmigrate-" for name in names)
    strange = [
        name
        for name in sorted({*found.files(), *found.folders()} - {*names, *TRACKERS})
        if not name.startswith(begun)
    ]
    if strange:
        raise DestinationError(
            f"exists, and holds {strange[0]}, which does not come from {source}",
            path=root,
            fix="name another destination with -o DEST",
        )


def _is_link(root: Place) -> bool:
    return isinstance(root, Path) and root.is_symlink()


def name_latest(root: Place, tracker: str) -> None:
    """Give a root its tracker files, where they do not lead there already.

    Raises:
        DestinationError: it cannot be written.
    """
    there = storage.directory(root)
    files = trackers.files(tracker, storage.directory(root / locate.directory_of(tracker)))
    if any(storage.read_if_there(there, name) != content for name, content in files.items()):
        writer(root).name_latest(files)
