"""The symbolic links in a checkpoint: those that are followed, copied as links, or refused.

A link is followed only to a file of the same name, to a file named by its content, or to a file in
the same directory, so that an untrusted checkpoint cannot choose which files are read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from ckptmigrate.errors import DamagedError
from ckptmigrate.storage.limits import DEEPEST

# The files of a checkpoint that releases and this package read; only these may be links.
NAMES: Final = re.compile(
    r"\.metadata|common\.pt|metadata\.json|integrity\.json|__\d+_\d+\.distcp|ckptmigrate\.json"
    r"|train_state\.pt|latest_train_state\.pt"  # of Megatron-Bridge
    r"|latest_checkpointed_iteration\.txt",  # of a root
    re.ASCII,
)
# A file named by its content, as in caches: `blobs/DIGEST` (huggingface_hub), `md5/ab/CDEF` (DVC),
# `SHA256E-s1024--DIGEST.distcp` (git-annex). Files with secrets do not have such names.
_CONTENT_ADDRESS: Final = re.compile(
    r"[0-9a-f]{30,128}|[A-Z0-9_]{3,12}-s\d+--[0-9a-f]{32,128}(\.\w{1,16})*", re.ASCII
)


def leads_out(path: Path) -> bool:
    """Return whether a path is a link out of its directory to a file outside the checkpoint.

    A target of the same name counts as part of the checkpoint. So does a target that a cache named
    by its content, if the link has the name of a checkpoint file.
    """
    if not path.is_symlink():
        return False
    there, name = os.path.split(os.path.realpath(path))
    known = name == path.name or _CONTENT_ADDRESS.fullmatch(name)
    followed = known and NAMES.fullmatch(path.name)
    return not followed and there != os.path.realpath(path.parent)


def stays_link(path: Path) -> bool:
    """Return whether a path is a link that a migration copies as a link.

    Such a link leads to a directory, to a missing file, or to a file outside the checkpoint.
    """
    return path.is_symlink() and (not path.is_file() or leads_out(path))


def is_of_a_cache(path: Path) -> bool:
    """Return whether a path is a link to a file that a cache named by its content."""
    there = os.path.realpath(path)
    named = _CONTENT_ADDRESS.fullmatch(os.path.basename(there)) is not None
    return path.is_symlink() and named and os.path.isfile(there)


def links(folder: Path, except_for: Collection[str] = (), depth: int = 0) -> Iterator[str]:
    """Yield the names of the links in a directory and below that are copied as links.

    Args:
        except_for: names to leave out.
        depth: number of checkpoint directories that enclose this one.
    """
    with os.scandir(folder) as found:
        items = sorted(found, key=lambda item: item.name)
    for item in items:
        if item.name in except_for:
            continue
        if item.is_symlink():
            if stays_link(Path(item.path)):
                yield item.name
        elif item.is_dir() and depth < DEEPEST:
            inside = links(Path(item.path), depth=depth + 1)
            yield from (f"{item.name}/{name}" for name in inside)


def check_link(path: Path) -> None:
    """Raise if a path is a link to a file that is not part of a checkpoint.

    Raises:
        DamagedError: the path is such a link; the message names its target.
    """
    if leads_out(path):
        raise DamagedError(
            f"is a link to {os.path.realpath(path)}, outside the checkpoint",
            path=path,
            fix="replace the link by the file; links are followed only to a file of the same "
            "name, or of a hash as its name, as in caches",
        )
