"""Planning of the undo of the last in-place migration, from the original files that it kept."""

from __future__ import annotations

from ckptmigrate.checkpoint import differences, locate, sidecar
from ckptmigrate.checkpoint.sidecar import REPAIR, Step
from ckptmigrate.errors import RefusedError
from ckptmigrate.places import Place
from ckptmigrate.planning.planner import Plan, change_of, untouched
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import Overlay
from ckptmigrate.text.commands import command, removal
from ckptmigrate.versions.detection import read


def plan(path: Place) -> Plan:
    """Plan to undo the last migration in the sidecar of a checkpoint.

    Raises:
        RefusedError: there is no in-place migration to undo, or the checkpoint or the original
            files changed after it.
        CkptMigrateError: the directory is not a readable torch_dist checkpoint.
    """
    directory = directories.directory(path)
    steps = sidecar.load(directory)
    if not steps:
        raise RefusedError(
            f"has no migration to undo (no {sidecar.FILE})",
            path=path,
            fix=f"to examine it, run `{command('inspect', path)}`",
        )
    if not steps[-1].in_place:
        raise RefusedError(
            "was written out of place, so there is no in-place migration to undo",
            path=path,
            fix="the source is unchanged; to discard this result, run "
            f"`{removal(_result(path), '-r')}`",
        )
    last, before, why_not = sidecar.before_last(directory)
    if before is None:
        raise RefusedError(
            f"cannot be undone: {why_not}",
            path=path,
            fix="restore the file as the migration wrote it, or migrate again with "
            f"`{command('upgrade', path, '--to', last.source[-1], '--in-place')}`",
        )
    current = read(directory)
    previous = read(Overlay(directory, before), unmarked=True)
    return Plan(
        iteration=current.manifest.iteration,
        verb="undo",
        source=tuple(layout.ID for layout in current.layouts),
        target=" or ".join(layout.ID for layout in previous.layouts),
        layout=previous.layouts[0].ID,
        undo=_redo_command(last, path),
        satisfied=False,
        differences=tuple(differences.diff(current.manifest, previous.manifest, payload=False)),
        change=change_of(
            path,
            before,
            steps[:-1],
            kept=len(steps) - 1,
            originals={},
            before={name: state.after for name, state in last.files.items()},
            after={name: state.before for name, state in last.files.items()},
        ),
        losses=(),
        notes=(f"undoes the {last.verb} to {last.target} of {last.time}",),
        payload=untouched(current.manifest, before),
        written=previous.manifest.metadata,
    )


def _result(path: Place) -> Place:
    """Return what to delete of a result: its root if that has no other checkpoint, or the result.

    Args:
        path: the checkpoint that an out-of-place migration wrote.
    """
    root = path.parent
    only = directories.is_file(root / locate.TRACKER_FILE) and locate.all_of(root) == (path,)
    return root if only else path


def _redo_command(step: Step, path: Place) -> str:
    if step.verb == REPAIR:
        return command(REPAIR, path, "--in-place")
    allowed = [word for loss in step.losses for word in ("--allow-loss", loss)]
    return command(step.verb, path, "--to", step.target, *allowed, "--in-place")
