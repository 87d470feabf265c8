"""Classes of numpy dtypes, which weights_only checks although no pickle names them.

A pickled dtype is a call of `numpy.dtype` with a code, and a state to set. The call returns an
instance of a class that depends on the code, and torch sets the state only if that class is allowed
(v2.6.0 torch/_weights_only_unpickler.py, BUILD). The classes: numpy v2.0.0 numpy/dtypes.pyi.
"""

from __future__ import annotations

import re
from typing import Any, Final

from ckptmigrate.pickles.tree import is_object
from ckptmigrate.releases.facts import Compat

# By the letter of the code; the size in bytes follows the letter.
_NUMBERS: Final = {"i": "Int", "u": "UInt", "f": "Float", "c": "Complex"}
_LARGEST: Final = {"f": 8, "c": 16}  # bytes; every larger size is a long double
_LONG: Final = {"f": "LongDouble", "c": "CLongDouble"}
_OTHERS: Final = {
    "b": "Bool",
    "O": "Object",
    "S": "Bytes",
    "U": "Str",
    "V": "Void",
    "M": "DateTime64",
    "m": "TimeDelta64",
}
_MADE_EMPTY: Final = "numpy.core.multiarray._reconstruct"


def unnamed_class(value: Any, compat: Compat) -> str | None:
    """Return the class of a dtype or of an array's dtype; None for other values.

    Returns:
        For example `numpy.dtypes.Float64DType`.
    """
    if is_object(value, *compat.names(_MADE_EMPTY)):
        state = value.state  # version, shape, dtype, order, data
        value = state[2] if isinstance(state, tuple) and len(state) > 2 else None
    if not is_object(value, "numpy.dtype") or not value.args or value.state is None:
        return None
    name = _name(value.args[0])
    return None if name is None else f"numpy.dtypes.{name}DType"


def _name(code: Any) -> str | None:
    found = re.fullmatch(r"([a-zA-Z])(\d{0,9})", code) if isinstance(code, str) else None
    if found is None:
        return None
    letter, size = found[1], int(found[2] or 0)
    if letter not in _NUMBERS:
        return _OTHERS.get(letter)
    if size > _LARGEST.get(letter, size):
        return _LONG[letter]
    return f"{_NUMBERS[letter]}{size * 8}"
