"""The checkpoints of the PATHs of a batch; a PATH without checkpoints is kept with its error."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from ckptmigrate import places
from ckptmigrate.checkpoint import locate, root_reading
from ckptmigrate.checkpoint.locate import Located
from ckptmigrate.errors import CkptMigrateError, NotACheckpointError, of_system
from ckptmigrate.places import Place
from ckptmigrate.storage import urls
from ckptmigrate.storage.limits import DEEPEST


def is_glob(path: str) -> bool:
    """Return whether a PATH is a glob pattern that the shell did not expand."""
    return "://" not in path and glob.has_magic(path) and not os.path.lexists(path)


def several(given: Sequence[str]) -> bool:
    """Return whether the PATHs of a command line can be several."""
    return len(given) > 1 or is_glob(given[0])


def expand(paths: Iterable[str]) -> list[str | CkptMigrateError]:
    """Return absolute PATHs without duplicates, with patterns replaced by matching directories.

    A pattern without matches is replaced by an error.
    """
    found: dict[str, str | CkptMigrateError] = {}
    for path in paths:
        if not is_glob(path):
            each = absolute(path)
            found.setdefault(each, each)
            continue
        matches = sorted(match for match in _matches(path) if os.path.isdir(match))
        for each in map(absolute, matches):
            found.setdefault(each, each)
        if not matches:
            fix = root_reading.name_one(places.absolute(urls.place(".")))
            error = NotACheckpointError("matches no directory", path=path, fix=fix)
            found.setdefault(path, error)
    return list(found.values())


def _matches(pattern: str) -> Iterator[str]:
    """Yield the matches of a pattern.

    `**` does not follow links, which may form cycles, and descends at most DEEPEST directories.
    """
    parts = pattern.split(os.sep)
    if "**" not in parts:
        yield from glob.iglob(pattern)
        return
    at = parts.index("**")
    for top in glob.iglob(os.sep.join(parts[:at]) + os.sep) if at else [os.curdir]:
        for folder, below, _ in os.walk(top):
            deep = folder.count(os.sep) - top.count(os.sep) >= DEEPEST
            below[:] = [name for name in below if not (deep or name.startswith("."))]
            rest = parts[at + 1 :]
            yield from _matches(os.path.join(glob.escape(folder), *rest)) if rest else [folder]


def absolute(path: str) -> str:
    """Return the absolute form of a PATH."""
    return str(places.absolute(urls.place(path)))


def groups(
    paths: Sequence[str | CkptMigrateError],
    choose: Callable[[Place], Located],
    *,
    in_place: bool = False,
) -> list[Located]:
    """Return the checkpoints of each PATH, no checkpoint twice.

    Args:
        in_place: whether checkpoints are changed in place. Then two names of the same directory are
            one checkpoint; else each name gets its own result.
    """
    by: Callable[[Place], Place] = places.resolved if in_place else _itself
    seen: set[Place] = set()
    found = []
    for path in paths:
        group = _group(path, choose)
        fresh = tuple(each for each in group.checkpoints if by(each) not in seen)
        seen.update(map(by, fresh))
        if fresh or group.error:
            found.append(replace(group, checkpoints=fresh))
    return found


def _itself(path: Place) -> Place:
    return path


def _group(path: str | CkptMigrateError, choose: Callable[[Place], Located]) -> Located:
    if isinstance(path, CkptMigrateError):
        return locate.failed(urls.place(str(path.path)), path)
    try:
        return choose(urls.place(path))
    except CkptMigrateError as error:
        return locate.failed(urls.place(path), error)
    except OSError as error:
        return locate.failed(urls.place(path), of_system(error, path))
