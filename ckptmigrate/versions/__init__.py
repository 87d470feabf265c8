"""The rerun layouts, one module each, in order of release.

Every module has the same interface. All layouts convert through one record (RerunRecord), so
there are no pairwise converters:

    ID: the layout's name, as in compat_matrix.yaml.
    detect(facts) -> the evidence as a sentence, or None if the layout does not match the files.
    read(manifest) -> the RerunRecord. Raises DamagedError for a state that no release writes.
    write(record, topology) -> the StoredRerun: the `rerun_state_machine` of the common state and
        the rerun shards. Raises RefusedError if a required parallel size is unknown.
    take(request) -> the LoadOutcome: what a job of its releases does with the rerun state on load.
    COMMON_IN_FILE: whether the common state is stored in common.pt.
    KEEPS_FAULTS: whether its releases can use a fault context that another release wrote.
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
from ckptmigrate.versions.load_rules import LoadOutcome, LoadRequest
from ckptmigrate.versions.rerun_facts import RerunFacts


class Layout(Protocol):
    """The interface of a layout module."""

    ID: str
    COMMON_IN_FILE: bool
    KEEPS_FAULTS: bool

    def detect(self, facts: RerunFacts) -> str | None: ...

    def read(self, manifest: Manifest) -> RerunRecord: ...

    def write(self, record: RerunRecord, topology: Topology) -> StoredRerun: ...

    def predict_load(self, request: LoadRequest) -> LoadOutcome: ...


LAYOUTS: Final[tuple[Layout, ...]] = (
    pre_rerun,
    sharded_rerun,
    split_rerun,
    none_emitting,
    always_sentinel,
    common_state,
)
NEWEST: Final = LAYOUTS[-1]
# Written as `sharded-rerun`, idle: no `rerun_state_machine` in common.pt, and the rerun shards that
# only 0.10 and 0.11 request. Every release from 0.9 loads it (sample 0.10.0-idle-w1 in
# raw_matrix.json).
UNIVERSAL: Final = "universal"


def order(layout: Layout) -> int:
    """Return the index of a layout in the order of release, from 0."""
    return LAYOUTS.index(layout)


def named(name: str) -> Layout:
    """Return the layout of a name; `universal` gives the layout that it is written as.

    Raises:
        RefusedError: the name is unknown; lists the known names.
    """
    wanted = sharded_rerun.ID if name == UNIVERSAL else name
    for layout in LAYOUTS:
        if wanted == layout.ID:
            return layout
    import difflib  # imported here for start-up time: every command imports this module

    known = [*(layout.ID for layout in LAYOUTS), UNIVERSAL]
    near = difflib.get_close_matches(name, known, 1)
    raise RefusedError(
        f"{name!r} is not a layout (layouts: {', '.join(known)})",
        fix="use one of these layouts"
        if near
        else "use one of these layouts, or a release such as 0.13.1; to list them, run "
        "`ckptmigrate layouts`",
        retry=Retry(add=("--to", *near)) if near else None,
    )
