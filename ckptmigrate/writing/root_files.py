"""The files of a new local root that are in no checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from ckptmigrate.checkpoint.root_contents import CarriedFile
from ckptmigrate.places import Place
from ckptmigrate.planning.new_root import NewRoot
from ckptmigrate.storage import local_files
from ckptmigrate.writing.durable import adopt_directory, make_directory, remove, sync_directory
from ckptmigrate.writing.links import Carrier


def bring(files: Iterable[CarriedFile], root: Path, carrier: Carrier) -> dict[Path, Path]:
    """Bring files into a root and replace those of an interrupted run.

    A file that was removed meanwhile, such as a temporary one, is left out.

    Returns:
        Each new directory -> the one that it is made of, as `make_parents` returns them.

    Raises:
        OSError, StoreError, DestinationError: a file cannot be read or written.
    """
    made: dict[Path, Path] = {}
    for each in files:
        target = root / each.name
        made |= make_parents(root, each.name, each.place)
        remove(target)
        if isinstance(each.place, Path) and each.is_link:
            os.symlink(os.path.realpath(each.place), target)
            continue
        if isinstance(each.place, Path):
            try:
                carrier.carry_file(each.place, target)
            except FileNotFoundError:
                if os.path.lexists(each.place):
                    raise
            continue
        from ckptmigrate.storage.store import store_of

        store_of(each.place).download(each.place, target, each.size, carrier.progress)
        local_files.sync(target)
    return made


def make_parents(root: Path, name: str, source: Place) -> dict[Path, Path]:
    """Create the directories between a root and a path in it; grant no more than the source does.

    Args:
        name: the path in the root, of a file or directory at `source`.

    Returns:
        Each new directory -> the local one that it is made of, outer ones first.
    """
    made: dict[Path, Path] = {}
    folders = list(reversed(PurePosixPath(name).parents))[1:]
    originals = list(reversed(source.parents))[-len(folders) :] if isinstance(source, Path) else []
    for number, folder in enumerate(folders):
        if not (root / folder).is_dir():
            like = originals[number : number + 1]
            make_directory(root / folder, *like)
            made.update((root / folder, each) for each in like)
    return made


def sync(root: Path, made: NewRoot, like: Mapping[Path, Path]) -> None:
    """Sync the directories of a root that are in no checkpoint, and adopt owners and permissions.

    Args:
        like: each new directory -> the one to copy owner and permissions from.
    """
    names = [*made.plans, *(each.name for each in made.carried)]
    folders = {root / parent for name in names for parent in PurePosixPath(name).parents}
    for folder in sorted({root, *folders}, reverse=True):
        sync_directory(folder)
    for folder, original in sorted(like.items(), reverse=True):
        adopt_directory(folder, original)
