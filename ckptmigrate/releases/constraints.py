"""Replacement of values that a target release cannot load.

It runs after the layout writer and does not depend on the layout. The original files that the
sidecar keeps contain every replaced value, so a later upgrade restores it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from ckptmigrate.checkpoint import metadata
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import COMMON_ENTRY
from ckptmigrate.pickles import torch_file
from ckptmigrate.pickles.tree import (
    Global,
    Object,
    enum_value,
    rebuilt,
    symbol,
    symbol_of,
    symbols_and_objects,
)
from ckptmigrate.releases import optimizer_state
from ckptmigrate.releases.environment import Environment
from ckptmigrate.releases.facts import Compat, matches
from ckptmigrate.releases.readers import Reader
from ckptmigrate.releases.writer_evidence import possible_writers

ARGS_CLASS: Final = "argparse.Namespace"
_SIGNALS: Final = "signal.Signals"


@dataclass(frozen=True)
class Constrained:
    """A manifest that a reader can load, and the globals that were replaced.

    Attributes:
        manifest: the manifest; the same object if nothing had to change.
        foreign: globals that are not a known enum, replaced by their dotted name as text.
    """

    manifest: Manifest
    foreign: tuple[str, ...]


def respelled(
    found: Manifest, facts: Compat, job: Environment, reader: Reader | None, *, in_file: bool
) -> Manifest:
    """Rename globals of moved modules that the job cannot load to the name that it can load.

    Args:
        reader: the target release, if any.
        in_file: whether the common state will be stored in common.pt, so that the reader's rules
            for common.pt apply.
    """

    def imports(path: str) -> bool:
        return job.imports(path, facts)

    def allows(path: str) -> bool:
        return imports(path) and job.pickles(path, facts)

    by_list = in_file and reader is not None and reader.weights_only
    common, elsewhere = _renaming(facts, allows if by_list else imports), _renaming(facts, imports)
    values = found.common.values
    if any(common(each) is not each for each in found.common.symbols):
        found = _with_common(found, rebuilt(values, common))
    named = found.metadata.with_symbols(elsewhere)
    return found if named is found.metadata else found.with_metadata(named)


def respelled_states(found: Manifest, facts: Compat, job: Environment) -> Manifest:
    """Rename globals of moved modules in the RNG states.

    RNG states use moved modules only for NumPy arrays.
    """

    def imports(path: str) -> bool:
        return job.imports(path, facts)

    if job.numpy is None or all(map(imports, found.rng_symbols)):
        return found
    states = {key: found.read_blob(key) for key in found.rng_keys}
    renaming = _renaming(facts, imports)
    return found.with_objects(
        {
            key: torch_file.dump(state.with_tree(rebuilt(state.tree, renaming)))
            for key, state in states.items()
        }
    )


def _renaming(facts: Compat, loads: Callable[[str], bool]) -> Callable[[Any], Any]:
    """Return a function that replaces a global that does not load by its other name, if that does.

    Args:
        loads: whether a dotted name can be loaded.
    """

    def replacement(node: Any) -> Any:
        row = facts.moved(node.path) if isinstance(node, Global) else None
        if row is None or not f"{node.module}.".startswith(f"{row.module}."):
            return node
        if loads(node.path) or not loads(row.renamed(node.path)):
            return node
        return symbol(row.renamed(node.module), node.symbol)

    return replacement


def constrain(found: Manifest, reader: Reader, *, in_file: bool) -> Constrained:
    """Replace what a reader cannot load.

    Args:
        in_file: whether the common state will be stored in common.pt, so that the reader's rules
            for common.pt apply.
    """
    by_list = in_file and reader.weights_only
    allowed = reader.allows if by_list else reader.resolves
    loads_symbol = cache(lambda path: allowed(path) and reader.resolves(path))
    foreign: dict[str, None] = {}
    values = found.common.values
    # The layout writes `rerun_state_machine`, and only for releases that can load it.
    others = {key: value for key, value in values.items() if key != COMMON_ENTRY}

    def lacking(part: Global | Object) -> str | None:
        path = part.path if isinstance(part, Global) else symbol_of(part).path
        if not loads_symbol(path):
            return path
        if isinstance(part, Global):
            return None
        if not reader.makes(part):
            return path
        return reader.forbidden_class(part) if by_list else None

    if any(map(lacking, symbols_and_objects(others))):
        values = {**values, **rebuilt(others, _replacer(found, reader, lacking, foreign))}
    result = found if values is found.common.values else _with_common(found, values)
    result = _with_shapes(_with_marker(_with_class(result, reader), reader), reader)
    return Constrained(result, tuple(foreign))


def _replacer(
    found: Manifest,
    reader: Reader,
    lacking: Callable[[Global | Object], str | None],
    foreign: dict[str, None],
) -> Callable[[Any], Any]:
    writers = possible_writers(found, reader.compat).releases

    def replacement(node: Any) -> Any:
        path = lacking(node) if isinstance(node, (Global, Object)) else None
        if path is None or path == ARGS_CLASS:  # no job can use args as text
            return node
        name = _member_name(node, reader.compat, writers)
        if name is None:
            foreign[path] = None
        return path if name is None else name

    return replacement


def _member_name(node: Global | Object, compat: Compat, writers: tuple[str, ...]) -> str | None:
    """Return the name of the enum member that a node is, in a release that may be the writer.

    Returns None if the node is not a member of a known enum.
    """
    if isinstance(node, Global):
        # Python up to 3.10 pickles a signal by its name in the module.
        signals = [row for row in compat.symbol(_SIGNALS) if node.symbol in row.members]
        return node.symbol if node.module == "signal" and signals else None
    value = enum_value(node)
    rows = [row for row in compat.symbol(type(node).path) if value in row.members.values()]
    # One value can have different member names in different releases.
    own = [row for row in rows if any(matches(release, row.releases) for release in writers)]
    for row in own or rows:
        return next(name for name, each in row.members.items() if each == value)
    return None


def _with_common(found: Manifest, values: dict[str, Any]) -> Manifest:
    return replace(found, common=replace(found.common, values=values))


def _with_class(found: Manifest, reader: Reader) -> Manifest:
    """Replace the class of `.metadata` if the reader lacks it: 0.15 pickles a class of its own."""
    if reader.resolves(found.metadata.class_path):
        return found
    return replace(found, metadata=found.metadata.with_class(metadata.TORCH_CLASS))


def with_shapes(found: Manifest) -> Manifest:
    """Compute the shapes of flattened optimizer states if `.metadata` lacks them."""
    if not found.metadata.shapes_lost:
        return found
    rows = optimizer_state.shapes(found)
    return replace(found, metadata=found.metadata.with_attribute(metadata.SHAPES, rows))


def _with_shapes(found: Manifest, reader: Reader) -> Manifest:
    return (
        with_shapes(found)
        if any(p.metadata_only for p in optimizer_state.problems(found, reader))
        else found
    )


def _with_marker(found: Manifest, reader: Reader) -> Manifest:
    unknown = reader.unknown_marker_keys(found.marker)
    if not unknown:
        return found
    return replace(found, marker={k: v for k, v in found.marker.items() if k not in unknown})
