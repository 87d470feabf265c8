"""The files of a root and of its saves that are in no checkpoint, for a new root.

Regular files are carried into a new root: the tokenizer, the state of a data loader, a context of
NeMo. What is not carried is named with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ckptmigrate.checkpoint import (
    formats,
    integrity,
    manifest,
    root_reading,
    root_recognition,
    sidecar,
)
from ckptmigrate.checkpoint.locate import Located
from ckptmigrate.checkpoint.trackers import TRACKERS
from ckptmigrate.errors import CkptMigrateError, RefusedError, reason_of
from ckptmigrate.places import Place
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import Directory
from ckptmigrate.storage.limits import MOST_SEARCHED
from ckptmigrate.storage.link_rules import is_of_a_cache

_MOST_FILES: Final = 10_000
_DEEPEST: Final = 20
_OWN: Final = (*manifest.METADATA_FILES, integrity.FILE, sidecar.FILE)


@dataclass(frozen=True)
class CarriedFile:
    """A file to bring into a new root.

    Attributes:
        name: its path in the root.
        place: where it is now.
        size: in bytes.
    """

    name: str
    place: Place
    size: int

    @property
    def is_link(self) -> bool:
        """Return whether it is a link into a download cache, which is carried as a link."""
        return isinstance(self.place, Path) and self.place.is_symlink()


@dataclass(frozen=True)
class RootContents:
    """What a new root gets besides checkpoints and tracker files.

    Attributes:
        carried: the files to bring.
        inside: the other files in the checkpoints, which come with them.
        left: path in the root -> why it is left behind.
    """

    carried: tuple[CarriedFile, ...] = ()
    inside: tuple[CarriedFile, ...] = ()
    left: tuple[tuple[str, str], ...] = ()

    def without_links(self) -> RootContents:
        """Return the contents of a root in a store, which has no links."""
        links = tuple((each.name, "it is a link") for each in self.carried if each.is_link)
        carried = tuple(each for each in self.carried if not each.is_link)
        return replace(self, carried=carried, left=(*self.left, *links))

    def as_json(self) -> dict[str, object]:
        """Return the documented JSON form (docs/json.md, `upgrade --json`)."""
        return {
            "carried": [
                {"name": each.name, "bytes": each.size} for each in (*self.inside, *self.carried)
            ],
            "left_behind": [{"name": name, "reason": why} for name, why in self.left],
        }


def contents(found: Located) -> RootContents:
    """Return what belongs to the root or save of a PATH besides the selected checkpoints."""
    inside = tuple(
        each
        for place, name in zip(found.checkpoints, found.names, strict=True)
        for each in _inside(directories.directory(place), f"{name}/" if name else "")
    )
    if found.names == ("",):  # the checkpoint is all that there is
        return RootContents(inside=inside)
    carried: list[CarriedFile] = []
    left: dict[str, str] = {}
    whole = found.is_root or found.kind.saves is None or root_reading.is_root(found.base)
    tops = [""] if whole else [f"{save.name}/" for save in found.saves]
    for top in tops:
        place = found.base / top.rstrip("/") if top else found.base
        try:
            items = list(_items(directories.directory(place), top, found))
        except (CkptMigrateError, OSError) as error:
            items = [(top or ".", f"it cannot be listed ({reason_of(error)})")]
        carried += [item for item in items if isinstance(item, CarriedFile)]
        left |= dict(item for item in items if not isinstance(item, CarriedFile))
    return RootContents(tuple(carried), inside, tuple(left.items()))


Item = CarriedFile | tuple[str, str]


def _inside(directory: Directory, start: str) -> Iterator[CarriedFile]:
    """Yield the files of a checkpoint directory that are not part of the checkpoint."""
    for name, size in directory.files().items():
        if not (name in _OWN or manifest.PAYLOAD.fullmatch(name)):
            yield CarriedFile(f"{start}{name}", directory.path / name, size)
    for name in directory.folders():
        below = directory.below(name)
        if below is not None and name != sidecar.FOLDER:
            items = _tree(below, f"{start}{name}")
            yield from (item for item in items if isinstance(item, CarriedFile))


def _items(directory: Directory, start: str, found: Located) -> Iterator[Item]:
    """Yield the contents of a directory that encloses a selected checkpoint.

    Args:
        start: its path in the root with a final `/`, or empty for the root.
    """
    if len(directory.files()) > _MOST_FILES or len(directory.folders()) > _MOST_FILES:
        raise RefusedError(f"it has more than {_MOST_FILES} files or directories")
    for name, size in directory.files().items():
        path = f"{start}{name}"
        if path in TRACKERS:
            continue
        why = _why_not(directory.path / name)
        if not start and why is None and _is_marker(name, found):
            why = "it marks a save as not finished"
        if name == sidecar.FILE:
            why = "it is the migration history of the root"
        yield CarriedFile(path, directory.path / name, size) if why is None else (path, why)
    yield from _others(directory, start)
    for name in directory.folders():
        path = f"{start}{name}"
        inside = [each for each in found.names if each.startswith(f"{path}/")]
        below = directory.below(name)
        if path in found.names or (not start and _is_other_save(name, found) and not inside):
            continue
        why = _why_not(directory.path / name)
        if why is not None or below is None:
            yield path, why or "it is a link"
        elif inside:
            yield from _items(below, f"{path}/", found)
        else:
            yield from _tree(below, path)


def _is_other_save(name: str, found: Located) -> bool:
    """Return whether a directory of a root is a save."""
    if not (found.is_root or found.kind.saves is not None):
        return False
    return bool(root_recognition.saves(found.kind, found.base, [name]))


def _is_marker(name: str, found: Located) -> bool:
    return found.kind.unfinished is not None and name.endswith(found.kind.unfinished)


def _tree(directory: Directory, path: str) -> Iterator[Item]:
    """Yield the files of a directory that contains no checkpoint, or why it is left behind."""
    try:
        yield from list(_files(directory, path, []))
    except RefusedError as error:
        yield path, error.reason


def _files(directory: Directory, path: str, seen: list[str]) -> Iterator[Item]:
    seen.append(path)
    if len(seen) > MOST_SEARCHED or path.count("/") > _DEEPEST:
        raise RefusedError(f"it has more than {MOST_SEARCHED} directories")
    if formats.is_checkpoint(directory) or formats.holds_shards(directory):
        raise RefusedError("it contains another checkpoint")
    if len(directory.files()) > _MOST_FILES:
        raise RefusedError(f"it has more than {_MOST_FILES} files")
    for name, size in directory.files().items():
        why = _why_not(directory.path / name)
        here = f"{path}/{name}"
        yield CarriedFile(here, directory.path / name, size) if why is None else (here, why)
    yield from _others(directory, f"{path}/")
    for name in directory.folders():
        below = directory.below(name)
        if below is None:
            yield f"{path}/{name}", "it is a link"
        else:
            yield from _files(below, f"{path}/{name}", seen)


def _others(directory: Directory, start: str) -> Iterator[Item]:
    """Yield what is neither a file nor a directory: a dangling link, a socket, a FIFO."""
    if isinstance(directory.path, Path):
        known = {*directory.files(), *directory.folders()}
        for name in sorted(set(os.listdir(directory.path)) - known):
            yield f"{start}{name}", "it is neither a file nor a directory"


def _why_not(place: Place) -> str | None:
    """Return why a file or directory is left behind, or None."""
    if isinstance(place, Path) and place.is_symlink() and not is_of_a_cache(place):
        return "it is a link"
    return "its name starts with a dot" if place.name.startswith(".") else None
