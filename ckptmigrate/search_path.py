"""Where modules are imported from: never the current directory, which may be a checkpoint.

Python puts it first on the path of `python -m` and `python -c`, and where PYTHONPATH has an empty
part.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def trusted() -> list[str]:
    """Return `sys.path` without the current directory, unless this package itself is there."""
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # it was removed, so nothing can be imported from it
        return list(sys.path)
    package = os.path.dirname(os.path.realpath(__file__))
    if here == os.path.dirname(package):
        return list(sys.path)
    return [entry for entry in sys.path if os.path.realpath(entry) != here]


def python(code: str, *arguments: str, first: Sequence[str] = ()) -> list[str]:
    """Return the command of a Python process that imports from the same places as this one.

    Args:
        code: what it runs; before that it imports what every start of Python does, and no more.
        arguments: its `sys.argv[1:]`.
        first: places that go before the others.
    """
    path = ascii([*first, *trusted()])
    return [sys.executable, "-c", f"import sys; sys.path[:] = {path}; {code}", *arguments]


def module(name: str, *arguments: str, first: Sequence[str] = ()) -> list[str]:
    """Return the same as `python -m name`; see `python`."""
    code = f"import runpy; runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"
    return python(code, *arguments, first=first)
