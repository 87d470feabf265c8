"""Migrate Megatron-Core `torch_dist` checkpoints between releases, metadata only.

    from ckptmigrate import CkptMigrateError, check, inspect, migrate, verify

    print(inspect("run").likely)
    [(verdict, fix)] = check("run", release="0.11")
    if not verdict.resumes:
        print(verdict.obstacles[0].error, fix.command)
    try:
        [plan] = migrate("run", to="0.11", output="run-for-0.11")
        for difference in plan.differences:
            print(difference)
        print(verify("run-for-0.11").clean)
    except CkptMigrateError as error:
        print(error.path, error.reason, error.layout, error.fix)

Nothing here imports Megatron or torch, and no pickle is executed. Errors are
`CkptMigrateError`s with the parts of their sentence as attributes.
"""

from __future__ import annotations

from ckptmigrate.access.places import Url
from ckptmigrate.checkpoint.diffing import Difference
from ckptmigrate.checkpoint.topology import Given
from ckptmigrate.errors import (
    CkptMigrateError,
    CompatError,
    CorruptError,
    DamagedError,
    DestinationError,
    NotACheckpointError,
    PickleError,
    RefusedError,
    StoreError,
    UnsupportedFormatError,
)
from ckptmigrate.inspection import Inspection
from ckptmigrate.library import (
    check,
    diff,
    inspect,
    migrate,
    plan,
    recover,
    repair,
    undo,
    verify,
)
from ckptmigrate.planning.advice import Advice, Checked
from ckptmigrate.planning.losses import LOSSES
from ckptmigrate.planning.planner import Plan
from ckptmigrate.releases.checking import Job, Obstacle, Verdict
from ckptmigrate.repairing import Repair
from ckptmigrate.verifying import Verification
from ckptmigrate.verifying.findings import Finding
from ckptmigrate.version import __version__
from ckptmigrate.writing.linking import Link

__all__ = [
    "LOSSES",
    "Advice",
    "Checked",
    "CkptMigrateError",
    "CompatError",
    "CorruptError",
    "DamagedError",
    "DestinationError",
    "Difference",
    "Finding",
    "Given",
    "Inspection",
    "Job",
    "Link",
    "NotACheckpointError",
    "Obstacle",
    "PickleError",
    "Plan",
    "RefusedError",
    "Repair",
    "StoreError",
    "UnsupportedFormatError",
    "Url",
    "Verdict",
    "Verification",
    "__version__",
    "check",
    "diff",
    "inspect",
    "migrate",
    "plan",
    "recover",
    "repair",
    "undo",
    "verify",
]
