"""The contents and tracker files of the new roots of a batch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ckptmigrate.checkpoint import locate, trackers
from ckptmigrate.checkpoint.trackers import TRACKERS
from ckptmigrate.errors import DestinationError
from ckptmigrate.places import Place
from ckptmigrate.storage import directories
from ckptmigrate.writing.publisher import publisher


def check(root: Place, source: Place, names: Collection[str], *, go_on: bool) -> None:
    """Raise if a root can be neither created nor added to.

    Args:
        names: the names of the checkpoints to create; the root may contain no others.
        go_on: whether the root may exist.

    Raises:
        DestinationError: as `Writer.check_free`, or the root contains something else.
    """
    if not go_on or not directories.is_dir(root) or _is_link(root):
        # The parent directory of several roots is created too; a store has no directories.
        made = isinstance(root, Path) and not root.parent.is_dir()
        publisher(root.parent if made else root).check_free(source)
        return
    found = directories.directory(root)
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
    """Write the tracker files of a root unless they are up to date.

    Raises:
        DestinationError: a tracker file cannot be written.
    """
    there = directories.directory(root)
    files = trackers.files(tracker, directories.directory(root / locate.directory_of(tracker)))
    if any(directories.read_if_there(there, name) != content for name, content in files.items()):
        publisher(root).name_latest(files)
