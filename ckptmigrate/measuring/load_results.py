"""The result of a measured load: whether it resumes, and what becomes of a fault."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.compat.cells import NO_FAULT, OK, STALE_FAULT
from ckptmigrate.errors import RefusedError
from ckptmigrate.measuring.subjects import Checkpoint
from ckptmigrate.releases.facts import matches, minor

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


def rerun_result(each: Checkpoint, release: str, ranks: Sequence[dict[str, Any]]) -> str:
    machines = [rank.get("machine") for rank in ranks]
    states = [None if machine is None else machine["state"] for machine in machines]
    if each.scenario == "fault":
        kept = all(state == _WILL_RERUN for state in states)
        if kept and any("resumed" in rank for rank in ranks):
            # After one more step, the failing rank has found its call, and training continues.
            kept = all(rank["resumed"] == [_IDLE[1], False] for rank in ranks)
            if not kept:
                raise RefusedError(f"{release} keeps the fault of {each.key} and never finds it")
        return fault_result(each, release, kept=kept)
    if any(state not in (None, _IDLE) for state in states):
        raise RefusedError(f"{release} holds a fault that {each.key} does not have: {states}")
    return OK


def fault_result(each: Checkpoint, release: str, *, kept: bool) -> str:
    if not kept:
        return NO_FAULT
    same = minor(each.writer) == minor(release)
    return OK if same or matches(each.writer, LASTING_SINCE) else STALE_FAULT


def one_line(error: str, each: Checkpoint) -> str:
    """Return an error without the paths of this machine, short enough for a table."""
    text = " ".join(error.split()).partition(" from '/")[0]
    text = text.replace(str(each.root), "CHECKPOINT").replace("\\n", " ")
    text = _ADVICE.sub(r"\1 ... \2", text)
    return text if len(text) <= 200 else f"{text[:200]}..."
