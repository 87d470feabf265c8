"""The journal of a change in place: what goes and what comes, by digest, and in which order.

A swap on a local file system (swapping.py) and one in an object store (objects/swap.py) share it.
metadata.json goes away first, then `.metadata`; `.metadata` comes back, and metadata.json last.
Whether a swap is complete is read from the digests, not from what the last step may have been.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Final

from ckptmigrate.access.places import Place
from ckptmigrate.access.storage import Directory
from ckptmigrate.checkpoint import manifest, metadata, sidecar
from ckptmigrate.checkpoint.sidecar import FileState, digest, digest_of
from ckptmigrate.errors import DamagedError, DestinationError, Retry
from ckptmigrate.planning.change import Change
from ckptmigrate.text.commands import removal

NAME: Final = "journal.json"  # in the stage
OLD: Final = ".old"  # beside it, where no nested checkpoint can be: what was moved out of the way


class Outcome(Enum):
    """What was made of a migration in place, in words."""

    NOTHING = "nothing to recover"
    UNTOUCHED = "removed what was staged; the checkpoint had not been touched"
    ROLLED_BACK = "rolled back; the checkpoint is as it was before the migration"
    COMMITTED = "the migration was complete; removed what was left of it"


def changes(change: Change, now: Directory) -> tuple[dict[str, bytes], dict[str, FileState]]:
    """What a change in place comes to.

    Args:
        now: the directory as it is.

    Returns:
        Name -> bytes of every file that comes in; name -> digests of every one that goes or comes.

    Raises:
        DestinationError: the directory is not as it was planned from.
    """
    before = {name: digest_of(now, name) for name in change.before}
    for name, planned in change.before.items():
        if before[name] != planned:
            raise DestinationError(
                f"{name} was changed while the migration was planned",
                path=change.path,
                fix="run it again",
                retry=Retry(),
            )
    new = {name: content for name, content in change.files.items() if content is not None}
    if change.sidecar is not None:
        new[sidecar.FILE] = change.sidecar
    for name in change.marks:
        if name not in change.files:
            new[name] = now.read(name)
    names = sorted({*change.files, *new, sidecar.FILE})
    return new, {
        name: FileState(
            before[name] if name in before else digest_of(now, name),
            change.after[name] if name in change.files else digest(new.get(name)),
        )
        for name in names
    }


def groups(names: Collection[str]) -> list[list[str]]:
    """Names in the order of coming: the first group is on disk before the marker moves.

    Of a nested checkpoint, too, metadata.json is the last and `.metadata` the one before it.
    """
    marker = manifest.MARKER_FILE
    order = {metadata.FILE: 1, marker: 2}
    rest = sorted(set(names) - {marker}, key=lambda n: (order.get(n.rpartition("/")[2], 0), n))
    return [rest, [marker]] if marker in names else [rest]


def number(steps: int) -> str:
    """The name of the folder of the last of so many steps; what comes after it is newer."""
    return Path(sidecar.folder(steps - 1)).name


def matches(directory: Directory, files: Mapping[str, FileState], *, after: bool) -> bool:
    """Whether every file of a swap is as it was before, or is to be after."""
    return all(
        digest_of(directory, name) == (state.after if after else state.before)
        for name, state in files.items()
    )


def check(directory: Directory, files: Mapping[str, str | None]) -> None:
    """Raise unless files read back as they were written.

    Args:
        files: name -> digest, None for a file that was removed.

    Raises:
        DamagedError: one does not; it is named.
    """
    for name, wanted in files.items():
        if digest_of(directory, name) != wanted:
            raise DamagedError(
                "does not read back as it was written",
                path=directory.path / name,
                fix="make sure that nothing else writes to it, then run this again",
            )


def dump(files: Mapping[str, FileState]) -> bytes:
    """The bytes of a journal."""
    rows = {name: {"before": s.before, "after": s.after} for name, s in files.items()}
    return json.dumps({"files": rows}, indent=1).encode()


def parse(content: bytes, file: Place) -> dict[str, FileState]:
    """The digests in a journal.

    Raises:
        DamagedError: it is none.
    """
    try:
        rows = json.loads(content)["files"]
        files = {name: sidecar.file_state(row) for name, row in rows.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise broken(file, str(error)) from error
    for name in files:
        if not (sidecar.is_small_file(name) or name == sidecar.FILE):
            raise broken(file, f"it names {name!r}")
    return files


def broken(file: Place, reason: str | None) -> DamagedError:
    """The error of a journal from which a swap cannot be finished."""
    stage = file.parent
    return DamagedError(
        f"is no journal ({reason})",
        path=file,
        fix=f"put the files of {stage / OLD} back by hand, metadata.json last, then run "
        f"`{removal(stage, '-r')}`",
    )
