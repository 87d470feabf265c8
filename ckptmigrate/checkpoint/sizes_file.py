"""The parallel sizes that a framework states in a file beside a checkpoint without `args`.

The file is YAML (run_config.yaml of Megatron-Bridge) or JSON, which is YAML too. Only its events
are read: no tag is constructed, no alias is expanded, and every limit holds before it is exceeded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ckptmigrate.checkpoint import root_recognition
from ckptmigrate.checkpoint.root_kinds import SizesFile
from ckptmigrate.checkpoint.saved_sizes import NO_SIZES, SavedSizes
from ckptmigrate.errors import CkptMigrateError, DamagedError, StoreError
from ckptmigrate.pickles.display import short_repr
from ckptmigrate.places import Place
from ckptmigrate.storage import directories
from ckptmigrate.storage.store_errors import says_denied

_LARGEST: Final = 1024**2  # bytes; a run_config.yaml has about 30 kB
_MOST: Final = 100_000  # events
_DEEPEST: Final = 50  # nested mappings and lists
_DATA_PARALLEL: Final = "data_parallel_size"
_ORDER: Final = "use_tp_pp_dp_mapping"
# Fields of ModelParallelConfig, core_v0.9.0 to core_v0.19.0 megatron/core/model_parallel_config.py.
_SIZES: Final = tuple(
    f"{name}_parallel_size"
    for name in ("tensor_model", "pipeline_model", "context", "expert_model", "expert_tensor")
)
# No key of a file contains a NUL, which YAML does not allow unescaped.
_LIST: Final = "\0list"
_KEY: Final = "\0key"
_OTHER: Final = "\0other"
Keys = tuple[str, ...]


def beside(checkpoint: Place) -> SavedSizes:
    """Return the sizes that the framework of a checkpoint states in a file."""
    found = root_recognition.in_save(checkpoint)
    if found is None or found.kind.sizes is None:
        return NO_SIZES
    about = found.kind.sizes
    path = _place(checkpoint, about.path)
    try:
        if not directories.is_file(path):
            return NO_SIZES
        content = directories.start_of(path, _LARGEST + 1)
        return SavedSizes(_sizes(content, about), path)
    except (CkptMigrateError, OSError) as error:
        if isinstance(error, StoreError) and not says_denied(error.__cause__):
            raise
        reason = error.reason if isinstance(error, CkptMigrateError) else error.strerror
        return SavedSizes({}, path, f"{path.name} {reason}")


def missing(checkpoint: Place) -> Place | None:
    """Return the file with the sizes that the framework of a checkpoint requires, if missing."""
    found = root_recognition.in_save(checkpoint)
    if found is None or found.kind.sizes is None or not found.kind.sizes.required:
        return None
    path = _place(checkpoint, found.kind.sizes.path)
    return None if directories.exists(path) else path


def _place(checkpoint: Place, path: str) -> Place:
    for name in path.split("/"):
        checkpoint = checkpoint.parent if name == ".." else checkpoint / name
    return checkpoint


def _sizes(content: bytes, about: SizesFile) -> dict[str, Any]:
    wanted: dict[Keys, str] = {(*about.section, name): name for name in _SIZES}
    wanted |= {about.data_parallel: _DATA_PARALLEL, about.pipeline_before_data: _ORDER}
    found = {wanted[keys]: value for keys, value in _scalars(content) if keys in wanted}
    sizes: dict[str, Any] = {
        name: int(value)
        for name, value in found.items()
        if name != _ORDER and value.isascii() and value.isdigit() and len(value) < 10
    }
    if found.get(_ORDER, "").lower() == "true":
        sizes[_ORDER] = True
    return sizes


def _scalars(content: bytes) -> Iterator[tuple[Keys, str]]:
    """Yield the keys that lead to each scalar in nested mappings, and its text.

    Raises:
        DamagedError: it is not YAML, or exceeds a limit.
    """
    import yaml  # slow to import

    if len(content) > _LARGEST:
        raise DamagedError(f"is larger than {_LARGEST} bytes")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    # Per open list _LIST, and per open mapping the key of the value that comes next, or _KEY.
    opened: list[str] = []
    try:
        for number, event in enumerate(yaml.parse(content, Loader=loader)):
            if number > _MOST or len(opened) > _DEEPEST:
                raise DamagedError(f"has more than {_MOST} values or {_DEEPEST} levels")
            if isinstance(event, yaml.CollectionEndEvent):
                opened.pop()
                _end_value(opened, _OTHER)
            elif isinstance(event, yaml.CollectionStartEvent):
                opened.append(_KEY if isinstance(event, yaml.MappingStartEvent) else _LIST)
            elif isinstance(event, yaml.ScalarEvent):
                if not opened or opened[-1] != _KEY:
                    yield tuple(opened), event.value
                _end_value(opened, event.value)
            elif isinstance(event, yaml.AliasEvent):
                _end_value(opened, _OTHER)
    except (yaml.YAMLError, UnicodeError, ValueError, RecursionError) as error:
        raise DamagedError(f"is not YAML ({short_repr(str(error))})") from error


def _end_value(opened: list[str], key: str) -> None:
    """Continue after a key, which `key` is then, or after a value."""
    if opened and opened[-1] != _LIST:
        opened[-1] = key if opened[-1] == _KEY else _KEY
