"""The changes of a migration in a document: of each checkpoint, and of the new root."""

from __future__ import annotations

from collections.abc import Mapping

from ckptmigrate.checkpoint import sidecar
from ckptmigrate.checkpoint.root_contents import RootContents
from ckptmigrate.checkpoint.sidecar import digest
from ckptmigrate.places import Place
from ckptmigrate.planning.losses import LOSSES
from ckptmigrate.planning.planner import Plan
from ckptmigrate.report.document import AllowedLoss, CheckpointChange, FileChange
from ckptmigrate.text.sizes import size


def carried_of(
    root: Place, contents: RootContents, trackers: Mapping[str, bytes]
) -> tuple[CheckpointChange, ...]:
    """Return the change of a new root, if it gets files besides checkpoints and tracker files."""
    carried = (*contents.inside, *contents.carried)
    if not carried:
        return ()
    lines = tuple(f"+ file {each.name}: {size(each.size)}, carried" for each in carried)
    files = tuple(
        FileChange(name, len(content), None, digest(content)) for name, content in trackers.items()
    )
    return (CheckpointChange(str(root), str(root), (), "", "", lines, files, (), (), 0, 0),)


def change_of(plan: Plan, result: Place, history: str | None) -> CheckpointChange:
    """Return the change of a checkpoint.

    Args:
        history: the hash of the migration history before the change.
    """
    change = plan.change
    files = [
        FileChange(
            name,
            None if new is None else len(new),
            change.before.get(name),
            None if new is None else change.after[name],
        )
        for name, new in plan.files.items()
    ]
    new = change.sidecar
    if history != digest(new) and not plan.changes_nothing:
        size = None if new is None else len(new)
        files.append(FileChange(sidecar.FILE, size, history, digest(new)))
    return CheckpointChange(
        path=str(plan.path),
        result=str(result),
        source=plan.source,
        target=plan.target,
        layout=plan.layout,
        differences=tuple(str(each) for each in plan.differences),
        files=tuple(files),
        losses=tuple(AllowedLoss(name, LOSSES[name].meaning) for name in plan.losses),
        notes=plan.notes,
        payload_files=plan.payload[0],
        payload_bytes=plan.payload[1],
    )
