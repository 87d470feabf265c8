"""The `_extra_state` that jobs request, by release and by version of Transformer Engine.

A job requests the objects of its own modules, whatever the checkpoint has. Which modules that are
is read from the sources (`extra_state_modules` of compat_matrix.yaml); jobs with Transformer Engine
are not measured, because it runs on GPUs alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ckptmigrate.checkpoint.extra_state import (
    SUFFIX,
    Content,
    Layers,
    content_of,
    is_of_module,
    layers,
    stored,
)
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.errors import RefusedError
from ckptmigrate.releases.facts import ModuleRow, compat, matches
from ckptmigrate.releases.job import DEFAULT_STRICTNESS, RAISE_ALL, Job
from ckptmigrate.releases.readers import Reader
from ckptmigrate.text.printable import few
from ckptmigrate.versions.load_rules import LENIENT, MISSING

KEEP: Final = "keep"
DROP: Final = "drop"
ADD: Final = "add"
CHANGES: Final = (KEEP, DROP, ADD)  # that a migration can make
WITHOUT: Final = "none"  # the name of a job without Transformer Engine
OPTION: Final = "--transformer-engine"
SKIPPING: Final = "log_unexpected"  # the strictness with which a job skips what is not there
SKIP: Final = f"--dist-ckpt-strictness {SKIPPING}"
ANY_KEYS: Final = f"--dist-ckpt-strictness {DEFAULT_STRICTNESS}"
# A job of main does not request what holds no state (megatron/training/checkpointing.py of
# 2026-08-22, _localize_redundant_extra_states).
UNREQUESTED: Final = "--ckpt-drop-redundant-extra-state"
# load_model_state_dict of megatron/training/checkpointing.py, core_v0.13.0, not in core_v0.12.0.
_LOADS_WITHOUT: Final = ">=0.13"
_NOT_LOADED: Final = "core_attention"  # a hook of Transformer Engine takes it off the missing keys
_NORM: Final = "norm"  # the end of the names of norms
# The norm in front of experts: the layers of Megatron-Core store it under the second key.
_NORM_OF_TE: Final = ".pre_mlp_layernorm.weight"
_NORM_OF_MCORE: Final = ".mlp.linear_fc1.layer_norm_weight"


@dataclass(frozen=True)
class Requested:
    """The objects that a job requests, of the layers whose weights a checkpoint has.

    Attributes:
        modules: path of each module -> its layers.
        others: paths of the modules whose objects other releases or versions request.
    """

    modules: Mapping[str, Layers]
    others: frozenset[str]

    @property
    def keys(self) -> dict[str, int]:
        """Return every key, with the rank that writes the weight of the layer."""
        each = (found.keys(module) for module, found in self.modules.items())
        return {key: rank for keys in each for key, rank in keys.items()}


@dataclass(frozen=True)
class ExtraStateProblem:
    """A reason why a job cannot load the `_extra_state` of a checkpoint.

    Attributes:
        error: the error that the job raises.
        why: the reason.
        flag: the option of the job that avoids it, or None.
        change: the change of the `_extra_state` that removes it, or None.
    """

    error: str
    why: str
    flag: str | None = None
    change: str | None = ADD


def engine_of(text: str) -> str:
    """Return a version of Transformer Engine as `extra_state_modules` names it; 0 for WITHOUT.

    Raises:
        RefusedError: the text is neither a version nor WITHOUT.
    """
    from packaging.version import InvalidVersion, Version

    if text == WITHOUT:
        return "0"
    try:
        return Version(text).base_version
    except InvalidVersion as error:
        raise RefusedError(
            f"{text!r} is not a version of Transformer Engine",
            fix=f"use a version, for example {OPTION} 2.8, or {OPTION} {WITHOUT}",
        ) from error


def requested(found: Manifest, reader: Reader | None, engine: str | None) -> Requested:
    """Return the objects that a job requests.

    Args:
        reader: the release; None for any.
        engine: the version of Transformer Engine, or WITHOUT; None for any.

    Raises:
        RefusedError: `engine` is not a version.
    """
    version = None if engine is None else engine_of(engine)
    rows = compat().extra_state_modules
    axes = {name: count for row in rows for name, count in row.weights.items()}
    modules: dict[str, Layers] = {}
    others: set[str] = set()
    for module, places in layers(found.metadata, axes).items():
        for row in rows:
            if not any(is_of_module(name, module) for name in row.weights):
                continue
            owner = _owner(module, row)
            if (reader is None or reader.is_in(row.releases)) and (
                version is None or matches(version, row.engines)
            ):
                modules[owner] = places
            else:
                others.add(owner)
    return Requested(modules, frozenset(others) - modules.keys())


def no_state(engine: str | None) -> Content:
    """Return the value that means "no state" to a version of Transformer Engine; None for most."""
    version = "0" if engine is None else engine_of(engine)
    rows = compat().extra_state_values
    return next(Content(row.value) for row in rows if matches(version, row.engines))


def refused(content: Content, module: str, engine: str) -> str | None:
    """Return the error with which a module of a version refuses a value, or None."""
    version = engine_of(engine)
    if engine == WITHOUT or module.endswith(_NORM):
        return None
    rows = (row for row in compat().extra_state_values if row.value == content.value)
    return next((row.error for row in rows if not matches(version, row.engines)), None)


def caveat(found: Manifest, engine: str | None) -> str | None:
    """Return why a job only likely loads the `_extra_state`; None if that is not in question.

    Args:
        engine: the version of Transformer Engine, or WITHOUT; None if it is not known.
    """
    if engine == WITHOUT:
        return (
            f"the job is assumed to use the layers of Megatron-Core, without Transformer Engine: "
            f"which {SUFFIX} it requests is read from its source"
        )
    if engine is not None:
        return (
            f"which {SUFFIX} a job with Transformer Engine {engine} requests and loads is read "
            "from its source, not run"
        )
    if _has_added(found):
        return (
            f"ckptmigrate added the {SUFFIX} of modules of Transformer Engine: that it loads them "
            "is read from its source, not run"
        )
    return None


def _has_added(found: Manifest) -> bool:
    """Return whether an object has a value that no release writes, so that ckptmigrate added it.

    Only Transformer Engine saves objects of norms and of the core attention, and never None.
    """
    keys: dict[str, str] = {}
    for key, module in stored(found.metadata).items():
        if _NOT_LOADED in module or module.endswith(_NORM):
            keys.setdefault(module, key)
    return any(content_of(found, key) is Content.NONE for key in keys.values())


def problems(
    found: Manifest, reader: Reader, engine: str, strictness: str
) -> list[ExtraStateProblem]:
    """Return the reasons why a job cannot load the `_extra_state`, in the order of their errors.

    Args:
        engine: the version of Transformer Engine, or WITHOUT.
        strictness: the --dist-ckpt-strictness of the job.

    Raises:
        RefusedError: `engine` is not a version.
    """
    wanted = requested(found, reader, engine)
    here = stored(found.metadata)
    return [
        *_of_norms(found, engine),
        *_of_missing(wanted, here, reader, engine, strictness),
        *_of_surplus(wanted, here, strictness),
        *_of_values(found, wanted, here, engine),
    ]


def remedy(found: Manifest, reader: Reader, job: Job) -> str:
    """Return the change of the `_extra_state` that a job needs first, or KEEP."""
    if job.transformer_engine is None:
        return KEEP
    changes = problems(found, reader, job.transformer_engine, job.strictness)
    return next((each.change for each in changes if each.change), KEEP)


def surplus(wanted: Requested, here: Mapping[str, str]) -> list[str]:
    """Return the keys of a checkpoint that other jobs request and this one does not."""
    return [key for key, module in here.items() if module in wanted.others]


def unusable(found: Manifest, wanted: Requested, engine: str) -> Iterator[tuple[str, str]]:
    """Yield the keys with a value for "no state" that a version refuses, and its error."""
    keys = wanted.keys
    for key, module in stored(found.metadata).items():
        if key in keys:
            error = refused(content_of(found, key), module, engine)
            if error is not None:
                yield key, error


def _owner(module: str, row: ModuleRow) -> str:
    return f"{module.rpartition('.')[0]}.{row.sibling}" if row.sibling else module


def described(engine: str) -> str:
    """Return a version as a clause after "a job"."""
    return (
        f"with Transformer Engine {engine}" if engine != WITHOUT else "without Transformer Engine"
    )


def _of_norms(found: Manifest, engine: str) -> Iterator[ExtraStateProblem]:
    """Yield the problem of experts whose norm has another key in the layers of the job.

    Source: sharded_state_dict_keys_map of megatron/core/models/gpt/gpt_layer_specs.py, core_v0.9.0
    to core_v0.19.0; Megatron-LM pull request 6270.
    """
    mine, other = _NORM_OF_TE, _NORM_OF_MCORE
    if engine == WITHOUT:
        mine, other = other, mine
    for key in found.metadata.entries:
        prefix = key.removesuffix(other)
        with_experts = f"{prefix}.mlp.router.weight" in found.metadata.entries
        if prefix != key and with_experts and f"{prefix}{mine}" not in found.metadata.entries:
            yield ExtraStateProblem(
                f"{MISSING}{prefix}{mine}.",
                "the layers of Megatron-Core and those of Transformer Engine store the norm in "
                "front of experts under different keys",
                change=None,
            )
            return


def _of_missing(
    wanted: Requested, here: Mapping[str, str], reader: Reader, engine: str, strictness: str
) -> Iterator[ExtraStateProblem]:
    lacking = [key for key in wanted.keys if key not in here]
    if not lacking:
        return
    modules = {key: key.partition(f".{SUFFIX}/")[0] for key in lacking}
    absent = [module for module in dict.fromkeys(modules.values()) if module not in here.values()]
    whose = few([*dict.fromkeys(modules.values())])
    why = (
        f"a job {described(engine)} requests an {SUFFIX} of {whose}, which the checkpoint does not "
        "have"
    )
    loads = engine == WITHOUT or reader.is_in(_LOADS_WITHOUT)
    partly = [key for key in lacking if modules[key] not in absent]
    flag = None if partly or not loads else SKIP
    if flag is None and reader.is_in(">=0.20.dev0"):
        flag = UNREQUESTED
    if strictness in LENIENT:  # the job skips modules of which the checkpoint has nothing
        unloaded = [m for m in absent if not loads and _NOT_LOADED not in m]
        if partly:
            yield ExtraStateProblem(f"{MISSING}{partly[0]}.", why)
        elif unloaded:
            name = unloaded[0].replace("layers.", "layers.0.", 1)
            yield ExtraStateProblem(f'Missing key(s) in state_dict: "{name}.{SUFFIX}"', why)
    elif strictness.startswith("raise") and absent:
        yield ExtraStateProblem(f"Unexpected keys (for this rank): {_named(absent)}", why, flag)
    else:
        yield ExtraStateProblem(f"{MISSING}{lacking[0]}.", why, flag)


def _of_surplus(
    wanted: Requested, here: Mapping[str, str], strictness: str
) -> Iterator[ExtraStateProblem]:
    modules = [*dict.fromkeys(here[key] for key in surplus(wanted, here))]
    if strictness == RAISE_ALL and modules:
        yield ExtraStateProblem(
            f"Missing keys (for all ranks): {_named(modules)}",
            f"a job with --dist-ckpt-strictness {RAISE_ALL} refuses an {SUFFIX} that it does not "
            "request",
            ANY_KEYS,
            DROP,
        )


def _of_values(
    found: Manifest, wanted: Requested, here: Mapping[str, str], engine: str
) -> Iterator[ExtraStateProblem]:
    keys = {module: key for key, module in here.items() if module in wanted.modules}
    for module, key in keys.items():  # all layers of a module have the same form of no state
        content = content_of(found, key)
        error = refused(content, module, engine)
        if error is not None:
            yield ExtraStateProblem(
                error,
                f"the {SUFFIX} of {module} is {_WORDS[content]}, which Transformer Engine {engine} "
                "does not load",
            )
            return


_WORDS: Final = {Content.NONE: "None", Content.EMPTY: "an empty tensor"}


def _named(modules: list[str]) -> str:
    """Return the keys of modules as Megatron-Core prints a set of them."""
    return "{" + ", ".join(f"'{module}.{SUFFIX}'" for module in sorted(modules)) + "}"
