"""The Python API: migrate Megatron-Core `torch_dist` checkpoints between releases.

    from ckptmigrate import CkptMigrateError, check, inspect, migrate, verify

    print(inspect("run").likely)
    [(verdict, fix)] = check("run", release="0.11")
    if verdict.obstacles:
        print(verdict.obstacles[0].error, fix.command)
    try:
        [plan] = migrate("run", to="0.11", output="run-for-0.11")
        for difference in plan.differences:
            print(difference)
        print(verify("run-for-0.11").clean)
    except CkptMigrateError as error:
        print(error.path, error.reason, error.layout, error.fix)

Only metadata files change; `optimizer="convert"` also adds data files. The package imports neither
Megatron nor torch and executes no pickle.
Every error is a `CkptMigrateError`, with the parts of its message as attributes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ckptmigrate.version import __version__

if TYPE_CHECKING:
    from ckptmigrate.checkpoint.differences import Difference
    from ckptmigrate.checkpoint.topology import Given
    from ckptmigrate.checks.findings import Finding
    from ckptmigrate.checks.verification import Verification
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
    from ckptmigrate.places import Url
    from ckptmigrate.planning.fixes import Advice, Checked
    from ckptmigrate.planning.losses import LOSSES
    from ckptmigrate.planning.planner import Plan
    from ckptmigrate.releases.job import Job
    from ckptmigrate.releases.prediction import Obstacle, Verdict
    from ckptmigrate.verbs.inspection import Inspection
    from ckptmigrate.verbs.repair import Repair
    from ckptmigrate.writing.links import Link

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

# Name -> module, imported at the first access of the name, so that no caller and no command pays
# for unused modules. The imports above declare the same names for type checkers.
_MODULES: Final = {
    "LOSSES": "ckptmigrate.planning.losses",
    "Advice": "ckptmigrate.planning.fixes",
    "Checked": "ckptmigrate.planning.fixes",
    "CkptMigrateError": "ckptmigrate.errors",
    "CompatError": "ckptmigrate.errors",
    "CorruptError": "ckptmigrate.errors",
    "DamagedError": "ckptmigrate.errors",
    "DestinationError": "ckptmigrate.errors",
    "Difference": "ckptmigrate.checkpoint.differences",
    "Finding": "ckptmigrate.checks.findings",
    "Given": "ckptmigrate.checkpoint.topology",
    "Inspection": "ckptmigrate.verbs.inspection",
    "Job": "ckptmigrate.releases.job",
    "Link": "ckptmigrate.writing.links",
    "NotACheckpointError": "ckptmigrate.errors",
    "Obstacle": "ckptmigrate.releases.prediction",
    "PickleError": "ckptmigrate.errors",
    "Plan": "ckptmigrate.planning.planner",
    "RefusedError": "ckptmigrate.errors",
    "Repair": "ckptmigrate.verbs.repair",
    "StoreError": "ckptmigrate.errors",
    "UnsupportedFormatError": "ckptmigrate.errors",
    "Url": "ckptmigrate.places",
    "Verdict": "ckptmigrate.releases.prediction",
    "Verification": "ckptmigrate.checks.verification",
    "check": "ckptmigrate.library",
    "diff": "ckptmigrate.library",
    "inspect": "ckptmigrate.library",
    "migrate": "ckptmigrate.library",
    "plan": "ckptmigrate.library",
    "recover": "ckptmigrate.library",
    "repair": "ckptmigrate.library",
    "undo": "ckptmigrate.library",
    "verify": "ckptmigrate.library",
}

if not TYPE_CHECKING:  # a __getattr__ would make a type checker accept any name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
