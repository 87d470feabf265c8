"""Reports for `--report FILE`: one value, rendered as HTML, Markdown or JSON.

Submodules are imported on first use, so that commands without --report start fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptmigrate.report import batch_report as batch_report
    from ckptmigrate.report import build as build
else:

    def __getattr__(name: str) -> Any:
        if name not in ("batch_report", "build"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module(f"{__name__}.{name}")
