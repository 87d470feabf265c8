"""The result of a measured load: whether it resumes, and what becomes of a fault."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.compat.cells import NO_FAULT, OK, STALE_FAULT
from ckptmigrate.measuring.subjects import Checkpoint
from ckptmigrate.releases.facts import matches, minor

# Failures that the matrix does not have: other tensors or another rerun state than stored, a
# checkpoint that cannot be migrated, a process that reported nothing.
OTHER_TENSORS: Final = "other-tensors"
OTHER_STATE: Final = "other-rerun-state"
REFUSED: Final = "refused"
ENDED: Final = "ended"

_WILL_RERUN: Final = ["RerunState", 3]
_IDLE: Final = ["RerunState", 0]
LASTING_SINCE: Final = ">=0.14"  # fault contexts identify a call by its message, not line
# Between the two sentences, torch 2.6 and later print a dozen lines of advice in bold.
_ADVICE: Final = re.compile(
    r"(Weights only load failed\.).*?(Unsupported global: .*? by default\.).*"
)


@dataclass(frozen=True)
class LoadResult:
    """The result of one load.

    Attributes:
        result: one of MEANINGS, or the name of a FailureRow.
        known: the name of a KnowledgeRow.
        error: the error message on one line; empty if the release resumes.
    """

    result: str
    known: str
    error: str = ""


@dataclass(frozen=True)
class LoadPair:
    """The results of one reader for a checkpoint, unmigrated and migrated."""

    raw: LoadResult
    migrated: LoadResult


def rerun_result(each: Checkpoint, release: str, ranks: Sequence[dict[str, Any]]) -> str:
    """Return the result of a job that loads all tensors, by its rerun state machines."""
    machines = [rank.get("machine") for rank in ranks]
    states = [None if machine is None else machine["state"] for machine in machines]
    if each.scenario == "fault":
        kept = all(state == _WILL_RERUN for state in states)
        if kept and any("resumed" in rank for rank in ranks):
            # After one more step, the failing rank has found its call, and training continues.
            found = all(rank["resumed"] == [_IDLE[1], False] for rank in ranks)
            return OK if found else STALE_FAULT
        return fault_result(each, release, kept=kept)
    return OK if all(state in (None, _IDLE) for state in states) else OTHER_STATE


def fault_result(each: Checkpoint, release: str, *, kept: bool) -> str:
    """Return the result for a fault, which releases before 0.14 identify by a source line."""
    if not kept:
        return NO_FAULT
    same = {minor(writer) for writer in each.writers} == {minor(release)}
    return OK if same or lasting(each.writers) else STALE_FAULT


def lasting(releases: Sequence[str]) -> bool:
    """Return whether all of these releases identify a failing call by its message."""
    return bool(releases) and all(matches(release, LASTING_SINCE) for release in releases)


def one_line(error: str, each: Checkpoint) -> str:
    """Return an error without the paths of this machine, short enough for a table."""
    text = " ".join(error.split()).partition(" from '/")[0]
    text = text.replace(str(each.root), "CHECKPOINT").replace("\\n", " ")
    text = _ADVICE.sub(r"\1 ... \2", text)
    return text if len(text) <= 200 else f"{text[:200]}..."


def exception_type(error: str) -> str:
    """Return the type of an exception, from its error message."""
    found = re.match(r"(\w+): ", error)
    return found[1] if found else ENDED
