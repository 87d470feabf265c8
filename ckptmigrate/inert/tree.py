"""The inert tree: what a pickle says, as data that can do nothing.

A pickle is a program. Reading one here yields a tree in which every symbol it names
is a `Global` (a class that stands for the name and is never the thing named), and every
object it would build is an `Object` that records *how* it would be built: the symbol
called, the arguments, the items added, the state set. Dicts, lists, tuples, sets, strings
and numbers are themselves. Sharing is kept: what is one object in the pickle is one object
here, which is what makes an unchanged tree write back byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from ckptmigrate.errors import PickleError


class Global(type):
    """A symbol named by a pickle, for example `torch.Size`; nothing is imported.

    It is a class because the NEWOBJ opcode accepts nothing else. Two `Global`s of one
    name compare by their `path`, never by identity: a pickle may name a symbol twice.

    Attributes:
        module: the module's name as the pickle spells it (the string object itself, since
            two symbols of one module share that string in the file).
        symbol: the qualified name inside the module.
    """

    module: str
    symbol: str

    # C Unpickler: REDUCE calls the class, NEWOBJ calls __new__. Two doors, so the
    # writer can tell which opcode to give back.
    def __call__(cls, *args: Any) -> Object:
        return _made(cls, REDUCE, args, None)

    def __repr__(cls) -> str:
        return f"<symbol {cls.module}.{cls.symbol}>"

    @property
    def path(cls) -> str:
        """The dotted name, for example `megatron.core.transformer.enums.AttnBackend`."""
        return f"{cls.module}.{cls.symbol}"


REDUCE: Final = "REDUCE"
NEWOBJ: Final = "NEWOBJ"
NEWOBJ_EX: Final = "NEWOBJ_EX"

LIST_ITEMS: Final = "list items"
DICT_ITEMS: Final = "dict items"
SET_ITEMS: Final = "set items"
STATE: Final = "state"


class Object(metaclass=Global):
    """An object a pickle would build; `type(obj)` is its `Global`.

    Attributes:
        opcode: REDUCE, NEWOBJ or NEWOBJ_EX.
        args: positional arguments of the call.
        kwargs: keyword arguments (NEWOBJ_EX only), else None.
        updates: what follows the construction, in order: pairs of LIST_ITEMS, DICT_ITEMS,
            SET_ITEMS or STATE with the list of items, list of (key, value), or state.
            None where nothing follows.
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
        """The state last set by BUILD, or None."""
        for kind, value in reversed(self.updates or ()):
            if kind == STATE:
                return value
        return None

    @property
    def attributes(self) -> dict[str, Any]:
        """The instance attributes that BUILD would set; empty where the state is no dict."""
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
    """A new `Global` for a name."""
    made = Global("Symbol", (Object,), {"__slots__": ()})
    made.module = module
    made.symbol = name
    return made


def symbol_of(obj: Object) -> Global:
    """The symbol that an object is made from."""
    cls: Any = type(obj)
    found: Global = cls
    return found


def new_object(cls: Global, *states: Any) -> Object:
    """An object as a plain class pickles: `cls.__new__(cls)`, then its state, if any."""
    made = _made(cls, NEWOBJ, (), None)
    if states:
        made.updates = [(STATE, state) for state in states]
    return made


def enum_member(cls: Global, value: Any) -> Object:
    """An enum member as Python pickles it: the class called with the member's value."""
    return _made(cls, REDUCE, (value,), None)


def enum_value(member: Any) -> Any:
    """The value of an enum member as `enum_member` makes it; None for what can be none."""
    is_call = isinstance(member, Object) and member.opcode == REDUCE and len(member.args) == 1
    return member.args[0] if is_call else None


def with_state(obj: Object, state: Any) -> Object:
    """A copy of `obj` whose last BUILD sets `state`; everything else is shared with it."""
    made = _made(type(obj), obj.opcode, obj.args, obj.kwargs)
    updates = [update for update in obj.updates or () if update[0] != STATE]
    made.updates = [*updates, (STATE, state)]
    return made


def is_object(value: Any, *paths: str) -> bool:
    """Whether `value` is an `Object` of a symbol with one of these dotted names."""
    return isinstance(value, Object) and type(value).path in paths


_LEAVES: Final = frozenset({str, int, float, bool, bytes, type(None)})  # most of a tree


def symbols(tree: Any) -> Iterator[Global]:
    """Every symbol that a tree names, once each, in the order in which its pickle names them."""
    return (node for node in symbols_and_objects(tree) if isinstance(node, Global))


def symbols_and_objects(tree: Any) -> Iterator[Global | Object]:
    """Every symbol and every object of a tree, once each, a symbol before what is made from it.

    The order is that of the pickle, and matters: the first one that a reader cannot load is the
    one its error tells of.
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
    """A tree with some nodes replaced; every untouched part is shared with the old one.

    Args:
        replacement: given a node, the one to stand in its place, or the node itself to look
            at what is inside it, the symbol that it is made from included.

    Raises:
        PickleError: the tree is nested too deeply, or holds itself.
    """
    done: dict[int, Any] = {}
    open_nodes: set[int] = set()

    def visit(node: Any) -> Any:
        if not isinstance(node, (dict, list, tuple, set, frozenset, Object, Global)):
            return node
        if id(node) in done:
            return done[id(node)]
        if id(node) in open_nodes:
            raise PickleError("holds itself, and part of it would have to be replaced")
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
    if isinstance(node, Global):
        return node
    parts = [visit(part) for part in node]
    if all(new is old for new, old in zip(parts, node, strict=True)):
        return node
    return type(node)(parts)
