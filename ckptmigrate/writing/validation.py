"""The validation of what a migration writes, before a job can read it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from ckptmigrate.checkpoint.sidecar import digest_of
from ckptmigrate.errors import DamagedError
from ckptmigrate.places import Place
from ckptmigrate.planning.change import Change, NewPayload
from ckptmigrate.planning.planner import Plan
from ckptmigrate.storage.directories import Directory, directory, read_if_there
from ckptmigrate.storage.progress import Progress
from ckptmigrate.versions.detection import read


def verify(plan: Plan, written: Directory) -> None:
    """Read the output back and validate it; what `undo` restores may lack its metadata.json."""
    verify_files(plan.change, written)
    reading = read(written, unmarked=plan.verb == "undo")
    if plan.layout not in [layout.ID for layout in reading.layouts]:
        raise DamagedError(
            f"does not have the layout {plan.layout} when read back", path=written.path
        )


def write_payload(
    payload: NewPayload,
    place: Place,
    write: Callable[[NewPayload], None],
    progress: Progress | None,
) -> str:
    """Write a new data file, read it back and return its digest.

    Args:
        place: where `write` writes it.
        progress: called with each number of bytes written.

    Raises:
        DamagedError: it has another size than planned, or does not read back as written.
    """
    found = hashlib.sha256()
    size = 0

    def pieces() -> Iterator[bytes]:
        nonlocal found, size
        found, size = hashlib.sha256(), 0  # a store may read the content again
        for piece in payload.pieces():
            found.update(piece)
            size += len(piece)
            yield piece
            if progress is not None:
                progress(len(piece))

    write(NewPayload(payload.size, pieces))
    if size != payload.size:
        raise DamagedError(f"has {size} bytes, and {payload.size} were planned", path=place)
    if digest_of(directory(place.parent), place.name) != found.hexdigest():
        raise DamagedError("differs from what was written when read back", path=place)
    return found.hexdigest()


def verify_files(change: Change, written: Directory) -> None:
    """Raise if a changed file does not read back as written."""
    for name, content in change.files.items():
        if read_if_there(written, name) != content:
            raise DamagedError(
                "differs from what was written when read back", path=written.path / name
            )
