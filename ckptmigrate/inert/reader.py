"""Read a pickle without executing it.

The bytes go through `limits.check` (a lexer: which opcodes, how large) and then through the
C `pickle.Unpickler`, the very machine a training job would use, so that there is no second
parser to disagree with it. Its `find_class` never imports: each symbol becomes an inert
stand-in (see `tree`).
"""

from __future__ import annotations

import contextlib
import gc
import io
import pickle
from collections.abc import Iterator
from typing import Any

from ckptmigrate.errors import PickleError
from ckptmigrate.inert import limits
from ckptmigrate.inert.tree import Global, PersistentId, symbol


class InertUnpickler(pickle.Unpickler):
    named: dict[str, None]

    def find_class(self, module: str, name: str) -> Global:
        found = symbol(module, name)
        self.named[found.path] = None
        return found


class _WithStorages(InertUnpickler):
    def persistent_load(self, pid: Any) -> PersistentId:
        return PersistentId(pid)


def load(data: bytes) -> Any:
    """The inert tree of a pickle; see `load_with_symbols`."""
    return load_with_symbols(data)[0]


def load_with_symbols(data: bytes, *, storages: bool = False) -> tuple[Any, tuple[str, ...]]:
    """The inert tree of a pickle, and every symbol that the pickle names, each once.

    The tree alone would not do: a pickle can call a symbol and drop what comes of it.

    Args:
        storages: whether it may refer to the storages of a torch zip, by persistent id.

    Raises:
        PickleError: not a pickle, truncated, has bytes after its end, or uses what no
            checkpoint writer uses (see `limits`). Nothing was executed or imported.
    """
    limits.check(data)
    stream = io.BytesIO(data)
    try:
        # fix_imports would rename protocol 2 symbols (`__builtin__`) on the way in.
        kind = _WithStorages if storages else InertUnpickler
        unpickler = kind(stream, fix_imports=False)
        unpickler.named = {}
        with uncollected():
            return unpickler.load(), tuple(unpickler.named)
    except PickleError:
        raise
    except Exception as error:  # the C machine raises nearly anything on bad input
        raise PickleError(f"cannot be unpickled ({type(error).__name__}: {error})") from error


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection while the block runs.

    Millions of small objects, none of them garbage yet: collecting meanwhile costs 2.6 to 4
    times the load.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
