"""Recognition of saves and roots by a few names, with the table of root_kinds.py."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ckptmigrate.checkpoint import formats, migration_state, root_kinds, trackers
from ckptmigrate.checkpoint.root_kinds import FLAT, MEGATRON, RootKind, at
from ckptmigrate.errors import StoreError
from ckptmigrate.places import Place
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import Directory
from ckptmigrate.storage.store_errors import says_denied


@dataclass(frozen=True)
class InSave:
    """Where a place is in a save.

    Attributes:
        kind: the kind of the save.
        save: the directory of the save.
        checkpoints: the checkpoints of the save that are at the place or below it.
    """

    kind: RootKind
    save: Place
    checkpoints: tuple[Place, ...]


def in_save(place: Place, here: Directory | None = None) -> InSave | None:
    """Return where a place is in a save: the save, a checkpoint of it, or a directory between them.

    Returns None if there is no checkpoint at the place or below it. A checkpoint of no other kind
    is FLAT. A few names are looked up; nothing is searched.

    Args:
        here: the directory of the place, if it is listed already.
    """
    here = here or directories.directory(place)
    is_one = functools.cache(functools.partial(_is_checkpoint_below, here))
    try:
        for kind in (*root_kinds.KINDS, FLAT):
            for save, paths in _candidates(kind, place):
                if not kind.is_save(save.name) or not any(map(is_one, paths)):
                    continue
                if _is_signed(kind, save, here):
                    there = (path for path in paths if _is_folder_below(here, path))
                    return InSave(kind, save, tuple(at(place, path) for path in there))
    except (FileNotFoundError, NotADirectoryError):
        pass
    return None


def _is_folder_below(here: Directory, path: str) -> bool:
    first, _, rest = path.partition("/")
    if not path:
        return True
    return first in here.folders() and (not rest or directories.is_dir(here.path / path))


def _is_checkpoint_below(here: Directory, path: str) -> bool:
    """Return whether a checkpoint is at a path, also during an in-place migration."""
    if not _is_folder_below(here, path):
        return False
    found = directories.directory(here.path / path) if path else here
    return formats.is_checkpoint(found) or migration_state.is_staged(found.path)


def _candidates(kind: RootKind, place: Place) -> Iterator[tuple[Place, tuple[str, ...]]]:
    """Yield each save of which a place may be a part, with the paths of checkpoints below it."""
    saves: dict[Place, list[str]] = {}
    for path in kind.inside:
        parts = path.split("/") if path else []
        for depth in range(len(parts) + 1):  # number of directories between the save and the place
            save = place
            for name in reversed(parts[:depth]):
                if save.name != name or save.parent == save:
                    break
                save = save.parent
            else:
                saves.setdefault(save, []).append("/".join(parts[depth:]))
    yield from ((save, tuple(paths)) for save, paths in saves.items())


def _is_signed(kind: RootKind, save: Place, here: Directory) -> bool:
    """Return whether a save has a sign of its kind, if it needs one.

    Args:
        here: the save, or a directory in it.
    """
    if not kind.is_signed:
        return True
    if save == here.path:
        if kind.saves is None:
            return True  # the path of its checkpoint is sign enough
        names = {*here.files(), *(f"{name}/" for name in here.folders())}
        if names & set(kind.save_signs):
            return True
    elif has_sign(save, kind.save_signs):
        return True
    return kind.saves is not None and has_sign(save.parent, kind.root_signs)


def of_root(root: Directory) -> RootKind | None:
    """Return the kind of a root, or None if it has neither a save nor a tracker file."""
    numbered = [kind for kind in root_kinds.KINDS if kind.saves is not None]
    texts = trackers.texts(root, trackers.TRACKERS)
    found = _first_signed(root, ((kind, _named(root, kind, texts)) for kind in numbered))
    if found is not None:  # the tracker files lead to a save, and the root is not listed
        return found
    folders, files = root.folders(), root.files()
    newest = ((kind, saves(kind, root.path, folders)[-1:]) for kind in numbered)
    found = _first_signed(root, newest)
    if found is not None:
        return found
    if any(name in files for kind in numbered for name in kind.trackers):
        signed = (kind for kind in numbered if _has_root_sign(root, kind))
        return next(signed, MEGATRON)
    named = (
        kind for kind in root_kinds.KINDS if kind.saves is None and saves(kind, root.path, folders)
    )
    return next(named, None)


def _first_signed(
    root: Directory, candidates: Iterable[tuple[RootKind, list[str]]]
) -> RootKind | None:
    """Return the first kind that has a save and, if it needs one, a sign."""
    for kind, names in candidates:
        if names and (
            not kind.is_signed
            or _has_root_sign(root, kind)
            or any(has_sign(root.path / name, kind.save_signs) for name in names)
        ):
            return kind
    return None


def _named(root: Directory, kind: RootKind, texts: Mapping[str, str]) -> list[str]:
    """Return the name of the save that the tracker files of a kind name, if it exists.

    Args:
        texts: name of a tracker file -> its text.
    """
    found = (texts[name] for name in reversed(kind.trackers) if name in texts)
    name = next((kind.directory_of(text) for text in found if kind.leads(text)), None)
    return [name] if name is not None and name in root.folders() else []


def _has_root_sign(root: Directory, kind: RootKind) -> bool:
    return has_sign(
        root.path,
        tuple(
            sign
            for sign in kind.root_signs
            if sign.partition("/")[0] in (root.folders() if "/" in sign else root.files())
        ),
    )


_MOST_SAVES: Final = 1000  # of any name, which are looked into


def saves(kind: RootKind, root: Place, folders: Collection[str]) -> list[str]:
    """Return the names of the saves of a root, oldest first; those without iteration come first."""
    if kind.saves is None:
        found = [name for name in sorted(folders)[:_MOST_SAVES] if not name.startswith(".")]
        return [
            name
            for name in found
            if any(directories.is_dir(root / name / path) for path in kind.inside if path)
        ]
    texts = {text: name for name in folders if (text := kind.tracker_of(name)) is not None}
    order = sorted(
        texts, key=lambda text: (text != kind.released, int(text) if text.isdigit() else 0)
    )
    return [texts[text] for text in order]


def places(root: Directory) -> tuple[Place, ...]:
    """Return every place below a root where a save has a checkpoint, or would have one."""
    kind, place = of_root(root), root.path
    if kind is None:
        # A root that is being written has no checkpoint yet.
        names = [name for name in sorted(root.folders()) if not name.startswith(".")]
        inside = [path for each in root_kinds.KINDS if each.saves is None for path in each.inside]
        return tuple(place / name / path for name in names[:_MOST_SAVES] for path in inside)
    names = saves(kind, place, root.folders())
    return tuple(at(place / name, path) for name in names for path in kind.inside)


def has_sign(place: Place, signs: tuple[str, ...]) -> bool:
    """Return whether one of the signs of a kind is in a directory."""
    return any(_is_there(place, sign) for sign in signs)


def _is_there(place: Place, sign: str) -> bool:
    folder, slash, pattern = sign.partition("/")
    try:
        if not slash:
            return directories.is_file(place / sign)
        if not directories.is_dir(place / folder):
            return False
        if not pattern:
            return True
        return bool(fnmatch.filter(directories.directory(place / folder).files(), pattern))
    except (StoreError, OSError) as error:
        if isinstance(error, StoreError) and not says_denied(error.__cause__):
            raise  # each further name would wait for the same failure of the store
        return False  # the user may be allowed to read only a part of it
