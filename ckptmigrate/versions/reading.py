"""Read a checkpoint directory and tell the layout of its rerun state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ckptmigrate import versions
from ckptmigrate.access.storage import Directory
from ckptmigrate.checkpoint import nesting
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import RerunRecord
from ckptmigrate.errors import DamagedError
from ckptmigrate.text.commands import command
from ckptmigrate.versions import Layout, facts

_FIX: Final = "restore it from a copy that you trust, and do not let a job load this one"


@dataclass(frozen=True)
class Reading:
    """A checkpoint and what its rerun facts say.

    Attributes:
        manifest: the checkpoint.
        layouts: every layout that fits the facts, in order of release; at least one.
        evidence: why, a sentence per layout.
        record: the rerun state.
    """

    manifest: Manifest
    layouts: tuple[Layout, ...]
    evidence: tuple[str, ...]
    record: RerunRecord


def read(directory: Directory, *, unmarked: bool = False) -> Reading:
    """Read a checkpoint directory and tell its layout.

    Args:
        unmarked: whether a metadata.json that is missing or unreadable is taken for empty.

    Raises:
        CkptMigrateError: no torch_dist checkpoint, damaged, or of no known layout.
    """
    try:
        return read_manifest(nesting.load(directory, unmarked=unmarked))
    except DamagedError as error:
        # What looks at parts of a checkpoint need not know where it lies.
        error.path = error.path or directory.path
        error.fix = error.fix or _FIX
        if "`" not in error.fix:
            error.fix += f"; for all that is wrong see `{command('verify', directory.path)}`"
        raise


def read_manifest(found: Manifest) -> Reading:
    """Tell the layout of a manifest.

    Raises:
        DamagedError: its rerun facts fit no layout, or a rerun payload cannot be read.
    """
    gathered = facts.gather(found)
    fitting = [(layout, layout.detect(gathered)) for layout in versions.LAYOUTS]
    layouts = tuple(layout for layout, evidence in fitting if evidence)
    if not layouts:
        raise DamagedError(
            "has rerun facts that no release writes together "
            f"(entry with {', '.join(gathered.entry_fields) or 'nothing'}, grid {gathered.grid}, "
            f"common state {'in common.pt' if gathered.common_in_file else 'in an entry'})"
        )
    return Reading(found, layouts, tuple(e for _, e in fitting if e), layouts[0].read(found))
