"""Reading of a checkpoint and detection of its layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ckptmigrate import versions
from ckptmigrate.checkpoint import nested
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import RerunRecord
from ckptmigrate.errors import DamagedError
from ckptmigrate.storage.directories import Directory
from ckptmigrate.text.commands import command
from ckptmigrate.versions import Layout, rerun_facts

_FIX: Final = "restore it from a copy that you trust, and do not load this one"


@dataclass(frozen=True)
class Reading:
    """A checkpoint with its layouts and its rerun state.

    Attributes:
        manifest: the checkpoint.
        layouts: every layout that matches the rerun facts, in order of release; at least one.
        evidence: why each layout matches, a sentence per layout.
        record: the rerun state.
    """

    manifest: Manifest
    layouts: tuple[Layout, ...]
    evidence: tuple[str, ...]
    record: RerunRecord


def read(directory: Directory, *, unmarked: bool = False) -> Reading:
    """Read a checkpoint and detect its layout.

    Args:
        unmarked: whether to treat a missing or unreadable metadata.json as empty.

    Raises:
        CkptMigrateError: the directory is not a torch_dist checkpoint, is damaged, or matches
            no known layout.
    """
    try:
        return read_manifest(nested.load(directory, unmarked=unmarked))
    except DamagedError as error:
        # Code that reads parts of a checkpoint does not know its path.
        error.path = error.path or directory.path
        error.fix = error.fix or _FIX
        if "`" not in error.fix:
            error.fix += f"; to list all problems, run `{command('verify', directory.path)}`"
        raise


def read_manifest(found: Manifest) -> Reading:
    """Detect the layout of a manifest and read its rerun state.

    Raises:
        DamagedError: the rerun facts match no layout, or a rerun shard cannot be read.
    """
    gathered = rerun_facts.gather(found)
    fitting = [(layout, layout.detect(gathered)) for layout in versions.LAYOUTS]
    layouts = tuple(layout for layout, evidence in fitting if evidence)
    if not layouts:
        raise DamagedError(
            "has a rerun state that no release writes (fields in the common state: "
            f"{', '.join(gathered.entry_fields) or 'none'}; global shape of the rerun shards: "
            f"{gathered.grid}; common state: "
            f"{'common.pt' if gathered.common_in_file else 'common_state'})"
        )
    return Reading(found, layouts, tuple(e for _, e in fitting if e), layouts[0].read(found))
