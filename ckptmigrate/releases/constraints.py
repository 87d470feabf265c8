"""What a reader cannot load, made loadable: the one place where its constraints are met.

Applied after the layout writer and independent of it. Everything replaced here is in the
originals that the sidecar keeps, and so comes back on the way up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from ckptmigrate.checkpoint import metadata
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import COMMON_ENTRY
from ckptmigrate.inert.tree import REDUCE, Global, Object, rebuilt, symbols
from ckptmigrate.releases.readers import Reader

ARGS_CLASS: Final = "argparse.Namespace"


@dataclass(frozen=True)
class Constrained:
    """A manifest that a reader can load, and what had to go for it.

    Attributes:
        manifest: the manifest; the very same where nothing had to change.
        foreign: symbols that are no known enum, replaced by their dotted name as text.
    """

    manifest: Manifest
    foreign: tuple[str, ...]


def constrain(found: Manifest, reader: Reader, *, in_file: bool) -> Constrained:
    """Replace what a reader cannot load.

    Args:
        in_file: whether the common state will lie in common.pt, under the reader's load of it.
    """
    loads = reader.allows if in_file and reader.weights_only else reader.resolves
    foreign: dict[str, None] = {}
    values = found.common.values
    # The rerun entry is the layout's; what cannot load it must not have it.
    others = {key: value for key, value in values.items() if key != COMMON_ENTRY}
    if any(not (loads(s.path) and reader.resolves(s.path)) for s in symbols(others)):
        values = {**values, **rebuilt(others, _replacer(reader, loads, foreign))}
    result = found if values is found.common.values else _with_common(found, values)
    return Constrained(_with_marker(_with_class(result, reader), reader), tuple(foreign))


def _replacer(
    reader: Reader, loads: Callable[[str], bool], foreign: dict[str, None]
) -> Callable[[Any], Any]:
    def replacement(node: Any) -> Any:
        found = type(node) if isinstance(node, Object) else node
        if not isinstance(found, Global) or (loads(found.path) and reader.resolves(found.path)):
            return node
        if found.path == ARGS_CLASS:  # as text it would be of no use to any job
            return node
        row = reader.compat.symbol(found.path)
        if row is not None and isinstance(node, Object) and node.opcode == REDUCE:
            names = {value: name for name, value in row.members.items()}
            [value] = node.args if len(node.args) == 1 else [None]
            if isinstance(value, int) and value in names:
                return names[value]
        foreign[found.path] = None
        return found.path

    return replacement


def _with_common(found: Manifest, values: dict[str, Any]) -> Manifest:
    return replace(found, common=replace(found.common, values=values))


def _with_class(found: Manifest, reader: Reader) -> Manifest:
    """0.15 pickles `.metadata` as a class of its own, which older releases do not have."""
    if reader.resolves(found.metadata.class_path):
        return found
    return replace(found, metadata=found.metadata.with_class(metadata.TORCH_CLASS))


def _with_marker(found: Manifest, reader: Reader) -> Manifest:
    unknown = reader.unknown_marker_keys(found.marker)
    if not unknown:
        return found
    return replace(found, marker={k: v for k, v in found.marker.items() if k not in unknown})
