"""The journal of an in-place change: the hash of every file before and after, and the order.

metadata.json is removed first, then `.metadata`; `.metadata` is restored next to last, and
metadata.json last. The hashes, not the last recorded step, decide whether a swap is complete.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Final

from ckptmigrate.checkpoint import manifest, metadata, sidecar
from ckptmigrate.checkpoint.sidecar import FileState, digest, digest_of
from ckptmigrate.errors import DamagedError, DestinationError, Retry
from ckptmigrate.places import Place
from ckptmigrate.planning.change import Change
from ckptmigrate.storage.directories import Directory
from ckptmigrate.text.commands import removal

STAGE: Final = f"{sidecar.FOLDER}/stage"  # relative to the checkpoint; new files
FILE: Final = f"{STAGE}/journal.json"
PARTS: Final = f"{sidecar.FOLDER}/parts"  # new data files and their records (parts.py)
OLD: Final = f"{STAGE}/.old"  # copies of the replaced files; no nested checkpoint has this name


class Recovery(Enum):
    """The results of recovering an in-place migration, as printed."""

    UNTOUCHED = "removed the staging files (the checkpoint was not modified)"
    ROLLED_BACK = "rolled back to the state before the migration"
    COMMITTED = "the migration was complete (removed its staging files)"


def check_unchanged(change: Change, now: Directory) -> dict[str, str | None]:
    """Return the hashes of the files of a directory, None for a file that does not exist.

    Raises:
        DestinationError: a file changed after the change was planned.
    """
    planned_before = {**dict.fromkeys(change.payload), **change.before}
    before = {name: digest_of(now, name) for name in planned_before}
    for name, planned in planned_before.items():
        if before[name] != planned:
            raise DestinationError(
                f"{name} changed while the migration was planned",
                path=change.path,
                fix="run the command again",
                retry=Retry(),
            )
    return before


def changes(
    change: Change, before: Mapping[str, str | None], now: Directory
) -> tuple[dict[str, bytes], dict[str, FileState]]:
    """Return the file operations of an in-place change.

    Args:
        change: the change, with the digests of its data files.
        before: the result of `check_unchanged`.
        now: the current directory.

    Returns:
        Name -> bytes, of every new file other than data files; name -> hashes before and after, of
        every changed file.
    """
    new = {name: content for name, content in change.files.items() if content is not None}
    if change.sidecar is not None:
        new[sidecar.FILE] = change.sidecar
    for name in change.marks:
        if name not in change.files:
            new[name] = now.read(name)
    changed = {*change.files, *change.payload}
    names = sorted({*changed, *new, sidecar.FILE})
    return new, {
        name: FileState(
            before[name] if name in before else digest_of(now, name),
            change.after[name] if name in changed else digest(new.get(name)),
        )
        for name in names
    }


def groups(names: Collection[str]) -> list[list[str]]:
    """Return names in the order of writing; the first group is synced before metadata.json moves.

    In the first group, `.metadata` files follow all other files, and the metadata.json files of
    nested checkpoints are last.
    """
    marker = manifest.MARKER_FILE
    order = {metadata.FILE: 1, marker: 2}
    rest = sorted(set(names) - {marker}, key=lambda n: (order.get(n.rpartition("/")[2], 0), n))
    return [rest, [marker]] if marker in names else [rest]


def number(steps: int) -> str:
    """Return the name of the folder of original files of the last step; greater names are newer.

    Args:
        steps: the number of steps.
    """
    return Path(sidecar.folder(steps - 1)).name


def matches(directory: Directory, files: Mapping[str, FileState], *, after: bool) -> bool:
    """Return whether every file of a swap has its hash from before the swap (or after it)."""
    return all(
        digest_of(directory, name) == (state.after if after else state.before)
        for name, state in files.items()
    )


def check(directory: Directory, files: Mapping[str, str | None]) -> None:
    """Raise if a file does not read back as written.

    Args:
        files: name -> hash, None for a file that was removed.

    Raises:
        DamagedError: a file has another hash; the message names the file.
    """
    for name, wanted in files.items():
        if digest_of(directory, name) != wanted:
            raise DamagedError(
                "differs from what was written when read back",
                path=directory.path / name,
                fix="stop other programs that write to it, then run the command again",
            )


def dump(files: Mapping[str, FileState]) -> bytes:
    """Return the bytes of a journal: name -> hashes before and after, as JSON."""
    rows = {name: {"before": s.before, "after": s.after} for name, s in files.items()}
    return json.dumps({"files": rows}, indent=1).encode()


def parse(content: bytes, file: Place) -> dict[str, FileState]:
    """Return the hashes in a journal: name -> hashes before and after.

    Raises:
        DamagedError: `content` is not a journal, or names a file that a migration does not change.
    """
    try:
        rows = json.loads(content)["files"]
        files = {name: sidecar.file_state(row) for name, row in rows.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise broken(file, str(error)) from error
    for name in files:
        if not (sidecar.is_small_file(name) or name == sidecar.FILE):
            raise broken(file, f"it refers to {name!r}")
    return files


def broken(file: Place, reason: str | None) -> DamagedError:
    """Return the error for an unreadable journal."""
    stage = file.parent
    old = stage / OLD.removeprefix(f"{STAGE}/")
    return DamagedError(
        f"is not a journal ({reason})",
        path=file,
        fix=f"move the files of {old} to the checkpoint, metadata.json last, then run "
        f"`{removal(stage, '-r')}`",
    )
