"""What a new root consists of, as the publishers write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ckptmigrate.checkpoint import trackers
from ckptmigrate.checkpoint.locate import Located
from ckptmigrate.checkpoint.root_contents import CarriedFile
from ckptmigrate.planning.planner import Plan


@dataclass(frozen=True)
class NewRoot:
    """The contents of a new root.

    Attributes:
        plans: path in the root -> plan of the checkpoint; an empty path for a root that is the
            checkpoint.
        trackers: tracker files, name -> bytes, in the order of writing.
        carried: the other files.
    """

    plans: Mapping[str, Plan] = field(default_factory=dict)
    trackers: Mapping[str, bytes] = field(default_factory=dict)
    carried: tuple[CarriedFile, ...] = ()


def trackers_of(located: Located) -> dict[str, bytes]:
    """Return the tracker files of a new root with the checkpoints of a PATH, name -> bytes."""
    if located.tracker is None:
        return {}
    save = located.base / located.kind.directory_of(located.tracker)
    states = located.kind.inside == ("",)
    return trackers.files(
        located.tracker, save if states else None, located.base if states else None
    )
