"""The JSON form of a plan, which the verbs that change checkpoints print."""

from __future__ import annotations

from typing import Any

from ckptmigrate.checkpoint.sidecar import digest
from ckptmigrate.places import Place
from ckptmigrate.planning import optimizers
from ckptmigrate.planning.planner import Plan


def plan_json(plan: Plan, result: Place) -> dict[str, Any]:
    """Return the documented JSON form of a plan.

    Args:
        result: the path of the migrated checkpoint.
    """
    files, size = plan.payload
    return {
        "path": str(plan.path),
        "result": str(result),
        "verb": plan.verb,
        "from": list(plan.source),
        "to": plan.target,
        "layout": plan.layout,
        "changes": [difference.as_json() for difference in plan.differences],
        "files": [
            {
                "name": name,
                "bytes": None if content is None else len(content),
                "sha256": digest(content),
            }
            for name, content in plan.files.items()
        ],
        "losses": list(plan.losses),
        "notes": list(plan.notes),
        "payload": {"files": files, "bytes": size},
        "unused_bytes": plan.unused,
        "compaction": None if plan.compaction is None else plan.compaction.as_json(),
        "freed_bytes": plan.freed,
        "optimizer": None if plan.optimizer is None else optimizers.as_json(plan.optimizer),
        "extra_state": None if plan.extra_state is None else plan.extra_state.as_json(),
    }
