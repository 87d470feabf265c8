"""Detection of the checkpoint format of a directory, by the rules of the releases.

Source: _get_checkpoint_format of megatron/training/checkpointing.py and
check_is_distributed_checkpoint (core_v0.19.0): metadata.json identifies a distributed checkpoint,
`mp_rank_0*` a legacy one, and `.metadata` without metadata.json a torch_dcp or fsdp_dtensor one.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ckptmigrate.checkpoint import (
    common,
    downloads,
    manifest,
    metadata,
    metadata_file,
    other_formats,
    sidecar,
)
from ckptmigrate.checkpoint.other_formats import Recognized
from ckptmigrate.checkpoint.trackers import TRACKER_FILE
from ckptmigrate.errors import (
    DamagedError,
    NotACheckpointError,
    Retry,
    StoreError,
    UnsupportedFormatError,
)
from ckptmigrate.pickles.display import short_repr
from ckptmigrate.places import Place
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import Directory
from ckptmigrate.text.commands import command

_OURS = "torch_dist"
_NO_METADATA = "restore it from a copy; without it, no release can locate any tensor"


def is_checkpoint(directory: Directory) -> bool:
    """Return whether a directory looks like a checkpoint of any format."""
    files = directory.files()
    if any(name in files for name in manifest.MARKS) or other_formats.by_files(directory):
        return True
    return any(map(manifest.PAYLOAD.fullmatch, files))


def holds_shards(directory: Directory) -> bool:
    """Return whether a folder is a distributed checkpoint of Megatron-Core, intact or damaged.

    `save` of megatron/core/dist_checkpointing/serialization.py writes the common state, then data
    files and `.metadata`, then metadata.json (core_v0.9.0 to core_v0.19.0).
    """
    files = directory.files()
    if manifest.MARKER_FILE in files:
        try:
            return "sharded_backend" in manifest.read_marker(directory)
        except DamagedError:
            return metadata.FILE in files
    if metadata.FILE in files:
        return _is_of_megatron_core(directory)
    return common.FILE in files or any(manifest.PAYLOAD.fullmatch(name) for name in files)


def require_outermost(path: Place) -> None:
    """Raise if a checkpoint is nested in another one, with which it is migrated.

    Raises:
        NotACheckpointError: it is nested; names the enclosing checkpoint.
    """
    around = path
    for _ in range(sidecar.MOST_FOLDERS):
        around = around.parent
        if _is_ours(around):
            raise NotACheckpointError(
                f"is a checkpoint nested in {around.name}, which is migrated as a whole",
                path=path,
                fix=f"use the outer checkpoint {around}",
                retry=Retry(path=around),
            )


def require_torch_dist(directory: Directory) -> None:
    """Raise if a directory is not a `torch_dist` checkpoint.

    Raises:
        NotACheckpointError: it is not a checkpoint.
        UnsupportedFormatError: it is a checkpoint of another format; names the format.
        DamagedError: metadata.json specifies torch_dist, and `.metadata` is missing; or
            metadata.json is missing, and the common state is that of a torch_dist checkpoint.
    """
    path, files = directory.path, directory.files()
    if manifest.MARKER_FILE in files:
        marker = manifest.read_marker(directory)
        backend = marker.get("sharded_backend")
        if backend == _OURS:
            _require_version(path, marker)
            if metadata.FILE not in files:
                raise DamagedError(
                    downloads.missing(path, metadata.FILE),
                    path=path,
                    fix=downloads.fix(path, _NO_METADATA),
                )
            return
        if isinstance(backend, str) and backend in other_formats.BACKENDS:
            _refuse(directory, Recognized(backend, f"{backend} in {manifest.MARKER_FILE}"))
        raise UnsupportedFormatError(
            f"has the sharded backend {short_repr(backend)}, not torch_dist",
            path=path,
            fix="load it with the program that wrote it, and save it with --ckpt-format torch_dist",
        )
    recognized = other_formats.by_files(directory)
    if recognized is not None:
        _refuse(directory, recognized)
    if metadata.FILE in files:
        if _is_of_megatron_core(directory):
            raise DamagedError(
                "metadata.json is missing, but the directory has a common state or sharded "
                "objects, as a torch_dist checkpoint does",
                path=path,
                fix=f"to list the problems and fixes, run `{command('verify', path)}`",
            )
        _refuse(directory, other_formats.of_metadata(directory))
    look = command("verify", path.parent)
    fix = f"use a root, which has {TRACKER_FILE}, or an iter_* directory in a root"
    if _is_root(path.parent):
        fix = f"the save may be incomplete: use another iteration, which you find with `{look}`"
    raise NotACheckpointError(
        "is not a checkpoint (no metadata.json and no .metadata)",
        path=path,
        fix=downloads.fix(path, fix),
    )


def _require_version(path: Place, marker: dict[str, Any]) -> None:
    """Raise if metadata.json has a version other than 1.

    Releases 0.7 to 0.20.dev0 write and read only version 1 (CheckpointingConfig of
    megatron/core/dist_checkpointing/core.py, core_v0.7.0 to core_v0.19.0).

    Raises:
        UnsupportedFormatError: the version is not 1.
    """
    for name, known in {"sharded_backend_version": 1, **manifest.COMMON_MARKER}.items():
        found = marker.get(name, known)
        if type(found) is not type(known) or found != known:
            raise UnsupportedFormatError(
                f"has {name} {short_repr(found)} in metadata.json, but every known release writes "
                f"{known}",
                path=path,
                fix="restore metadata.json from a copy, or use a newer ckptmigrate",
            )


def _is_ours(place: Place) -> bool:
    """Return whether a place has the files of a torch_dist checkpoint."""
    try:
        return all(
            directories.is_file(place / name) for name in (manifest.MARKER_FILE, metadata.FILE)
        )
    except StoreError:  # the user may be allowed to read only a part of a bucket
        return False


def _is_root(place: Place) -> bool:
    """Return whether a place has a tracker file."""
    try:
        return directories.is_file(place / TRACKER_FILE)
    except StoreError:
        return False


def _refuse(directory: Directory, found: Recognized) -> NoReturn:
    raise UnsupportedFormatError(found.what, path=directory.path, fix=found.fix(directory))


def _is_of_megatron_core(directory: Directory) -> bool:
    """Return whether there is a common state or a sharded object of Megatron-Core.

    Megatron writes metadata.json last, so a save that is interrupted just before leaves all other
    files (`save` of megatron/core/dist_checkpointing/serialization.py, core_v0.9.0 to
    core_v0.19.0).
    """
    if common.FILE in directory.files():
        return True
    try:
        found = metadata_file.read(directory.read(metadata.FILE))
    except DamagedError:
        return False
    return other_formats.is_of_megatron_core(found)
