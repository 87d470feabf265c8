"""The new data files of a change, written once: a run continues what an interrupted one finished.

Each data file is a part. It is hashed while it is written, synced, read back from disk and compared
with the hash; then its record is written, and the part is finished. The first record, the plan,
identifies the source and the change; for another plan, everything is written again.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ckptmigrate.checkpoint.manifest import PAYLOAD
from ckptmigrate.checkpoint.sidecar import digest_of, file_state
from ckptmigrate.errors import CkptMigrateError, DamagedError
from ckptmigrate.places import Place
from ckptmigrate.planning.change import Change, NewPayload
from ckptmigrate.storage.directories import directory
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.sizes import size
from ckptmigrate.version import __version__
from ckptmigrate.writing.durable import continued, model_of
from ckptmigrate.writing.part_files import PLAN, PartFiles, folders, records, versions

AT_ONCE: Final = 2  # parts: one is read while another one is hashed and written


@dataclass(frozen=True)
class Moving:
    """How the bytes of new data files are moved.

    Attributes:
        jobs: the number of parts that are written concurrently.
        verify_source: whether to compare the finished parts with the source once more.
    """

    jobs: int = AT_ONCE
    verify_source: bool = False


MOVING: Final = Moving()


def written(
    change: Change,
    files: PartFiles,
    moving: Moving,
    progress: Progress | None,
    *like: Path,
    copied: int = 0,
) -> Change:
    """Write the data files of a change that are not finished; return it with the digests of all.

    Args:
        copied: bytes that are copied to the same file system afterwards, and need space, too.
        progress: called with each number of bytes that were written, also by an earlier run.
        like: see `PartFiles.make`.

    Raises:
        DamagedError: the source changed or is damaged, or a part has another size than planned or
            does not read back as written.
        OSError, StoreError: a part cannot be written.
    """
    if not change.payload:
        return change
    plan = _plan(change)
    try:
        done = _finished(change, files, plan)
        missing = [change.payload[name].size for name in change.payload if name not in done]
        files.make(*like)
        files.require_space(sum(missing) + copied)
        files.record(PLAN, plan)
        digests = _digests(change, files, done, moving, progress or (lambda _: None))
        if _plan(change) != plan:
            raise DamagedError(
                "changed during the migration",
                path=change.path,
                fix="stop other programs that write to it, then run the command again",
            )
    except DamagedError as error:
        if not isinstance(error, _ReadBackError):  # the parts have no use for another run
            files.remove_all()
        raise
    return change.with_payload(digests)


class _ReadBackError(DamagedError):
    """A part that does not read back as written."""


def _digests(
    change: Change, files: PartFiles, done: dict[str, str], moving: Moving, progress: Progress
) -> dict[str, str]:
    """Write the parts that are not finished and return the digests of all, in order.

    Args:
        done: the digests of the finished parts.
    """
    missing = [name for name in change.payload if name not in done]
    work = _Work(change, files, progress)
    for name in done:
        work.count(change.payload[name].size)
    found = work.each(work.write, missing, moving.jobs)
    digests = done | dict(zip(missing, found, strict=True))
    if moving.verify_source:
        again = work.each(work.read_source, [*change.payload], moving.jobs)
        for name, digest in zip(change.payload, again, strict=True):
            if digests[name] != digest:
                raise DamagedError(
                    "differs from the source when that is read again", path=files.data / name
                )
    return {name: digests[name] for name in change.payload}


def _plan(change: Change) -> bytes:
    """Return the record that identifies the current source of a change, and what it writes."""
    now = directory(change.path)
    small = [name for name in change.before if not PAYLOAD.fullmatch(name)]
    fields = [
        __version__,
        str(change.path),
        {name: digest_of(now, name) for name in small},
        versions(change.path),
        change.after,
    ]
    identity = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    sizes = {name: payload.size for name, payload in change.payload.items()}
    return json.dumps({"identity": identity, "parts": sizes}).encode()


def _finished(change: Change, files: PartFiles, plan: bytes) -> dict[str, str]:
    """Return the digests of the finished parts, and remove all others."""
    found = files.records()
    if found and found.get(PLAN) != plan:
        files.remove_all()
        found = {}
    there = files.versions() if found else {}
    done = {}
    for name in change.payload:
        digest, version = _parse(found.get(name))
        if digest is not None and version == there.get(name):
            done[name] = digest
    if rest := [n for n in change.payload if (n in there or n in found) and n not in done]:
        files.remove(rest)
    return done


def _parse(record: bytes | None) -> tuple[str | None, str | None]:
    """Return the digest and the version in the record of a part; None if it is not one."""
    try:
        row = json.loads(record or b"{}")
        return file_state({"before": None, "after": row["sha256"]}).after, str(row["version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, None


class _Work:
    """The parts of a change, which several threads write."""

    def __init__(self, change: Change, files: PartFiles, progress: Progress) -> None:
        self._change = change
        self._files = files
        self._progress = progress
        self._turn = threading.Lock()
        self._error: BaseException | None = None

    def count(self, size: int) -> None:
        """Report a number of bytes that were written."""
        with self._turn:
            self._progress(size)

    def each(self, do: Callable[[str], str], names: Sequence[str], jobs: int) -> list[str]:
        """Call a function for several parts concurrently; an error stops all of them."""

        def one(name: str) -> str:
            try:
                self._check()
                return do(name)
            except BaseException as error:
                self._error = self._error or error
                raise

        pool = ThreadPoolExecutor(jobs)
        try:
            return list(pool.map(one, names))
        except BaseException as error:  # of a part, or an interrupt of this thread
            self._error = self._error or error
            raise self._error from None
        finally:
            pool.shutdown(cancel_futures=True)

    def write(self, name: str) -> str:
        """Write a part and its record; return its digest."""
        payload, place = self._change.payload[name], self._files.data / name
        found, size = hashlib.sha256(), 0

        def pieces() -> Iterator[bytes]:
            nonlocal found, size
            found, size = hashlib.sha256(), 0  # a store may read the content again
            for piece in self._pieces(payload):
                found.update(piece)
                size += len(piece)
                yield piece
                self.count(len(piece))

        self._files.write(name, NewPayload(payload.size, pieces), model_of(self._change, name))
        if size != payload.size:
            raise DamagedError(f"has {size} bytes, and {payload.size} were planned", path=place)
        digest = found.hexdigest()
        if self._files.read_back(name) != digest:
            raise _ReadBackError("differs from what was written when read back", path=place)
        row = {"sha256": digest, "version": self._files.versions(name)[name]}
        self._files.record(name, json.dumps(row).encode())
        return digest

    def read_source(self, name: str) -> str:
        """Return the digest that a part has according to the source."""
        found = hashlib.sha256()
        for piece in self._pieces(self._change.payload[name]):
            found.update(piece)
        return found.hexdigest()

    def _pieces(self, payload: NewPayload) -> Iterator[bytes]:
        for piece in payload.pieces():
            self._check()
            yield piece

    def _check(self) -> None:
        """Raise if another part could not be written."""
        if self._error is not None:
            raise self._error


def finished(area: Place) -> str | None:
    """Return how many of the parts in an area are finished, as text; None if none are."""
    done: list[int] = []
    planned: list[int] = []
    for folder in folders(area):
        sizes, found = _sizes(folder)
        planned += sizes.values()
        done += [sizes[name] for name in sizes if name in found]
    if not done:
        return None
    return f"{len(done)} of {len(planned)} data files ({size(sum(done))} of {size(sum(planned))})"


def _sizes(folder: Place) -> tuple[Mapping[str, int], Mapping[str, bytes]]:
    """Return the size of each planned part of a folder in bytes, and its records."""
    found = records(folder)
    try:
        sizes = json.loads(found[PLAN])["parts"]
        return {str(name): int(count) for name, count in sizes.items()}, found
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, {}


def mention(error: BaseException, done: str | None, about: Place) -> None:
    """Add to an error which parts are finished, and how to continue.

    Args:
        done: the result of `finished`.
        about: the checkpoint or destination.
    """
    if done is None:
        return
    kept = f"{done} are finished and kept"
    if isinstance(error, CkptMigrateError):
        error.reason += f"; {kept}"
        error.fix = "; ".join(filter(None, (error.fix, continued(about))))
    elif isinstance(error, KeyboardInterrupt):
        error.args = (f"{kept}; {continued(about)}",)


def recovered(what: str, done: str | None, *, keep: bool) -> str:
    """Return the result of a recovery, with what became of the finished parts."""
    if done is None:
        return what
    if keep:
        return f"{what}; kept {done}: run the command again to continue"
    return f"{what}, and {done} that were finished"
