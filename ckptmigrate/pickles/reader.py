"""Reader of pickles that executes nothing.

The bytes go through `bounds.check` (a lexer for allowed opcodes and sizes) and then through the C
`pickle.Unpickler`, which a training job uses, too, so that no second parser can disagree with it.
Its `find_class` never imports: each global becomes an inert placeholder (see `tree`).
"""

from __future__ import annotations

import contextlib
import gc
import io
import pickle
from collections.abc import Iterator
from typing import Any

from ckptmigrate.errors import PickleError
from ckptmigrate.pickles import bounds
from ckptmigrate.pickles.tree import Global, PersistentId, symbol


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
    """Return the inert tree of a pickle; see `load_with_symbols`."""
    return load_with_symbols(data)[0]


def load_with_symbols(data: bytes, *, storages: bool = False) -> tuple[Any, tuple[str, ...]]:
    """Return the inert tree of a pickle and every global that the pickle names, without duplicates.

    The tree may lack globals: a pickle can call a global and drop the result.

    Args:
        storages: whether the pickle may refer to the storages of a torch zip by persistent id.

    Raises:
        PickleError: the data is not a pickle, is truncated, has bytes after its end, or uses
            opcodes that no checkpoint writer uses (see `bounds`). Nothing was executed or imported.
    """
    bounds.check(data)
    stream = io.BytesIO(data)
    try:
        # fix_imports would rename the globals of protocol 2 (`__builtin__`).
        kind = _WithStorages if storages else InertUnpickler
        unpickler = kind(stream, fix_imports=False)
        unpickler.named = {}
        with uncollected():
            return unpickler.load(), tuple(unpickler.named)
    except PickleError:
        raise
    except Exception as error:  # the C unpickler may raise any error on bad input
        raise PickleError(f"cannot be unpickled ({type(error).__name__}: {error})") from error


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Disable garbage collection while the block runs.

    A load creates millions of small objects and no garbage; with collection it takes 2.6 to 4 times
    as long.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
