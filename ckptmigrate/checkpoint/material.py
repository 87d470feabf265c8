"""The reader of a checkpoint: the readable parts, and the damage of the others.

`verify` reports all damage; `load` raises the first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ckptmigrate.checkpoint import common, downloads, manifest, metadata, metadata_file, sizes_file
from ckptmigrate.checkpoint.common import CommonState
from ckptmigrate.checkpoint.damage import Damage, fix_of, raise_first
from ckptmigrate.checkpoint.manifest import PAYLOAD, Manifest
from ckptmigrate.checkpoint.metadata import Metadata
from ckptmigrate.checkpoint.rows import Chunk
from ckptmigrate.checkpoint.saved_sizes import NO_SIZES
from ckptmigrate.checkpoint.table_reader import Planned
from ckptmigrate.checkpoint.used_bytes import unused
from ckptmigrate.errors import CkptMigrateError, DamagedError, PointerError, StoreError
from ckptmigrate.places import Place
from ckptmigrate.storage import pointers
from ckptmigrate.storage.directories import Directory
from ckptmigrate.text.commands import command, removal
from ckptmigrate.text.printable import counted, number

_NO_METADATA = (
    ".metadata is missing (the save did not finish, or a copy or a download omitted dot files)"
)
_FIX = "restore this file from a copy; without it, no release can locate any tensor"


@dataclass(frozen=True)
class Material:
    """The readable parts of a checkpoint.

    Attributes:
        directory: the directory of the checkpoint.
        marker: the content of metadata.json; None if it cannot be read.
        metadata: the content of `.metadata`; None if it cannot be read.
        common: the common state; None if it cannot be read.
        damage: the damage of the other parts, in the order in which a job reads them.
        pointers: the files of which only pointers were downloaded.
    """

    directory: Directory
    marker: Mapping[str, Any] | None
    metadata: Metadata | None
    common: CommonState | None
    damage: tuple[Damage, ...]
    pointers: frozenset[str] = frozenset()

    @property
    def path(self) -> Place:
        """The path of the checkpoint."""
        return self.directory.path

    @property
    def entries(self) -> Mapping[str, Any]:
        """Key -> inert storage metadata, for all keys that can be read."""
        return {} if self.metadata is None else self.metadata.entries

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """The readable rows of `storage_data`."""
        return () if self.metadata is None else self.metadata.chunks

    @property
    def planned(self) -> Planned | None:
        """Per rank, the keys in its save plan; None if there are no readable plans."""
        return None if self.metadata is None else self.metadata.planned

    @cached_property
    def payload(self) -> Mapping[str, int]:
        """Data file -> its size in bytes."""
        return {n: size for n, size in self.directory.files().items() if PAYLOAD.fullmatch(n)}

    @cached_property
    def unused_bytes(self) -> Mapping[str, int]:
        """Data file -> the number of its bytes that no key refers to, if there are any."""
        return {} if self.metadata is None else unused(self.chunks, self.payload)

    @cached_property
    def whole(self) -> Manifest | None:
        """The checkpoint as all other commands read it; None if a part cannot be read."""
        if self.metadata is None or self.common is None:
            return None
        if any(each.code == "entry-malformed" for each in self.damage):
            return None
        return _manifest(self.directory, self.marker, self.metadata, self.common)


def load(directory: Directory, marker: Mapping[str, Any] | None = None) -> Manifest:
    """Read a `torch_dist` checkpoint directory.

    The caller must check that it is one (`formats.require_torch_dist`).

    Args:
        marker: content to use for metadata.json instead of reading it.

    Raises:
        DamagedError: a file is missing, malformed or contradicts another.
    """
    found = gather(directory, marker)
    raise_first(found.damage)
    assert found.metadata is not None
    assert found.common is not None
    return _manifest(directory, found.marker, found.metadata, found.common)


def _manifest(
    directory: Directory,
    marker: Mapping[str, Any] | None,
    read: Metadata,
    state: CommonState,
) -> Manifest:
    sizes = NO_SIZES if state.arguments is not None else sizes_file.beside(directory.path)
    return Manifest(directory, marker or {}, read, state, sizes)


def gather(directory: Directory, marker: Mapping[str, Any] | None = None) -> Material:
    """Read all readable parts of a checkpoint; arguments as in `load`.

    Raises:
        StoreError: the object store failed; damage of the checkpoint is never raised.
    """
    damage: list[Damage] = []
    if marker is None:
        marker = _marker(directory, damage)
    read = _metadata(directory, damage)
    if read is not None:
        damage += _data_files(directory, read)
    state = _common(directory, read, damage)
    named = _pointers(directory) if any(map(_is_of_pointer, damage)) else {}
    return Material(directory, marker, read, state, _with_pointers(damage, named), frozenset(named))


def _is_of_pointer(found: Damage) -> bool:
    return isinstance(found.error, PointerError)


def _pointers(directory: Directory) -> dict[str, str]:
    """Return the files of a checkpoint that are pointers: name -> tool."""
    found: dict[str, str] = {}
    for name, size in directory.files().items():
        if size < pointers.LARGEST and (
            name in manifest.METADATA_FILES or manifest.PAYLOAD.fullmatch(name)
        ):
            with contextlib.suppress(DamagedError):
                kind = pointers.kind_of(directory.read_range(name, 0, size), size)
                found |= {} if kind is None else {name: kind.tool}
    return found


def _check_downloaded(directory: Directory, name: str) -> None:
    """Raise if a file is a pointer.

    Raises:
        PointerError: it is one.
    """
    size = directory.files()[name]
    if size < pointers.LARGEST:
        pointers.check(directory.path / name, directory.read_range(name, 0, size), size)


def _with_pointers(damage: list[Damage], named: dict[str, str]) -> tuple[Damage, ...]:
    """Return the damage with one item for all pointers, and without its consequences."""
    error = next((each.error for each in damage if _is_of_pointer(each)), None)
    if error is None:
        return tuple(damage)
    tools = " and ".join(dict.fromkeys(named.values()))
    are = f"is a {tools} pointer" if len(named) == 1 else f"are {tools} pointers"
    what = f"{counted(len(named), 'file')} {are}: the content was not downloaded"
    first = Damage("pointer-file", what, tuple(named), fix=error.fix, error=error)
    unknown = {"common-missing"} if metadata.FILE in named else set()
    others = (d for d in damage if not _is_of_pointer(d) and d.code not in unknown)
    return (first, *others)


def _marker(directory: Directory, damage: list[Damage]) -> Mapping[str, Any] | None:
    try:
        return manifest.read_marker(directory)
    except DamagedError as error:
        if manifest.MARKER_FILE not in directory.files():
            damage.append(Damage("marker-missing", "metadata.json is missing", error=error))
        else:
            what = f"metadata.json {error.reason}"
            fix = _fix_of_marker(directory)
            damage.append(Damage("marker-unreadable", what, fix=fix, error=error))
        return None


def _fix_of_marker(directory: Directory) -> str | None:
    """Return the fix for a metadata.json that `repair` cannot read, and so cannot keep, or None."""
    try:
        directory.read(manifest.MARKER_FILE)
    except DamagedError as error:
        path = directory.path
        first = removal(path / manifest.MARKER_FILE)
        return fix_of(error) or f"run `{first}`, then `{command('repair', path)}`"
    return None


def _metadata(directory: Directory, damage: list[Damage]) -> Metadata | None:
    try:
        found = metadata_file.parse(directory.read(metadata.FILE))
    except StoreError:  # a failure of the store, not of the checkpoint
        raise
    except CkptMigrateError as error:
        code, what, fix = "metadata-unreadable", f".metadata {error.reason}", fix_of(error)
        if metadata.FILE not in directory.files():
            code, what, fix = "metadata-missing", _NO_METADATA, None
            if downloads.find(directory.path) is not None:
                what = downloads.missing(directory.path, metadata.FILE)
                fix = downloads.fix(directory.path, "")
        damage.append(Damage(code, what, fix=fix, error=_of_metadata(error, directory)))
        return None
    damage += [
        each if each.error is None else replace(each, error=_of_metadata(each.error, directory))
        for each in found.damage
    ]
    return found


def _of_metadata(error: CkptMigrateError, directory: Directory) -> CkptMigrateError:
    path = error.path or directory.path / metadata.FILE
    return _located(error, error.reason, path, error.fix or _FIX)


def _located(
    error: CkptMigrateError, reason: str, path: Place | str, fix: str | None
) -> CkptMigrateError:
    """Return the error of a part as the error of a path.

    Keep errors that have the path of the file, and other errors than damage.
    """
    if not isinstance(error, DamagedError) or isinstance(error, PointerError):
        return error
    made = DamagedError(reason, path=path, fix=fix)
    made.__cause__ = error
    return made


def _data_files(directory: Directory, read: Metadata) -> Iterator[Damage]:
    """Yield the first data file that cannot contain its byte ranges; checks report all of them."""
    try:
        _check_data_files(directory, read)
    except DamagedError as error:
        yield Damage(None, error=error)


def _check_data_files(directory: Directory, read: Metadata) -> None:
    """Raise unless every byte range is inside a file of this directory.

    Raises:
        DamagedError: a data file is missing, truncated, a link, or outside the checkpoint.
    """
    sizes = directory.files()
    for name, end in read.ends.items():
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            raise DamagedError(
                f"refers to the file {name!r} outside the checkpoint",
                path=directory.path / metadata.FILE,
            )
        if name not in sizes:
            raise DamagedError(
                f"data file {downloads.missing(directory.path, name)}, and .metadata refers to it",
                path=directory.path,
                fix=downloads.fix(directory.path, "restore the file from a copy"),
            )
        directory.check_link(name)
        if end > sizes[name]:
            _check_downloaded(directory, name)
            raise DamagedError(
                f"data file {name} is truncated: it has {sizes[name]} bytes, and .metadata refers "
                f"to byte {number(end)}",
                path=directory.path,
                fix="restore the file from a copy",
            )


def _common(
    directory: Directory, read: Metadata | None, damage: list[Damage]
) -> CommonState | None:
    place = common.FILE
    try:
        if common.FILE in directory.files():
            return common.load(directory.read(common.FILE), in_file=True)
        place = common.KEY
        blob = None if read is None else read.blobs.get(common.KEY)
        if blob is None:
            what = f"both {common.FILE} and the key {common.KEY} are missing"
            fix = downloads.fix(directory.path, "") or None
            damage.append(Damage("common-missing", what, fix=fix, error=_no_common(directory)))
            return None
        if blob.file not in directory.files():
            raise DamagedError(f"is stored in {blob.file}, which is missing")
        if blob.offset + blob.length > directory.files()[blob.file]:
            _check_downloaded(directory, blob.file)
            raise DamagedError(f"is stored beyond the end of {blob.file}")
        return common.load(directory.read_range(blob.file, blob.offset, blob.length), in_file=False)
    except StoreError:  # a failure of the store, not of the checkpoint
        raise
    except CkptMigrateError as error:
        if place == common.FILE:
            located = _located(error, error.reason, directory.path / place, error.fix)
        else:
            reason = f"sharded object {place!r} {error.reason}"
            located = _located(error, reason, directory.path, error.fix)
        what = f"{place} {error.reason}"
        damage.append(Damage("common-unreadable", what, fix=fix_of(error), error=located))
        return None


def _no_common(directory: Directory) -> DamagedError:
    return DamagedError(
        f"has no common state (neither {common.FILE} nor the key {common.KEY})",
        path=directory.path,
        fix=downloads.fix(directory.path, "restore common.pt from a copy; it cannot be rebuilt"),
    )
