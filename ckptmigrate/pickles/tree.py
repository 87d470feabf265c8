"""The inert tree: the contents of a pickle as data without behavior.

A pickle is a program. The reader turns it into a tree in which every global it names is a `Global`
(a class that represents the name and is never the named class or function), and every object it
would build is an `Object` that records *how* it would be built: the global called, the arguments,
the items added, the state set. Dicts, lists, tuples, sets, strings and numbers represent
themselves. Sharing is preserved: one object in the pickle is one object in the tree, so an
unchanged tree is written byte for byte as it was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from ckptmigrate.errors import PickleError


class Global(type):
    """A global named by a pickle, for example `torch.Size`; nothing is imported.

    It is a class because the NEWOBJ opcode accepts nothing else. Compare two `Global`s by their
    `path`, not by identity, because a pickle may name a global twice.

    Attributes:
        module: the module's name as the pickle spells it (the string object itself, since two
            globals of one module share that string in the file).
        symbol: the qualified name inside the module.
    """

    module: str
    symbol: str

    # In the C Unpickler, REDUCE calls the class and NEWOBJ calls __new__. The two methods record
    # which opcode the writer must emit.
    def __call__(cls, *args: Any) -> Object:
        return _made(cls, REDUCE, args, None)

    def __repr__(cls) -> str:
        return f"<global {cls.module}.{cls.symbol}>"

    @property
    def path(cls) -> str:
        """Return the dotted name, for example `megatron.core.transformer.enums.AttnBackend`."""
        return f"{cls.module}.{cls.symbol}"


REDUCE: Final = "REDUCE"
NEWOBJ: Final = "NEWOBJ"
NEWOBJ_EX: Final = "NEWOBJ_EX"

LIST_ITEMS: Final = "list items"
DICT_ITEMS: Final = "dict items"
SET_ITEMS: Final = "set items"
STATE: Final = "state"


class Object(metaclass=Global):
    """An object that a pickle would build; `type(obj)` is its `Global`.

    Attributes:
        opcode: REDUCE, NEWOBJ or NEWOBJ_EX.
        args: positional arguments of the call.
        kwargs: keyword arguments (NEWOBJ_EX only), else None.
        updates: updates after the construction, in order: pairs of LIST_ITEMS, DICT_ITEMS,
            SET_ITEMS or STATE with the list of items, list of (key, value), or state. None if there
            are none.
    """

    __slots__ = ("args", "kwargs", "opcode", "updates")

    opcode: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] | None
    updates: list[tuple[str, Any]] | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Object:
        return _made(cls, NEWOBJ_EX if kwargs else NEWOBJ, args, kwargs or None)

    # The C Unpickler calls these for BUILD, SETITEM(S), APPEND(S) and ADDITEMS.
    def __setstate__(self, state: Any) -> None:
        if self.updates is None:
            self.updates = [(STATE, state)]
        else:
            self.updates.append((STATE, state))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._batch(DICT_ITEMS).append((key, value))

    def append(self, item: Any) -> None:
        self._batch(LIST_ITEMS).append(item)

    def extend(self, items: Iterable[Any]) -> None:
        self._batch(LIST_ITEMS).extend(items)

    def add(self, item: Any) -> None:
        self._batch(SET_ITEMS).append(item)

    def _batch(self, kind: str) -> list[Any]:
        if self.updates is None:
            self.updates = []
        if not self.updates or self.updates[-1][0] != kind:
            self.updates.append((kind, []))
        batch: list[Any] = self.updates[-1][1]
        return batch

    def __repr__(self) -> str:
        return f"<object {type(self).path}>"

    @property
    def state(self) -> Any:
        """Return the state that the last BUILD sets, or None."""
        for kind, value in reversed(self.updates or ()):
            if kind == STATE:
                return value
        return None

    @property
    def attributes(self) -> dict[str, Any]:
        """Return the instance attributes that BUILD would set; empty if the state is not a dict."""
        state = self.state
        return state if isinstance(state, dict) else {}


class PersistentId:
    """A reference to something outside the pickle; in a torch zip, a tensor's storage."""

    __slots__ = ("pid",)

    def __init__(self, pid: Any) -> None:
        self.pid = pid


