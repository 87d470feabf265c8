"""The new roots of a batch, one for each PATH: names, contents and tracker files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ckptmigrate import places
from ckptmigrate.checkpoint import root_contents
from ckptmigrate.checkpoint.locate import Located
from ckptmigrate.checkpoint.trackers import TRACKERS
from ckptmigrate.errors import CkptMigrateError, DestinationError
from ckptmigrate.places import Place
from ckptmigrate.storage import directories
from ckptmigrate.verbs import changes
from ckptmigrate.writing.publisher import publisher


def place(
    groups: Sequence[Located], target: str, output: Place | None, *, several: bool, go_on: bool
) -> list[tuple[Located, str]]:
    """Return each PATH with its new root; a root that cannot be created is an error of its group.

    A PATH that is the default destination of another PATH is skipped, and so is `output`: a pattern
    that is used again matches the results of its first run.

    Args:
        output: with several PATHs, the directory for their roots; with one PATH, the root itself.
        go_on: whether a root may exist and contain checkpoints of an earlier run.

    Raises:
        DestinationError: two PATHs would share one root, or a root would be inside another PATH.
    """
    if output is not None:
        made = places.absolute(output)
        groups = [group for group in groups if group.error is None or group.path != made]
    else:
        beside = {changes.default_output(group.source, target) for group in groups}
        groups = [group for group in groups if group.path not in beside]
    about = {places.resolved(group.path): group for group in groups if group.error is None}
    found = []
    for group in groups:
        if output is None:
            root = changes.default_output(group.source, target)
        else:
            name = group.source.name
            root = places.absolute(output) / name if several else places.absolute(output)
        _check_outside(root, group, about)
        found.append((_checked(group, root, go_on=go_on), str(root)))
    for shared, count in Counter(root for _, root in found).items():
        if count > 1:
            raise DestinationError(
                f"would become the new root of {count} PATHs, whose names are the same",
                path=shared,
                fix="migrate them in runs of their own, each with another -o DIR",
            )
    return found


def _check_outside(root: Place, group: Located, about: Mapping[Place, Located]) -> None:
    """Raise if a new root is inside the PATH of another group."""
    for outer in places.enclosing(root):
        other = about.get(outer, group)
        if other is not group:
            raise DestinationError(
                f"is inside {other.path}, which is another PATH",
                path=root,
                fix="name a directory outside of every PATH with -o DIR",
            )


def _checked(group: Located, root: Place, *, go_on: bool) -> Located:
    """Return the group, with an error if its root cannot be created."""
    if group.error is not None:
        return group
    names = {name.partition("/")[0] for name in group.names}
    if group.tracker is not None:
        names.add(group.kind.directory_of(group.tracker))
    try:
        if go_on:
            found = root_contents.contents(group).carried
            names |= {each.name.partition("/")[0] for each in found}
        check(root, group.source, names, go_on=go_on)
    except CkptMigrateError as error:
        return replace(group, checkpoints=(), error=error)
    return group


def check(root: Place, source: Place, names: Collection[str], *, go_on: bool) -> None:
    """Raise if a root can be neither created nor added to.

    Args:
        names: the names of the checkpoints to create; the root may contain no others.
        go_on: whether the root may exist.

    Raises:
        DestinationError: as `Writer.check_free`, or the root contains something else.
    """
    if not go_on or not directories.is_dir(root) or _is_link(root):
        # The parent directory of several roots is created too; a store has no directories.
        made = isinstance(root, Path) and not root.parent.is_dir()
        publisher(root.parent if made else root).check_free(source)
        return
    found = directories.directory(root)
    begun = tuple(f".{name}.ckptmigrate-" for name in names)
    strange = [
        name
        for name in sorted({*found.files(), *found.folders()} - {*names, *TRACKERS})
        if not name.startswith(begun)
    ]
    if strange:
        raise DestinationError(
            f"exists, and holds {strange[0]}, which does not come from {source}",
            path=root,
            fix="name another destination with -o DEST",
        )


def _is_link(root: Place) -> bool:
    return isinstance(root, Path) and root.is_symlink()


def complete(root: Place, group: Located) -> None:
    """Bring the files that are in no checkpoint into a root, then write its tracker files.

    Raises:
        DestinationError: a file cannot be written.
    """
    found = changes.missing_files(root, group)
    if found is not None:
        publisher(root).complete(found)
