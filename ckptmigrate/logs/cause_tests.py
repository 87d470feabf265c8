"""Tests of a checkpoint for the causes of load errors: one small test per cause.

A test that cannot decide returns None, or an Evidence that neither confirms nor excludes the cause.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.checkpoint import adapters, common, downloads, extra_state, metadata
from ckptmigrate.checkpoint.manifest import MARKER_FILE, PAYLOAD
from ckptmigrate.checkpoint.rerun import STATES
from ckptmigrate.checkpoint.trackers import TRACKER_FILE
from ckptmigrate.errors import UnsupportedFormatError
from ckptmigrate.logs.examined import Seen
from ckptmigrate.logs.kinds import numbers
from ckptmigrate.releases import writer_evidence
from ckptmigrate.releases.facts import compat, matches
from ckptmigrate.storage import directories, pointers
from ckptmigrate.text.printable import few

_UNREADABLE: Final = (
    "common-unreadable", "metadata-unreadable", "marker-unreadable", "blob-unreadable",
    "byte-range-outside",
)  # fmt: skip
_OPTIMIZER: Final = re.compile(r"(?:chained_\d+\.)?optimizer\.", re.ASCII)
_STATE: Final = re.compile(r"(?:chained_\d+\.)?optimizer\.(?:state\.)?[^.]+\.(?P<key>.+)")
_IN_PLACE: Final = "RERUNNING_IN_PLACE"
_NUMBER: Final = re.compile(r"\.\d+(?=\.)")


@dataclass(frozen=True)
class Evidence:
    """The evidence of a checkpoint for a cause.

    Attributes:
        holds: whether the cause holds; None if the checkpoint does not show it.
        text: what was found, a clause.
    """

    holds: bool | None
    text: str


# -- the root and the files

Test = Callable[[Seen, Mapping[str, str]], Evidence | None]


def _tracker(seen: Seen, wanted: bool) -> Evidence | None:
    if not seen.is_root:
        return None
    there = directories.is_file(seen.path / TRACKER_FILE)
    what = "has" if there else "has no"
    return Evidence(there is wanted, f"{seen.path} {what} {TRACKER_FILE}")


def _dangling(seen: Seen, _: Mapping[str, str]) -> Evidence | None:
    found = [each for each in seen.findings if each.code.startswith("tracker-")]
    dangling = next((each for each in found if each.code == "tracker-dangling"), None)
    if dangling is not None:
        return Evidence(True, dangling.what)
    return (
        Evidence(False, "the tracker file names an iteration that exists") if seen.is_root else None
    )


def _file(seen: Seen, name: str, wanted: bool) -> Evidence:
    there = name in seen.files
    return Evidence(there is wanted, f"{seen.place} {'has' if there else 'has no'} {name}")


def _no_marker(seen: Seen, _: Mapping[str, str]) -> Evidence:
    if MARKER_FILE not in seen.files and not _has_data(seen):
        return Evidence(False, f"{seen.place} has neither .metadata nor *.distcp files")
    return _file(seen, MARKER_FILE, False)


def _other_format(seen: Seen, _: Mapping[str, str]) -> Evidence | None:
    if isinstance(seen.refusal, UnsupportedFormatError) and common.FILE not in seen.files:
        return Evidence(True, f"{seen.place} {seen.refusal.reason}")
    if _has_data(seen):
        return Evidence(False, f"{seen.place} has .metadata or *.distcp files")
    return Evidence(True, f"{seen.place} has neither .metadata nor *.distcp files")


def _has_data(seen: Seen) -> bool:
    return metadata.FILE in seen.files or any(map(PAYLOAD.fullmatch, seen.files))


def _unfinished(seen: Seen, values: Mapping[str, str]) -> Evidence:
    return _dot_files(seen, values, False) or _file(seen, metadata.FILE, False)


def _dot_files(seen: Seen, _: Mapping[str, str], holds: bool = True) -> Evidence | None:
    found = downloads.find(seen.place)
    if metadata.FILE in seen.files or found is None:
        return None
    return Evidence(holds, f"{seen.place} was downloaded from {found.site}, without .metadata")


def _args(seen: Seen, wanted: bool) -> Evidence | None:
    if seen.manifest is None:
        return None
    there = seen.manifest.common.arguments is not None
    return Evidence(there is wanted, f"the common state has {'' if there else 'no '}`args`")


def _common_place(seen: Seen, wanted: str) -> Evidence | None:
    if common.FILE in seen.files:
        found, what = "file", f"{seen.place} has {common.FILE}"
    elif common.KEY in seen.keys:
        found, what = "object", f".metadata has the key {common.KEY}"
    elif seen.keys:
        found, what = "lost", f"{seen.place} has neither {common.FILE} nor the key {common.KEY}"
    else:
        return None
    return Evidence(found == wanted, what)


def _pointers(seen: Seen, _: Mapping[str, str]) -> Evidence:
    directory = directories.directory(seen.place)
    small = {name: size for name, size in seen.files.items() if size < pointers.LARGEST}
    found = [n for n, s in small.items() if pointers.kind_of(directory.read_range(n, 0, s), s)]
    if found:
        what = "is a pointer file" if len(found) == 1 else "are pointer files"
        return Evidence(True, f"{few(found)} in {seen.place} {what} of Git LFS")
    return Evidence(False, f"no file in {seen.place} is a pointer file of Git LFS")


def _empty(seen: Seen, _: Mapping[str, str]) -> Evidence:
    found = [name for name, size in seen.files.items() if not size]
    if found:
        return Evidence(
            True, f"{few(found)} in {seen.place} {'is' if len(found) == 1 else 'are'} empty"
        )
    return Evidence(False, f"no file in {seen.place} is empty")


def _damaged(seen: Seen, _: Mapping[str, str]) -> Evidence:
    found = next((each for each in seen.findings if each.code in _UNREADABLE), None)
    if found is not None:
        return Evidence(True, f"verify reports {found.code}: {found.what}")
    return Evidence(None, "verify finds no damaged file; it did not read the tensors (--load does)")


# -- pickles


def _foreign(seen: Seen, values: Mapping[str, str]) -> Evidence | None:
    named = values.get("module", "").partition(".")[0]
    found = [item for each in seen.findings if each.code == "unknown-symbol" for item in each.items]
    ours = [each for each in found if named and each.startswith(named)] or found
    if ours:
        return Evidence(True, f"its pickles name {few(ours)}")
    return (
        Evidence(False, "its pickles name no class of another framework") if seen.manifest else None
    )


def _names(seen: Seen, prefix: str) -> Evidence | None:
    if seen.manifest is None:
        return None
    found = [each for each in seen.globals if each.startswith(prefix)]
    if found:
        return Evidence(True, f"its pickles name {few(found, 2)}")
    return Evidence(False, f"no pickle in it names {prefix.rstrip('.')}")


# -- keys


def _any_key(seen: Seen, pattern: re.Pattern[str], what: str, wanted: bool) -> Evidence | None:
    if not seen.keys:
        return None
    found = next((key for key in seen.keys if pattern.search(key)), None)
    text = f"the checkpoint has no {what}" if found is None else f"the checkpoint has {found}"
    return Evidence((found is not None) is wanted, text)


def _parameter(seen: Seen, values: Mapping[str, str], wanted: bool) -> Evidence | None:
    match = _STATE.fullmatch(values.get("key", ""))
    if match is None or not any(map(_OPTIMIZER.match, seen.keys)):
        return None
    there = match["key"] in seen.keys
    what = "has" if there else "does not have"
    return Evidence(there is wanted, f"the checkpoint {what} the parameter {match['key']}")


def _per_layer(seen: Seen, values: Mapping[str, str]) -> Evidence | None:
    key = values.get("key", "")
    plain = _NUMBER.sub("", key)
    like = next((k for k in seen.keys if k != key and _NUMBER.sub("", k) == plain), None)
    return None if like is None else Evidence(True, f"the checkpoint has {like}")


def _prefixed(seen: Seen, values: Mapping[str, str]) -> Evidence | None:
    key = values.get("key", "")
    tail = ".".join(key.split(".")[-4:])
    if not tail or _OPTIMIZER.match(key):
        return None
    found = [k for k in seen.keys if k != key and not _OPTIMIZER.match(k)]
    like = next((k for k in found if k.endswith(f".{tail}") or key.endswith(f".{k}")), None)
    return None if like is None else Evidence(True, f"the checkpoint has {like}")


def _only_adapters(seen: Seen, _: Mapping[str, str]) -> Evidence | None:
    if not seen.keys:
        return None
    found = adapters.find(seen.keys)
    what = "the base model, or no adapters" if found is None else found.text
    return Evidence(found is not None, f"the checkpoint has {what}")


def _unlike(seen: Seen, values: Mapping[str, str]) -> Evidence | None:
    if not seen.keys or values.get("key") in seen.keys:
        return None
    if _per_layer(seen, values) or _prefixed(seen, values) or adapters.find(seen.keys):
        return Evidence(False, "the checkpoint shows another cause")
    return Evidence(True, f"none of the {len(seen.keys)} keys of the checkpoint is similar")


# -- shapes and arguments


def _arguments(
    seen: Seen, values: Mapping[str, str], *names: str, holds: bool | None
) -> Evidence | None:
    key = values.get("key", "")
    stored, saved, other = seen.shape(key), numbers(values.get("saved", "")), ""
    if stored and stored != saved:
        other = f"it stores {list(stored)} under this key, not the loaded shape of the log"
    elif key and seen.keys and key not in seen.keys:
        other = f"the checkpoint has no key {key}"
    if other:
        return Evidence(None, f"{other}: the log may be about another checkpoint")
    pairs = [f"{name} {value}" for name in names if (value := seen.argument(name)) is not None]
    return Evidence(holds, f"the checkpoint has {', '.join(pairs)}") if pairs else None


def _lost_data(seen: Seen, wanted: str) -> Evidence | None:
    if seen.manifest is None:
        return None
    if "mcore_data" in seen.manifest.metadata.attributes:
        return Evidence(False, ".metadata has mcore_data")
    releases = writer_evidence.possible_writers(seen.manifest, compat()).releases or _of_layout(
        seen
    )
    old = [release for release in releases if matches(release, "<0.16")]
    found = "lost" if releases and len(old) == len(releases) else "" if old else "not-written"
    if not found or not releases:
        return None
    return Evidence(
        found == wanted, f"{' or '.join(releases)} wrote the checkpoint, without mcore_data"
    )


def _of_layout(seen: Seen) -> tuple[str, ...]:
    """Return the releases that write the matching layouts, for contradictory evidence."""
    rows = [compat().row(layout.ID) for layout in (seen.reading.layouts if seen.reading else ())]
    known = compat().known_releases
    return tuple(each for each in known if any(matches(each, row.releases) for row in rows))


def _groups(seen: Seen, values: Mapping[str, str], wanted: bool) -> Evidence | None:
    key = values.get("key", "")
    found = [] if seen.manifest is None else [*_group_rows(seen.manifest.common.values)]
    if not found or not key:
        return None
    there = all(key in row or f"pre_{key}" in row for row in found)
    what = "have" if there else "do not have"
    return Evidence(
        there is wanted, f"the {len(found)} param_groups in the common state {what} {key}"
    )


def _group_rows(value: Any, depth: int = 5) -> Iterator[dict[Any, Any]]:
    if not isinstance(value, dict) or not depth:
        return
    for name, part in value.items():
        if name == "param_groups" and isinstance(part, list):
            yield from (row for row in part if isinstance(row, dict))
        else:
            yield from _group_rows(part, depth - 1)


def _in_place(seen: Seen, _: Mapping[str, str]) -> Evidence | None:
    if seen.reading is None:
        return None
    state = seen.reading.record.state
    holds = state is not None and STATES[state] == _IN_PLACE
    what = "is" if holds else "is not"
    return Evidence(holds, f"its rerun state {what} {_IN_PLACE}")


def _extra_state_is_none(seen: Seen, _: Mapping[str, str]) -> Evidence | None:
    key = next((key for key in seen.keys if _EXTRA.search(key)), None)
    if seen.manifest is None or key is None or key not in seen.manifest.metadata.blobs:
        return None
    none = extra_state.content_of(seen.manifest, key) is extra_state.Content.NONE
    return Evidence(none, f"{key} {'is' if none else 'is not'} None")


_ANY_OPTIMIZER: Final = "key of an optimizer"
_ANY_ADAPTER: Final = "key of an adapter"
_EXTRA: Final = re.compile(r"_extra_state")
_RNG: Final = re.compile(r"^rng_state")

CAUSE_TESTS: Final[Mapping[str, Test]] = {
    "has-tracker": lambda seen, _: _tracker(seen, True),
    "no-tracker": lambda seen, _: _tracker(seen, False),
    "tracker-dangling": _dangling,
    "has-marker": lambda seen, _: _file(seen, MARKER_FILE, True),
    "no-marker": _no_marker,
    "save-unfinished": _unfinished,
    "no-dot-files": _dot_files,
    "other-format": _other_format,
    "has-args": lambda seen, _: _args(seen, True),
    "no-args": lambda seen, _: _args(seen, False),
    "common-in-file": lambda seen, _: _common_place(seen, "file"),
    "common-in-object": lambda seen, _: _common_place(seen, "object"),
    "common-lost": lambda seen, _: _common_place(seen, "lost"),
    "lfs-pointer": _pointers,
    "empty-file": _empty,
    "damaged-file": _damaged,
    "foreign-global": _foreign,
    "numpy-2": lambda seen, _: _names(seen, "numpy._core."),
    "python-3.13": lambda seen, _: _names(seen, "pathlib._local."),
    "some-extra-state": lambda seen, _: _any_key(seen, _EXTRA, "_extra_state key", True),
    "no-extra-state": lambda seen, _: _any_key(seen, _EXTRA, "_extra_state key", False),
    "extra-state-none": _extra_state_is_none,
    "optimizer-keys": lambda seen, _: _any_key(seen, _OPTIMIZER, _ANY_OPTIMIZER, True),
    "no-optimizer-keys": lambda seen, _: _any_key(seen, _OPTIMIZER, _ANY_OPTIMIZER, False),
    "other-optimizer-keys": lambda seen, values: _parameter(seen, values, True),
    "no-parameter": lambda seen, values: _parameter(seen, values, False),
    "adapter-keys": lambda seen, _: _any_key(seen, adapters.KEYS, _ANY_ADAPTER, True),
    "no-adapter-keys": lambda seen, _: _any_key(seen, adapters.KEYS, _ANY_ADAPTER, False),
    "adapters-only": _only_adapters,
    "no-rng-keys": lambda seen, _: _any_key(seen, _RNG, "rng_state key", False),
    "per-layer-keys": _per_layer,
    "other-prefix": _prefixed,
    "no-key-like-it": _unlike,
    "vocabulary": lambda seen, values: _arguments(
        seen, values, "padded_vocab_size", "make_vocab_size_divisible_by",
        "tensor_model_parallel_size", holds=None,
    ),
    "positions": lambda seen, values: _arguments(
        seen, values, "max_position_embeddings", holds=True
    ),
    "layers": lambda seen, values: _arguments(seen, values, "num_layers", holds=True),
    "model-arguments": lambda seen, values: _arguments(
        seen, values, "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads",
        "num_query_groups", "num_experts", holds=None,
    ),
    "tensor-parallel": lambda seen, values: _arguments(
        seen, values, "tensor_model_parallel_size", holds=None
    ),
    "mcore-data-lost": lambda seen, _: _lost_data(seen, "lost"),
    "mcore-data-not-written": lambda seen, _: _lost_data(seen, "not-written"),
    "param-groups-with": lambda seen, values: _groups(seen, values, True),
    "param-groups-without": lambda seen, values: _groups(seen, values, False),
    "rerunning-in-place": _in_place,
}  # fmt: skip