def _made(cls: Any, opcode: str, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Object:
    made: Object = object.__new__(cls)
    made.opcode = opcode
    made.args = args
    made.kwargs = kwargs
    made.updates = None
    return made


def symbol(module: str, name: str) -> Global:
    """Return a new `Global` for a name."""
    made = Global("Symbol", (Object,), {"__slots__": ()})
    made.module = module
    made.symbol = name
    return made


def symbol_of(obj: Object) -> Global:
    """Return the global that an object is made from."""
    cls: Any = type(obj)
    found: Global = cls
    return found


def new_object(cls: Global, *states: Any) -> Object:
    """Return an object as a plain class pickles: `cls.__new__(cls)`, then its states, if any."""
    made = _made(cls, NEWOBJ, (), None)
    if states:
        made.updates = [(STATE, state) for state in states]
    return made


def enum_member(cls: Global, value: Any) -> Object:
    """Return an enum member as Python pickles it: the class called with the member's value."""
    return _made(cls, REDUCE, (value,), None)


def enum_value(member: Any) -> Any:
    """Return the value of an enum member made by `enum_member`; None for any other object."""
    is_call = isinstance(member, Object) and member.opcode == REDUCE and len(member.args) == 1
    return member.args[0] if is_call else None


def with_state(obj: Object, state: Any) -> Object:
    """Return a copy of `obj` whose last BUILD sets `state`; all other parts are shared."""
    made = _made(type(obj), obj.opcode, obj.args, obj.kwargs)
    updates = [update for update in obj.updates or () if update[0] != STATE]
    made.updates = [*updates, (STATE, state)]
    return made


def is_object(value: Any, *paths: str) -> bool:
    """Return whether `value` is an `Object` of a global with one of these dotted names."""
    return isinstance(value, Object) and type(value).path in paths


_LEAVES: Final = frozenset({str, int, float, bool, bytes, type(None)})  # most nodes of a tree


def symbols(tree: Any) -> Iterator[Global]:
    """Yield every global that a tree names, once each, in the order of its pickle."""
    return (node for node in symbols_and_objects(tree) if isinstance(node, Global))


def symbols_and_objects(tree: Any) -> Iterator[Global | Object]:
    """Yield every global and every object of a tree once, a global before the objects made from it.

    The order is that of the pickle: a release reports the first one that it cannot load.
    """
    seen: set[int] = set()
    todo: list[Any] = [tree]
    while todo:
        node = todo.pop()
        if type(node) in _LEAVES or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Object) and id(symbol_of(node)) not in seen:
            seen.add(id(symbol_of(node)))
            yield symbol_of(node)
        if isinstance(node, (Global, Object)):
            yield node
        if isinstance(node, (dict, list, tuple, set, frozenset, Object, PersistentId)):
            todo += reversed(_inside(node))


def _inside(node: Any) -> list[Any]:
    if isinstance(node, Object):
        return [type(node), node.args, node.kwargs, *(part for _, part in node.updates or ())]
    if isinstance(node, PersistentId):
        return [node.pid]
    if isinstance(node, dict):
        return [part for item in node.items() for part in item]
    return list(node)


def rebuilt(tree: Any, replacement: Callable[[Any], Any]) -> Any:
    """Return a tree with some nodes replaced; unchanged parts are shared with the old tree.

    Args:
        replacement: returns the replacement of a node, or the node itself to visit its parts,
            including the global that it is made from.

    Raises:
        PickleError: the tree is nested too deeply or contains itself.
    """
    done: dict[int, Any] = {}
    open_nodes: set[int] = set()

    def visit(node: Any) -> Any:
        if not isinstance(node, (dict, list, tuple, set, frozenset, Object, Global, PersistentId)):
            return node
        if id(node) in done:
            return done[id(node)]
        if id(node) in open_nodes:
            raise PickleError("contains itself, and a part of it would have to be replaced")
        open_nodes.add(id(node))
        made = replacement(node)
        if made is node:
            made = _rebuilt_inside(node, visit)
        open_nodes.discard(id(node))
        done[id(node)] = made
        return made

    try:
        return visit(tree)
    except RecursionError:
        raise PickleError("is nested too deeply to be changed") from None


def _rebuilt_inside(node: Any, visit: Callable[[Any], Any]) -> Any:
    if isinstance(node, Object):
        cls, args, kwargs = visit(symbol_of(node)), visit(node.args), visit(node.kwargs)
        updates = [(kind, visit(part)) for kind, part in node.updates or ()]
        same = all(
            new is old for (_, new), (_, old) in zip(updates, node.updates or (), strict=True)
        )
        if cls is symbol_of(node) and args is node.args and kwargs is node.kwargs and same:
            return node
        made = _made(cls, node.opcode, args, kwargs)
        made.updates = updates if node.updates is not None else None
        return made
    if isinstance(node, dict):
        items = {visit(key): visit(value) for key, value in node.items()}
        same = all(new is old for new, old in zip(items.values(), node.values(), strict=False))
        return node if same and list(items) == list(node) else items
    if isinstance(node, (Global, PersistentId)):
        return node
    parts = [visit(part) for part in node]
    if all(new is old for new, old in zip(parts, node, strict=True)):
        return node
    return type(node)(parts)
