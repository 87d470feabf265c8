"""The import path without the current directory, which may be a checkpoint.

Python adds the current directory to `sys.path` for `python -m` and `python -c`, and for an empty
part of PYTHONPATH.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def entries(variable: str) -> list[str]:
    """Return the directories in a variable such as PATH that do not depend on the current one."""
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:
        here = ""
    found = os.environ.get(variable, "").split(os.pathsep)
    return [each for each in found if os.path.isabs(each) and os.path.realpath(each) != here]


def trusted() -> list[str]:
    """Return `sys.path` without the current directory, unless it contains this package."""
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # the directory was removed, so nothing can be imported from it
        return list(sys.path)
    package = os.path.dirname(os.path.realpath(__file__))
    if here == os.path.dirname(package):
        return list(sys.path)
    return [entry for entry in sys.path if os.path.realpath(entry) != here]


def python(code: str, *arguments: str, first: Sequence[str] = ()) -> list[str]:
    """Return the command of a Python process with the import path of this process.

    Args:
        code: the code to run. Before it, Python imports only its startup modules.
        arguments: its `sys.argv[1:]`.
        first: directories to put before the others.
    """
    path = ascii([*first, *trusted()])
    return [sys.executable, "-c", f"import sys; sys.path[:] = {path}; {code}", *arguments]


def module(name: str, *arguments: str, first: Sequence[str] = ()) -> list[str]:
    """Return the equivalent of `python -m name`; see `python`."""
    code = f"import runpy; runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"
    return python(code, *arguments, first=first)
