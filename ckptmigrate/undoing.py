"""Plan the way back over the last migration of a checkpoint, from the originals it kept."""

from __future__ import annotations

from ckptmigrate import diffing, sidecar, storage
from ckptmigrate.commands import command
from ckptmigrate.errors import RefusedError
from ckptmigrate.places import Place
from ckptmigrate.planning import Plan, untouched
from ckptmigrate.reading import read
from ckptmigrate.sidecar import REPAIR, Step, digest
from ckptmigrate.storage import Overlay


def plan(path: Place) -> Plan:
    """Plan to take back the last migration that the sidecar of a checkpoint tells of.

    Raises:
        RefusedError: there is none, or the checkpoint or the originals were changed since.
        CkptMigrateError: no readable torch_dist checkpoint.
    """
    directory = storage.directory(path)
    steps = sidecar.load(directory)
    if not steps:
        raise RefusedError(
            f"has nothing to undo: no {sidecar.FILE} tells of a migration",
            path=path,
            fix=f"to see what it is run `{command('inspect', path)}`",
        )
    last, before, why_not = sidecar.before_last(directory)
    if before is None:
        raise RefusedError(
            f"cannot be undone: {why_not}",
            path=path,
            fix="put that file back as the migration left it, or migrate it once more with "
            f"`{command('upgrade', path, '--to', last.source[-1], '--in-place')}`",
        )
    current = read(directory)
    previous = read(Overlay(directory, before))
    now = {name: digest(directory.read(name)) for name in last.files if name in directory.files()}
    return Plan(
        path=path,
        iteration=current.manifest.iteration,
        verb="undo",
        source=tuple(layout.ID for layout in current.layouts),
        target=" or ".join(layout.ID for layout in previous.layouts),
        layout=previous.layouts[0].ID,
        undo=_again(last, path),
        satisfied=False,
        differences=tuple(diffing.diff(current.manifest, previous.manifest, payload=False)),
        files=before,
        sidecar=sidecar.dump(steps[:-1]) if len(steps) > 1 else None,
        originals={},
        originals_folder=sidecar.folder(len(steps) - 1),
        kept_steps=len(steps) - 1,
        before={name: now.get(name) for name in last.files},
        losses=(),
        notes=(f"takes back the {last.verb} to {last.target} of {last.time}",),
        payload=untouched(current.manifest, before),
    )


def _again(step: Step, path: Place) -> str:
    if step.verb == REPAIR:
        return command(REPAIR, path, "--in-place")
    allowed = [word for loss in step.losses for word in ("--allow-loss", loss)]
    return command(step.verb, path, "--to", step.target, *allowed, "--in-place")
