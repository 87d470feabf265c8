"""A folder that a module may be imported from by mistake: one file per module there is."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

_SHADOW = """
with open({record!r}, "a") as record:
    print({name!r}, file=record)
raise SystemExit("imported from the current directory")
"""


def shadow(folder: Path, record: Path, *, but: Iterable[str] = ()) -> None:
    """Write a module of the name of each top-level module, installed or of Python itself.

    Args:
        record: the file to which each adds its name if it is imported.
        but: modules that get none.
    """
    for name in {*sys.stdlib_module_names, *packages_distributions()} - {*but}:
        if name.isidentifier():
            code = _SHADOW.format(record=str(record), name=name)
            (folder / f"{name}.py").write_text(code, encoding="utf-8")
