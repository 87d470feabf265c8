"""Checks of sharded objects, and of the globals that pickles name."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from ckptmigrate.checkpoint import common, metadata
from ckptmigrate.checkpoint.damage import fix_of
from ckptmigrate.checkpoint.material import Material
from ckptmigrate.checkpoint.rows import is_tensor_entry
from ckptmigrate.checks.findings import Finding, finding
from ckptmigrate.errors import CkptMigrateError, StoreError
from ckptmigrate.pickles import torch_file
from ckptmigrate.releases.environment import USUAL
from ckptmigrate.releases.facts import compat
from ckptmigrate.releases.known_globals import unknown
from ckptmigrate.text.printable import counted, few

LARGEST: Final = 64 * 1024 * 1024  # bytes; larger sharded objects are not read


def check(material: Material, also_known: Collection[str] = ()) -> Iterator[Finding]:
    """Yield findings about unreadable sharded objects and unknown globals.

    Args:
        also_known: globals that the user trusts.
    """
    pickles = {}
    if material.metadata is not None:
        pickles[metadata.FILE] = material.metadata.named
    if material.common is not None:
        place = common.FILE if material.common.in_file else common.KEY
        pickles[place] = material.common.torch_file.named
    for place, named in pickles.items():
        names = unknown(named, also_known)
        if names:
            yield _unknown(material, place, names)
        moved = [name for name in dict.fromkeys(named) if not USUAL.imports(name, compat())]
        if moved:
            what = f"{place} names {few(moved)}, which Python {USUAL.python} does not have"
            yield finding(material, "moved-module", what, *moved)
    sizes = material.directory.files()
    unreadable, large, fixes = [], [], set[str | None]()
    strange: dict[tuple[str, ...], list[str]] = {}
    for chunk in material.chunks:
        blob = chunk.blob
        if chunk.offsets is not None or is_tensor_entry(material.entries.get(chunk.key)):
            continue
        if blob.offset + blob.length > sizes.get(blob.file, 0) or chunk.key == common.KEY:
            continue  # other checks report it
        if blob.length > LARGEST:
            large.append(chunk.key)
            continue
        try:
            content = material.directory.read_range(blob.file, blob.offset, blob.length)
            names = unknown(torch_file.load(content).named, also_known)
        except StoreError:  # a failure of the store, not of the checkpoint
            raise
        except CkptMigrateError as error:
            unreadable.append(f"{chunk.key}: {error.reason}")
            fixes.add(fix_of(error))
            continue
        if names:
            strange.setdefault(tuple(names), []).append(chunk.key)
    if unreadable:
        many = counted(len(unreadable), "sharded object is", "sharded objects are")
        fix = fixes.pop() if len(fixes) == 1 else None
        what = f"{many} not readable as a torch zip file"
        yield finding(material, "blob-unreadable", what, *unreadable, fix=fix)
    if large:
        many = counted(len(large), "sharded object has", "sharded objects have")
        yield finding(material, "blob-not-read", f"{many} more than {LARGEST} bytes", *large)
    for group, keys in strange.items():
        yield _unknown(material, f"sharded object {few(keys, 1)}", group)


def _unknown(material: Material, place: str, names: Collection[str]) -> Finding:
    many = counted(len(names), "global")
    return finding(
        material, "unknown-symbol", f"{place} names {many} that Megatron does not write", *names
    )
