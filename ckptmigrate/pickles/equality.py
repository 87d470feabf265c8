"""Equality of inert values."""

from __future__ import annotations

from typing import Any

from ckptmigrate.pickles.tree import Global, Object, PersistentId


def equal(a: Any, b: Any) -> bool:
    """Return whether two inert values have the same meaning.

    NaN equals NaN. Dicts whose keys are text, bytes or numbers may differ in order.
    """
    return _Comparison().equal(a, b)


class _Comparison:
    """Comparison that visits each pair of nodes once, even if nodes are shared."""

    def __init__(self) -> None:
        self.seen: set[tuple[int, int]] = set()

    def equal(self, a: Any, b: Any) -> bool:
        todo = [(a, b)]
        while todo:
            a, b = todo.pop()
            if a is b:
                continue
            if isinstance(a, Global) or isinstance(b, Global):
                if not (isinstance(a, Global) and isinstance(b, Global) and a.path == b.path):
                    return False
                continue
            if not isinstance(a, (dict, list, tuple, Object, PersistentId)):
                if type(a) is not type(b) or (a != b and not (a != a and b != b)):
                    return False
                continue
            if (id(a), id(b)) in self.seen:
                continue
            self.seen.add((id(a), id(b)))
            pairs = self._parts(a, b)
            if pairs is None:
                return False
            todo += pairs
        return True

    @staticmethod
    def _parts(a: Any, b: Any) -> list[tuple[Any, Any]] | None:
        """Return the pairs of parts to compare next; None if the values differ."""
        if isinstance(a, Object):
            if not isinstance(b, Object) or a.opcode != b.opcode:
                return None
            return [
                (type(a), type(b)),
                (a.args, b.args),
                (a.kwargs, b.kwargs),
                (a.updates or [], b.updates or []),
            ]
        if type(a) is not type(b):
            return None
        if isinstance(a, PersistentId):
            return [(a.pid, b.pid)]
        if len(a) != len(b):
            return None
        if isinstance(a, dict):
            if all(isinstance(key, (str, int, float, bytes, bool)) for key in a):
                return [(v, b[k]) for k, v in a.items()] if a.keys() == b.keys() else None
            return [
                p for x, y in zip(a.items(), b.items(), strict=True) for p in zip(x, y, strict=True)
            ]
        return list(zip(a, b, strict=True))
