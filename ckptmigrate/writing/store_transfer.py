"""The transfer of unchanged files into, out of and inside object stores.

Inside one store, the store copies the objects. Otherwise the bytes are transferred through this
host in pieces. Several objects are transferred concurrently.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from ckptmigrate.checkpoint import sidecar
from ckptmigrate.checkpoint.sidecar import digest_of
from ckptmigrate.errors import DestinationError, StoreError
from ckptmigrate.places import Place, Url
from ckptmigrate.storage import local_files
from ckptmigrate.storage.directories import directory
from ckptmigrate.storage.limits import DEEPEST, too_deep
from ckptmigrate.storage.link_rules import stays_link
from ckptmigrate.storage.progress import Progress
from ckptmigrate.storage.store import store_of
from ckptmigrate.writing.durable import sync_directory

_AT_ONCE: Final = 8  # objects
_LONGEST_NAME: Final = 255  # bytes, of Linux

File = tuple[str, int]  # a path relative to the checkpoint, with `/`, and a size in bytes


def files(source: Place, except_for: Collection[str] = ()) -> list[File]:
    """Return all files of a directory tree.

    Args:
        except_for: names to skip. A name directly in `source` also skips everything below it.

    Raises:
        DestinationError: a file cannot be stored in an object store (a link or a special file).
    """
    found = _walk(source) if isinstance(source, Path) else store_of(source).walk(source)
    return [
        (name, size)
        for name, size in found
        if name not in except_for and name.partition("/")[0] not in except_for
    ]


def _walk(folder: Path, depth: int = 0) -> Iterator[File]:
    if depth > DEEPEST:
        raise too_deep(folder)
    for item in sorted(os.scandir(folder), key=lambda entry: entry.name):
        here = Path(item.path)
        if stays_link(here):
            what = "is a link, and an object store has no links"
        elif item.is_dir():
            for name, size in _walk(here, depth + 1):
                yield f"{item.name}/{name}", size
            continue
        elif item.is_file():
            yield item.name, item.stat().st_size
            continue
        else:
            what = "is neither a file nor a directory, and cannot be copied"
        raise DestinationError(what, path=here, fix="remove it from the checkpoint")


def into_store(source: Place, target: Url, size: int, progress: Progress) -> None:
    """Copy one file to a new object.

    Args:
        size: in bytes.

    Raises:
        StoreError: the file cannot be read, or the object cannot be written.
        FileExistsError: the object exists.
    """
    with _found(source):
        if isinstance(source, Path):
            store_of(target).upload(source, target, progress)
        elif store_of(target).copies_from(store_of(source)):
            store_of(target).copy(source, target, size)
            progress(size)
        else:
            store_of(target).transfer(source, target, size, progress)


@contextlib.contextmanager
def _found(source: Place) -> Iterator[None]:
    """Raise a StoreError if a file was removed after it was listed."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(
            "was removed during the copy", path=source, fix="run the command again"
        ) from error


@contextlib.contextmanager
def unchanged(source: Place, before: Mapping[str, str | None]) -> Iterator[None]:
    """Raise if a checkpoint changed before the block starts or changes during the block.

    Args:
        before: metadata file -> its hash, None for a file that does not exist.

    Raises:
        StoreError: a file was written, removed or added, as far as the listing shows.
    """
    start = _versions(source)
    now = directory(source)
    other = [name for name, wanted in before.items() if digest_of(now, name) != wanted]
    if not other:
        yield
        end = _versions(source)
        names = sorted(start.keys() | end.keys())
        other = [name for name in names if start.get(name) != end.get(name)]
    if other:
        raise StoreError(
            "changed during the migration",
            path=source / other[0],
            fix="stop other programs that write to it, then run the command again",
        )


def _versions(source: Place) -> dict[str, tuple[int, str]]:
    """Return file -> (size in bytes, version), without the files in `.ckptmigrate/`."""
    if isinstance(source, Path):
        with _found(source):
            found = files(source, (sidecar.FOLDER,))
            return {name: (size, str(os.stat(source / name).st_mtime_ns)) for name, size in found}
    here = store_of(source).list(source)
    versions = {name: (size, here.versions[name]) for name, size in here.files.items()}
    for folder in here.folders:
        if folder != sidecar.FOLDER:
            below = _versions(source / folder)
            versions |= {f"{folder}/{name}": each for name, each in below.items()}
    return versions


def check(carried: Iterable[File], target: Place) -> None:
    """Raise if a transferred file is missing at its target or has another size.

    Raises:
        StoreError: a file is missing or has another size; the message names the file.
    """
    there = dict(files(target))
    for name, size in carried:
        if there.get(name) != size:
            found = f"has {there[name]} bytes" if name in there else "does not exist"
            raise StoreError(
                f"{found} after a copy of {size} bytes",
                path=target / name,
                fix="stop other programs that write to it, then run the command again",
            )


def from_store(source: Url, target: Path, except_for: Collection[str], progress: Progress) -> None:
    """Copy everything below a URL to an existing local directory.

    Raises:
        StoreError: `source` cannot be read.
        OSError: `target` cannot be written.
    """
    found = files(source, except_for)
    _check_names(found, source)
    folders = {target, *(parent for name, _ in found for parent in _inside(target, name))}
    for folder in sorted(folders - {target}):
        folder.mkdir(exist_ok=True)

    def bring(file: File, report: Progress) -> None:
        name, size = file
        with _found(source / name):
            store_of(source).download(source / name, target / name, size, report)
        local_files.sync(target / name)

    at_once(found, bring, progress)
    check(found, target)
    for folder in folders:
        sync_directory(folder)


def _check_names(found: Iterable[File], source: Url) -> None:
    """Raise if a local file cannot have the name of an object."""
    for name, _ in found:
        if any(len(part.encode()) > _LONGEST_NAME for part in name.split("/")):
            raise StoreError(
                f"has a name of more than {_LONGEST_NAME} bytes, which a local file cannot have",
                path=source / name,
                fix="rename or remove it with the tools of the store",
            )


def _inside(target: Path, name: str) -> list[Path]:
    """Return the directories between a target and a file below it."""
    return [target / parent for parent in Path(name).parents]


def at_once(
    found: Iterable[File], bring: Callable[[File, Progress], None], progress: Progress
) -> None:
    """Call `bring` for several files concurrently; after an error, start no others."""
    turn = threading.Lock()

    def report(count: int) -> None:
        with turn:
            progress(count)

    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        for _ in pool.map(lambda file: bring(file, report), found):
            pass
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
