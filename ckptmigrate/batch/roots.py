"""The new roots of a batch: what is in one already, and its tracker file."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from ckptmigrate import locate, sidecar, staging, transaction
from ckptmigrate.errors import DestinationError
from ckptmigrate.manifest import PAYLOAD
from ckptmigrate.planning import Plan
from ckptmigrate.sidecar import Step, digest
from ckptmigrate.storage import LocalDirectory, Overlay


def check(root: Path, source: Path, names: Collection[str], *, go_on: bool) -> None:
    """Make sure that a root can be made, or filled further.

    Args:
        names: of the checkpoints that are to come into it; no others are in it.
        go_on: whether it may be there already.

    Raises:
        DestinationError: as `transaction.check_destination`, or something else is in it.
    """
    if not go_on or not root.is_dir() or root.is_symlink():
        parent = root.parent
        # That of several roots is made with them.
        transaction.check_destination(parent if not parent.is_dir() else root, source)
        return
    ours = {*names, locate.TRACKER_FILE}
    for name in names:
        ours |= {staging.stage_of(root / name).name, staging.lock_of(root / name).name}
    strange = sorted({item.name for item in root.iterdir()} - ours)
    if strange:
        raise DestinationError(
            f"exists, and holds {strange[0]}, which does not come from {source}",
            path=root,
            fix="name another destination with -o DEST",
        )


def has(plan: Plan, destination: Path) -> bool:
    """Whether a checkpoint is there already that is what the plan leads to, file by file."""
    if not destination.is_dir() or destination.is_symlink():
        return False
    there = LocalDirectory(destination)
    found = there.files()
    for name, wanted in plan.after.items():
        if digest(there.read(name) if name in found else None) != wanted:
            return False
    payload = {
        name: size
        for name, size in LocalDirectory(plan.path).files().items()
        if PAYLOAD.fullmatch(name) and name not in plan.after
    }
    if any(found.get(name) != size for name, size in payload.items()):
        return False
    steps = sidecar.load(Overlay(there, {sidecar.FILE: plan.sidecar}))
    return _timeless(steps) == _timeless(sidecar.load(there))


def _timeless(steps: tuple[Step, ...]) -> list[Step]:
    return [replace(step, time="") for step in steps]


def name_latest(root: Path, tracker: str) -> None:
    """Give a root its tracker file, where it does not lead there already.

    Raises:
        DestinationError: it cannot be written.
    """
    file = root / locate.TRACKER_FILE
    if not file.is_file() or locate.tracker_text(root) != tracker:
        transaction.name_latest(root, tracker)
