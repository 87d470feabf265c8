"""The new roots of a batch: one for each PATH, with distinct names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ckptmigrate import places
from ckptmigrate.batch import roots
from ckptmigrate.batch.paths import Group
from ckptmigrate.checkpoint import locate
from ckptmigrate.errors import CkptMigrateError, DestinationError
from ckptmigrate.places import Place
from ckptmigrate.storage import urls
from ckptmigrate.verbs import changes


def place(
    groups: Sequence[Group], target: str, output: Place | None, *, several: bool, go_on: bool
) -> list[tuple[Group, str]]:
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
        made = str(places.absolute(output))
        groups = [group for group in groups if group.error is None or group.path != made]
    else:
        beside = {str(changes.default_output(urls.place(group.path), target)) for group in groups}
        groups = [group for group in groups if group.path not in beside]
    about = {
        places.resolved(urls.place(group.path)): group for group in groups if group.error is None
    }
    found = []
    for group in groups:
        path = urls.place(group.path)
        if output is None:
            root = changes.default_output(path, target)
        else:
            root = places.absolute(output) / path.name if several else places.absolute(output)
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


def _check_outside(root: Place, group: Group, about: Mapping[Place, Group]) -> None:
    """Raise if a new root is inside the PATH of another group."""
    for outer in places.enclosing(root):
        other = about.get(outer, group)
        if other is not group:
            raise DestinationError(
                f"lies inside {other.path}, which is another PATH",
                path=root,
                fix="name a directory outside of every PATH with -o DIR",
            )


def _checked(group: Group, root: Place, *, go_on: bool) -> Group:
    """Return the group, with an error if its root cannot be created."""
    if group.error is not None:
        return group
    names = {urls.place(each).name for each in group.checkpoints}
    if group.tracker is not None:
        names.add(locate.directory_of(group.tracker))
    try:
        roots.check(root, urls.place(group.path), names, go_on=go_on)
    except CkptMigrateError as error:
        return replace(group, checkpoints=(), error=error)
    return group
