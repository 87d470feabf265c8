"""Reports for `--report FILE`: a value, and what it looks like as HTML, Markdown and JSON.

What makes one is imported when it is first asked for, so that only who wants a report pays for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptmigrate.reporting import batches as batches
    from ckptmigrate.reporting import building as building
else:

    def __getattr__(name: str) -> Any:
        if name not in ("batches", "building"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module(f"{__name__}.{name}")
