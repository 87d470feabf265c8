"""The validation of what a migration writes, before a job can read it."""

from __future__ import annotations

from ckptmigrate.errors import DamagedError
from ckptmigrate.planning.change import Change
from ckptmigrate.planning.planner import Plan
from ckptmigrate.storage.directories import Directory, read_if_there
from ckptmigrate.versions.detection import read


def verify(plan: Plan, written: Directory) -> None:
    """Read the output back and validate it; what `undo` restores may lack its metadata.json."""
    verify_files(plan.change, written)
    reading = read(written, unmarked=plan.verb == "undo")
    if plan.layout not in [layout.ID for layout in reading.layouts]:
        raise DamagedError(
            f"does not have the layout {plan.layout} when read back", path=written.path
        )


def verify_files(change: Change, written: Directory) -> None:
    """Raise if a changed file does not read back as written."""
    for name, content in change.files.items():
        if read_if_there(written, name) != content:
            raise DamagedError(
                "differs from what was written when read back", path=written.path / name
            )
