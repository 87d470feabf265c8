"""The files of a new local root that are in no checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ckptmigrate.checkpoint.root_contents import CarriedFile
from ckptmigrate.places import Place
from ckptmigrate.planning.new_root import NewRoot
from ckptmigrate.storage import local_files
from ckptmigrate.writing.durable import make_directory, remove, sync_directory
from ckptmigrate.writing.links import Carrier


def bring(files: Iterable[CarriedFile], root: Path, carrier: Carrier) -> None:
    """Bring files into a root and replace those of an interrupted run.

    Raises:
        OSError, StoreError, DestinationError: a file cannot be read or written.
    """
    for each in files:
        target = root / each.name
        make_parents(root, each.name, each.place)
        remove(target)
        if isinstance(each.place, Path):
            carrier.carry_file(each.place, target)
            continue
        from ckptmigrate.storage.store import store_of

        store_of(each.place).download(each.place, target, each.size, carrier.progress)
        local_files.sync(target)


def make_parents(root: Path, name: str, source: Place) -> None:
    """Create the directories between a root and a path in it, with the access of the source.

    Args:
        name: the path in the root, of a file or directory at `source`.
    """
    folders = list(reversed(PurePosixPath(name).parents))[1:]
    originals = list(reversed(source.parents))[-len(folders) :] if isinstance(source, Path) else []
    for number, folder in enumerate(folders):
        if not (root / folder).is_dir():
            make_directory(root / folder, *originals[number : number + 1])


def sync(root: Path, made: NewRoot) -> None:
    """Sync the directories of a root that are in no checkpoint."""
    names = [*made.plans, *(each.name for each in made.carried)]
    folders = {root / parent for name in names for parent in PurePosixPath(name).parents}
    for folder in sorted({root, *folders}, reverse=True):
        sync_directory(folder)
