"""Checkpoints inside a checkpoint, such as the `modelopt_state` that ModelOpt saves.

A folder that is itself a torch_dist checkpoint belongs to the enclosing checkpoint: a job loads
both. It is read into `Manifest.nested`. Plans and writers name its files `folder/file`, so that
both checkpoints change in one migration.

Source: save_sharded_modelopt_state and restore_sharded_modelopt_state of nvidia-modelopt 0.39
modelopt/torch/opt/plugins/mcore_dist_checkpointing.py, which megatron/training/checkpointing.py
calls (core_v0.9.0 to core_v0.19.0).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ckptmigrate.checkpoint import formats, manifest, material
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.sidecar import MOST_FOLDERS, is_visible
from ckptmigrate.errors import DamagedError, RefusedError
from ckptmigrate.storage.directories import Directory
from ckptmigrate.storage.limits import MOST_SEARCHED
from ckptmigrate.text.commands import command


def load(directory: Directory, *, unmarked: bool = False) -> Manifest:
    """Read a `torch_dist` checkpoint directory and its nested checkpoints.

    Args:
        unmarked: whether to treat a missing or unreadable metadata.json as empty.

    Raises:
        CkptMigrateError: one of them is not a torch_dist checkpoint, or is damaged.
    """
    found = _load(directory, unmarked)
    inside = {}
    for name, each in nested(directory):
        try:
            inside[name] = _load(each, unmarked)
        except DamagedError as error:
            error.path = error.path or each.path
            error.fix = f"to list the problems and fixes, run `{command('verify', directory.path)}`"
            raise
    return replace(found, nested=inside)


def nested(directory: Directory) -> Iterator[tuple[str, Directory]]:
    """Yield the relative path and the directory of each checkpoint below a directory.

    Raises:
        DamagedError: a nested checkpoint is a link, which is not followed.
        RefusedError: there are too many folders to search.
    """
    for number, (folder, inside) in enumerate(_folders(directory, MOST_FOLDERS), start=1):
        if number > MOST_SEARCHED:
            raise RefusedError(
                f"contains more than {MOST_SEARCHED} directories, too many to search for nested "
                "checkpoints",
                path=directory.path,
                fix="move the directories that are not part of the checkpoint out of it",
            )
        if formats.holds_shards(inside):
            yield folder, inside


def _folders(directory: Directory, depth: int) -> Iterator[tuple[str, Directory]]:
    """Yield the relative path and the directory of each visible folder, down to a depth."""
    for folder in filter(is_visible, directory.folders()):
        inside = directory.below(folder)
        if inside is None:
            _refuse_linked(directory, folder)
            continue
        yield folder, inside
        if depth > 1:
            yield from ((f"{folder}/{name}", each) for name, each in _folders(inside, depth - 1))


def parts(directory: Directory) -> Iterator[tuple[str, Directory]]:
    """Yield "" with a directory, and `folder/` with each nested checkpoint, as `Manifest.parts`."""
    yield "", directory
    for folder, inside in nested(directory):
        yield f"{folder}/", inside


def _refuse_linked(directory: Directory, folder: str) -> None:
    place = directory.path / folder
    if isinstance(place, Path) and all((place / name).is_file() for name in manifest.MARKS):
        raise DamagedError(
            "is a link to a checkpoint, which a job loads with the outer checkpoint",
            path=place,
            fix="replace the link by the directory; links to directories are not followed",
        )


def _load(directory: Directory, unmarked: bool) -> Manifest:
    try:
        formats.require_torch_dist(directory)
    except DamagedError:
        if not unmarked or _has_marker(directory):
            raise
        return material.load(directory, marker={})
    return material.load(directory)


def _has_marker(directory: Directory) -> bool:
    try:
        manifest.read_marker(directory)
    except (DamagedError, FileNotFoundError):
        return False
    return True
