"""Planning of the undo of the last in-place migration, and of the removal of its original files."""

from __future__ import annotations

from ckptmigrate.checkpoint import integrity, root_reading, root_recognition, sidecar
from ckptmigrate.checkpoint.manifest import PAYLOAD, Manifest
from ckptmigrate.checkpoint.sidecar import DROPPED, REPAIR, Step, digest, digest_of
from ckptmigrate.errors import RefusedError
from ckptmigrate.places import Place
from ckptmigrate.planning import optimizers
from ckptmigrate.planning.extra_states import summarized
from ckptmigrate.planning.planner import Plan, change_of, untouched
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import Directory, Overlay, size_of
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
    steps = _steps(directory)
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
        differences=summarized(
            optimizers.differences(current.manifest, previous.manifest, compacted=last.compacts)
        ),
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


def forget(path: Place) -> Plan:
    """Plan to remove the original files of a checkpoint, so that no migration can be undone.

    The data files that only the originals refer to are removed, too.

    Raises:
        RefusedError: there are no original files.
        CkptMigrateError: the directory is not a readable torch_dist checkpoint.
    """
    directory = directories.directory(path)
    steps = _steps(directory)
    current = read(directory)
    unused = _unused(directory, current.manifest, steps)
    files: dict[str, bytes | None] = dict.fromkeys(unused)
    files |= integrity.updated(directory, files)
    names = {**dict.fromkeys(current.manifest.small_files), **files}
    before = {name: digest_of(directory, name) for name in names}
    layouts = tuple(layout.ID for layout in current.layouts)
    return Plan(
        iteration=current.manifest.iteration,
        verb="undo",
        source=layouts,
        target=" or ".join(layouts),
        layout=layouts[0],
        undo="",
        satisfied=False,
        differences=(),
        change=change_of(
            path,
            files,
            (),
            kept=0,
            originals={},
            before=before,
            after={**before, **{name: digest(content) for name, content in files.items()}},
        ),
        losses=(),
        notes=(),
        payload=untouched(current.manifest, files),
        freed=sum(unused.values()) + _kept_size(directory, steps),
        written=current.manifest.metadata,
    )


def _steps(directory: Directory) -> tuple[Step, ...]:
    steps = sidecar.load(directory)
    if steps:
        return steps
    raise RefusedError(
        f"has no migration to undo (no {sidecar.FILE})",
        path=directory.path,
        fix=f"to examine it, run `{command('inspect', directory.path)}`",
    )


def _unused(directory: Directory, current: Manifest, steps: tuple[Step, ...]) -> dict[str, int]:
    """Return the data files that only the originals refer to -> size in bytes."""
    original = sidecar.oldest(directory)
    made = {name for step in steps for name in step.payload}
    if any(step.compacts for step in steps):
        made |= directory.files().keys()
    if original.undone:
        made |= {chunk.blob.file for chunk in read(original.directory).manifest.metadata.chunks}
    used = {chunk.blob.file for chunk in current.metadata.chunks}
    return {
        name: size
        for name, size in directory.files().items()
        if name in made - used and PAYLOAD.fullmatch(name)
    }


def _kept_size(directory: Directory, steps: tuple[Step, ...]) -> int:
    """Return the size of the original files of all steps in bytes."""
    names = (
        f"{sidecar.folder(number)}/{name}"
        for number, step in enumerate(steps)
        for name in step.files
    )
    return sum(size_of(directory, name) or 0 for name in names)


def _result(path: Place) -> Place:
    """Return what to delete of a result: its root if that has no other checkpoint, or the result.

    Args:
        path: the checkpoint that an out-of-place migration wrote.
    """
    inside = root_recognition.in_save(path)
    if inside is None:
        return path
    root, save = inside.save.parent, inside.save
    if inside.kind.saves is None:
        return save
    only = root_reading.is_root(root) and root_reading.read(root).saves == (save,)
    return root if only and len(inside.kind.checkpoints(save)) == 1 else path


def _redo_command(step: Step, path: Place) -> str:
    if step.verb != REPAIR:
        return optimizers.repeated(step, path)
    dropped = ("--drop-optimizer",) if step.optimizer == DROPPED else ()
    return command(REPAIR, path, *dropped, "--in-place")
