"""The rerun layouts, one module each, in order of release.

Every module has the same shape, so that N readers and N writers meet in one record and no
pairwise converter exists:

    ID: the layout's name, as in compat_matrix.yaml.
    detect(facts) -> the evidence as a sentence, or None where the files say otherwise.
    read(manifest) -> the RerunRecord. Raises DamagedError for what no release writes.
    write(record, topology) -> the StoredRerun; which common entry, which shards. Raises
        RefusedError where a size that it needs is not known.
    take(offer) -> the Taking; what a job of its releases does with the rerun state on load.
    COMMON_IN_FILE: whether the common state lies in common.pt.
    KEEPS_FAULTS: whether a fault context means something to its readers when moved in.
"""

from __future__ import annotations

from typing import Final, Protocol

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import RerunRecord, StoredRerun
from ckptmigrate.checkpoint.topology import Topology
from ckptmigrate.errors import RefusedError, Retry
from ckptmigrate.versions import (
    always_sentinel,
    common_state,
    none_emitting,
    pre_rerun,
    sharded_rerun,
    split_rerun,
)
from ckptmigrate.versions.facts import RerunFacts
from ckptmigrate.versions.taking import Offer, Taking


class Layout(Protocol):
    """What each module of this package is."""

    ID: str
    COMMON_IN_FILE: bool
    KEEPS_FAULTS: bool

    def detect(self, facts: RerunFacts) -> str | None: ...

    def read(self, manifest: Manifest) -> RerunRecord: ...

    def write(self, record: RerunRecord, topology: Topology) -> StoredRerun: ...

    def take(self, offer: Offer) -> Taking: ...


LAYOUTS: Final[tuple[Layout, ...]] = (
    pre_rerun,
    sharded_rerun,
    split_rerun,
    none_emitting,
    always_sentinel,
    common_state,
)
NEWEST: Final = LAYOUTS[-1]
# On disk `sharded-rerun`, idle: common.pt without an entry, and the grid that only 0.10 and
# 0.11 ask for. Every release from 0.9 on reads it (sample 0.10.0-idle-w1 in raw_matrix.json).
UNIVERSAL: Final = "universal"


def order(layout: Layout) -> int:
    """The place of a layout in the order of release, from 0."""
    return LAYOUTS.index(layout)


def named(name: str) -> Layout:
    """The layout of a name; `universal` is the one it is on disk.

    Raises:
        RefusedError: there is none; lists those there are.
    """
    wanted = sharded_rerun.ID if name == UNIVERSAL else name
    for layout in LAYOUTS:
        if wanted == layout.ID:
            return layout
    import difflib  # every verb imports this module, and needs no difflib

    known = [*(layout.ID for layout in LAYOUTS), UNIVERSAL]
    near = difflib.get_close_matches(name, known, 1)
    raise RefusedError(
        f"there is no layout {name!r} (there are {', '.join(known)})",
        fix="name one of them"
        if near
        else "name one of them, or a release such as 0.13.1; for what they are run "
        "`ckptmigrate layouts`",
        retry=Retry(add=("--to", *near)) if near else None,
    )
