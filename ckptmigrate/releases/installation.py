"""The versions that a Python environment contains, found without importing a package of it."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ckptmigrate import search_path
from ckptmigrate.errors import RefusedError
from ckptmigrate.storage import local_files

_SECONDS: Final = 20.0
_LARGEST: Final = 256 * 1024  # bytes of an answer, or of package_info.py
_MEGATRON: Final = "megatron-core"
_INFO: Final = Path("megatron", "core", "package_info.py")
# The first of these distributions that is installed has the version of the package.
_DISTRIBUTIONS: Final = {
    _MEGATRON: (_MEGATRON,),
    "torch": ("torch",),
    "numpy": ("numpy",),
    "transformer-engine": (
        "transformer-engine", "transformer-engine-torch", "transformer-engine-cu12",
        "transformer-engine-cu13",
    ),
}  # fmt: skip
# Runs in the other environment, which may have an old Python.
_PROBE: Final = """
import json, sys
from importlib import metadata
def version(names):
    for name in names:
        try:
            return metadata.version(name)
        except Exception:
            pass
found = {name: version(names) for name, names in json.loads(sys.argv[1]).items()}
json.dump({"python": "%d.%d" % sys.version_info[:2], "path": sys.path, "found": found}, sys.stdout)
"""


@dataclass(frozen=True)
class Installation:
    """The versions in a Python environment.

    Attributes:
        python_path: the interpreter.
        release: the version of megatron-core.
        source: where `release` is from: `metadata`, or the package_info.py of a source checkout.
        python: the version of Python, for example `3.12`.
        torch, numpy, transformer_engine: the versions; None if not installed.
    """

    python_path: str
    release: str
    source: str
    python: str
    torch: str | None
    numpy: str | None
    transformer_engine: str | None

    def __str__(self) -> str:
        names = {
            f"megatron-core {self.release} ({self.source})": self.release,
            f"Python {self.python}": self.python,
            f"torch {self.torch}": self.torch,
            f"NumPy {self.numpy}": self.numpy,
            f"Transformer Engine {self.transformer_engine}": self.transformer_engine,
        }
        found = ", ".join(name for name, version in names.items() if version)
        return f"{self.python_path} has {found}"


def installation(python: str | None = None) -> Installation:
    """Return the versions in the environment of an interpreter.

    The interpreter starts isolated from the current directory and from variables, and imports no
    package of the environment. A directory of PYTHONPATH comes before the environment, as for a
    job.

    Args:
        python: the interpreter; by default the `python3` or `python` of PATH, and the interpreter
            of this process.

    Raises:
        RefusedError: an interpreter does not answer, megatron-core is not found, or the default
            interpreters have different releases of it.
    """
    if python is not None:
        return _of(os.path.abspath(os.path.expanduser(python)))
    candidates = dict.fromkeys(filter(None, (*_on_path(), sys.executable)))
    found: list[Installation] = []
    for candidate in candidates:
        try:
            found.append(_of(candidate))
        except _NotFoundError:
            continue
    if not found:
        raise RefusedError(f"{_missing(candidates)}; asked {', '.join(candidates)}", fix=_NAME_ONE)
    if len({each.release for each in found}) > 1:
        every = " and ".join(str(each) for each in found)
        raise RefusedError(f"the environment of the job is not clear: {every}", fix=_NAME_ONE)
    return found[0]


_NAME_ONE: Final = (
    "name the interpreter of the job with --python /path/to/bin/python, or its release, for "
    "example 0.13.1"
)


class _NotFoundError(RefusedError):
    """An environment without megatron-core."""


def _on_path() -> Iterator[str]:
    """Yield the first interpreter of PATH, without the current directory."""
    path = os.pathsep.join(search_path.entries("PATH"))
    for name in ("python3", "python"):
        if found := shutil.which(name, path=path):
            yield found
            return


def _of(python: str) -> Installation:
    answer = _ask(python)
    found = answer["found"]
    release, source = found[_MEGATRON], "metadata"
    # A job imports the first one on its path, whatever the metadata says.
    for entry in (*search_path.entries("PYTHONPATH"), *answer["path"]):
        info = Path(entry, _INFO)
        if os.path.isabs(entry) and info.is_file():
            stated = _stated(info)
            if stated is not None and stated != release:
                release, source = stated, str(info)
            break
    if release is None:
        raise _NotFoundError(_missing([python]), path=python, fix=_NAME_ONE)
    return Installation(
        python, release, source, answer["python"], found["torch"], found["numpy"],
        found["transformer-engine"],
    )  # fmt: skip


def _missing(pythons: Iterable[str]) -> str:
    of = "this interpreter" if len(list(pythons)) == 1 else "these interpreters"
    return f"megatron-core is not installed for {of}, and no directory of PYTHONPATH has {_INFO}"


def _stated(info: Path) -> str | None:
    """Return the version in a package_info.py, which is parsed and not run; None for none.

    Source: core_v0.9.0 to core_v0.19.0 megatron/core/package_info.py: MAJOR, MINOR, PATCH and
    PRE_RELEASE are constants.
    """
    try:
        tree = ast.parse(local_files.read(info, _LARGEST))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    values: dict[str, Any] = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    numbers = [values.get(name) for name in ("MAJOR", "MINOR", "PATCH")]
    if not all(type(number) is int for number in numbers):
        return None
    return ".".join(map(str, numbers)) + str(values.get("PRE_RELEASE", ""))


def _ask(python: str) -> dict[str, Any]:
    """Return the answer of an interpreter.

    Raises:
        RefusedError: it cannot be started, or does not answer as expected.
    """
    if os.path.isdir(python):
        raise RefusedError(
            "is a directory",
            path=python,
            fix=f"name its interpreter: --python {os.path.join(python, 'bin', 'python')}",
        )
    command = [python, "-I", "-c", _PROBE, json.dumps(_DISTRIBUTIONS)]
    try:
        answer = json.loads(_output(command))
        versions = [answer["python"], *filter(None, answer["found"].values())]
        if not (_are_texts(versions) and _are_texts(answer["path"])):
            raise ValueError("an answer of another kind")
        if answer["found"].keys() != _DISTRIBUTIONS.keys():
            raise ValueError("an answer about other packages")
    except OSError as error:
        raise RefusedError(
            f"cannot be started: {error.strerror or error}", path=python, fix=_NAME_ONE
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RefusedError(
            f"does not answer as Python 3.8 or later does within {_SECONDS:.0f} s",
            path=python,
            fix=_NAME_ONE,
        ) from error
    return answer  # type: ignore[no-any-return]


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _output(command: Sequence[str]) -> bytes:
    """Return what a process prints, up to _LARGEST bytes and _SECONDS."""
    with subprocess.Popen(
        command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        timer = threading.Timer(_SECONDS, _kill, [process.pid])
        timer.start()
        try:
            return process.stdout.read(_LARGEST)
        finally:
            timer.cancel()
            _kill(process.pid)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
