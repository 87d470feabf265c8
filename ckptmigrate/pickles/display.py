"""Short display of inert values of any size."""

from __future__ import annotations

from typing import Any, Final

from ckptmigrate.pickles.tree import REDUCE, Global, Object

_SHORT: Final = 60  # maximum characters of a displayed value
_WORDS: Final = 500  # maximum characters of a text shown alone, such as a call's location
_LARGEST: Final = 256  # maximum bits of a displayed number; Python refuses to print very large ones


def short_repr(value: Any) -> str:
    """Return a value in a few characters."""
    if isinstance(value, Object):
        name = type(value).symbol
        if value.opcode == REDUCE and len(value.args) == 1 and not value.updates:
            inner = value.args[0]
            return f"{name}({'...' if isinstance(inner, Object) else short_repr(inner)})"
        return f"{name}(...)"
    if isinstance(value, Global):
        return value.path
    if isinstance(value, dict):
        keys = ", ".join(words(key) for key in list(value)[:8] if isinstance(key, (str, int)))
        return _cut("{" + keys + (", ..." if len(value) > 8 else "") + "}")
    if isinstance(value, (list, tuple, set, frozenset)):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, (str, bytes)):
        return _cut(repr(value[: _SHORT + 1]))
    if isinstance(value, int) and value.bit_length() > _LARGEST:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (int, float, bool)) or value is None:
        return _cut(repr(value))
    return type(value).__name__


def words(value: Any) -> str:
    """Return a value in a few characters, but text without quotes and with a higher limit."""
    return _cut(value, _WORDS) if isinstance(value, str) else short_repr(value)


def _cut(text: str, most: int = _SHORT) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
