"""Prediction of whether a Megatron release can resume from a checkpoint.

The prediction uses the content of the checkpoint and the constraints of the reader, in the order in
which the reader applies them. It does not use measured results.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Final

from ckptmigrate.checkpoint import adapters, metadata
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import SHARDED_KEY
from ckptmigrate.pickles.display import short_repr
from ckptmigrate.pickles.tree import Object, enum_value, symbol_of, symbols_and_objects
from ckptmigrate.releases import optimizer_damage, optimizer_state, rng, transformer_engine
from ckptmigrate.releases.check_answer import CheckAnswer
from ckptmigrate.releases.constraints import ARGS_CLASS
from ckptmigrate.releases.job import RAISE_ALL, Job, offered, saved_parallelism
from ckptmigrate.releases.readers import Reader
from ckptmigrate.versions import named
from ckptmigrate.versions.detection import Reading
from ckptmigrate.versions.load_rules import MISSING, LoadRequest

_SINGLETON: Final = "singleton_local_shards"
# The key of a tensor of one layer. The key of stacked layers is the same without the number.
_LAYER: Final = re.compile(
    r"((?!optimizer\.|chained_)(?:\w+\.)*layers\.)\d+\.((?:\w+\.)*\w+)", re.ASCII
)
# The error of dist_checkpointing.load, which loads a nested checkpoint. Training loads the common
# state of the outer checkpoint separately, with another error (core_v0.9.0 to core_v0.18.2
# megatron/core/dist_checkpointing/strategies/common.py load_common).
_NO_COMMON_FILE: Final = "CheckpointingException: Common file {path}/common.pt does not exist"
_COMMON: Final = "the common state"
_STATES: Final = "the RNG state"
# Avoids the load error of args in releases up to 0.10 under a torch newer than the release, which
# does not depend on the content of args.
UNSAFE_LOAD: Final = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1"


@dataclass(frozen=True)
class Obstacle:
    """One reason why a job cannot resume.

    Attributes:
        error: the error message of the job.
        why: the reason.
        flag: the option or environment variable of the job that avoids the error, or None.
        metadata_only: whether a migration removes it.
    """

    error: str
    why: str
    flag: str | None = None
    metadata_only: bool = True


@dataclass(frozen=True)
class Verdict:
    """The prediction of whether a job of a release can resume.

    Attributes:
        reader: the release.
        obstacles: the reasons why it cannot, in the order of the job's errors; empty if it can.
        without: data of the checkpoint that the job resumes without.
        warnings: what fails later, unless a migration removes it.
        depends: a sentence for each global whose load depends on the Python or NumPy version.
        damage: a sentence if the optimizer that it loads may be damaged, or None.
        needs: what the job needs and the checkpoint does not contain.
        unknown: what decides whether the job resumes and is not known.
        likely: why the answer is not certain although nothing prevents the load, or None.
    """

    reader: Reader
    obstacles: tuple[Obstacle, ...]
    without: tuple[str, ...]
    warnings: tuple[str, ...]
    depends: tuple[str, ...] = ()
    damage: str | None = None
    needs: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    likely: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (docs/json.md, `check --json`)."""
        return {
            "release": self.reader.release,
            "torch": self.reader.torch,
            "like": self.reader.like,
            "resumes": self.resumes,
            "answer": self.answer.value,
            "likely": self.likely if self.answer is CheckAnswer.LIKELY else None,
            "needs": list(self.needs),
            "unknown": list(self.unknown),
            "without": list(self.without),
            "warnings": [*self.warnings, *([self.damage] if self.damage else [])],
            "depends": list(self.depends),
            "obstacles": [
                {"error": o.error, "why": o.why, "flag": o.flag, "metadata_only": o.metadata_only}
                for o in self.obstacles
            ],
        }

    @property
    def conditions(self) -> tuple[str, ...]:
        """What is not known or not measured about the load, and what it needs."""
        return (*self.unknown, *self.needs, *([self.likely] if self.likely else ()))

    @property
    def notes(self) -> tuple[str, ...]:
        """The assumptions of the prediction, without those that an obstacle already states."""
        reasons = {obstacle.why for obstacle in self.obstacles}
        caveat = self.reader.caveat
        return (
            *(() if caveat is None else (caveat,)),
            *(text for text in self.depends if text not in reasons),
        )

    @property
    def answer(self) -> CheckAnswer:
        """The answer; YES also if the job resumes without some of the data."""
        if self.obstacles:
            return CheckAnswer.NO
        if self.unknown:
            return CheckAnswer.UNKNOWN
        if self.needs:
            return CheckAnswer.CONDITIONAL
        return CheckAnswer.LIKELY if self.likely else CheckAnswer.YES

    @property
    def resumes(self) -> bool:
        """Whether the load succeeds with the checkpoint alone, even if without some of the data."""
        return self.answer is CheckAnswer.YES


def check(reading: Reading, reader: Reader, job: Job | None = None) -> Verdict:
    """Predict whether a job of a release can resume from a checkpoint.

    Args:
        reading: the checkpoint.
        reader: the release and its torch.
        job: by default a job with the checkpoint's parallelism and with reruns enabled.
    """
    job = job or Job()
    manifest = reading.manifest
    request = offered(reading, reader, job)
    early, late = _optimizer(manifest, reader, job, request)
    obstacles = [*_marker(manifest, reader), *_common(manifest, reader), *early]
    obstacles += _metadata(manifest, reader)
    obstacles += [*_model(manifest, reader), *_extra_state(manifest, reader, job)]
    obstacles += late
    outcome = named(reader.layout).predict_load(request)
    states, unknown = _rng(manifest, reader, job, request)
    rerun: list[Obstacle] = []
    if outcome.error is not None:
        rerun = [Obstacle(outcome.error, outcome.why)]
    # A job loads rerun shards before RNG states, but restores in another order: optimizer, rerun
    # state, RNG states.
    if outcome.error is not None and outcome.error.startswith(MISSING):
        obstacles += [*rerun, *states, *_no_optimizer(manifest, job)]
    else:
        obstacles += [*states, *_no_optimizer(manifest, job), *rerun]
    obstacles += _no_rng(manifest, reader, job, request)
    if (
        outcome.error is None
        and job.strictness == RAISE_ALL
        and manifest.rerun_keys
        and not outcome.requested
    ):
        obstacles.append(
            Obstacle(
                f"Missing keys (for all ranks): {{'{SHARDED_KEY}'}}",
                "a job with --dist-ckpt-strictness raise_all refuses rerun shards that it does "
                "not request",
                "--dist-ckpt-strictness assume_ok_unexpected",
            )
        )
    obstacles += _nested(manifest, reader)
    warnings = (outcome.warning,) if outcome.warning else ()
    loads_optimizer = not (job.no_load_optim or job.finetune or manifest.is_release)
    return Verdict(
        reader,
        tuple(obstacles),
        outcome.without,
        warnings,
        _depends(manifest, reader, job, request),
        optimizer_damage.advice(manifest) if loads_optimizer else None,
        adapters.needs(manifest),
        unknown,
        transformer_engine.caveat(manifest, job.transformer_engine),
    )


def _depends(manifest: Manifest, reader: Reader, job: Job, request: LoadRequest) -> tuple[str, ...]:
    """Return a sentence for each global of a moved module whose load depends on a version."""
    states = manifest.rng_symbols if _loads_rng(job, request) else ()
    named = [(_STATES, path, False) for path in states]
    for each in manifest.parts.values():
        by_list = each.common.in_file and reader.weights_only
        named += [(_COMMON, found.path, by_list) for found in each.common.symbols]
        named += [(metadata.FILE, found.path, False) for found in each.metadata.symbols]
    found = (_named(where, path, reader, by_list=listed) for where, path, listed in named)
    return tuple(dict.fromkeys(filter(None, found)))


def _named(where: str, path: str, reader: Reader, *, by_list: bool) -> str | None:
    """Return the sentence that a global depends on a version; None if it does not.

    Args:
        where: the part of the checkpoint that names the global.
        path: the dotted name.
        by_list: whether the global has to be on the allow-list.
    """
    condition = reader.condition(path, by_list=by_list)
    return None if condition is None else f"{where} names {path}: {condition}"


def _nested(manifest: Manifest, reader: Reader) -> list[Obstacle]:
    """Return the obstacles of the nested checkpoints, which a job loads last."""
    found = []
    for name, inside in manifest.nested.items():
        common = _common(inside, reader, _NO_COMMON_FILE)
        for each in (*_marker(inside, reader), *common, *_metadata(inside, reader)):
            found.append(replace(each, why=f"in the nested checkpoint {name}, {each.why}"))
    return found


def _marker(manifest: Manifest, reader: Reader) -> list[Obstacle]:
    unknown = reader.unknown_marker_keys(manifest.marker)
    if not unknown:
        return []
    return [
        Obstacle(
            "TypeError: CheckpointingConfig.__init__() got an unexpected keyword argument "
            f"'{unknown[0]}'",
            "metadata.json has keys that the release does not know",
        )
    ]


def _common(manifest: Manifest, reader: Reader, missing: str | None = None) -> list[Obstacle]:
    """Return the obstacles of the common state.

    Args:
        missing: the error for a missing common.pt, if it is not the error of load_checkpoint.
    """
    if not manifest.common.in_file and reader.missing_common_error is not None:
        error = (missing or reader.missing_common_error).format(path=manifest.path)
        return [
            Obstacle(
                error,
                "the release expects common.pt, and the checkpoint stores the common state in "
                "common_state/shard_0_1",
            )
        ]
    weights_only = manifest.common.in_file and reader.weights_only
    for found in symbols_and_objects(manifest.common.values):
        # The reader's error names the first global that it cannot load.
        if isinstance(found, Object):
            forbidden = reader.forbidden_class(found) if weights_only else None
            if forbidden is not None:
                return [_forbidden(forbidden)]
            if not reader.makes(found):
                return [_no_member(found)]
            continue
        if weights_only and not reader.allows(found.path):
            why = f"{_COMMON} names {found.path}, which the release does not allow"
            return [
                Obstacle(
                    "Weights only load failed. ... Unsupported global: GLOBAL "
                    f"{found.path} was not an allowed global by default.",
                    _named(_COMMON, found.path, reader, by_list=True) or why,
                    UNSAFE_LOAD if found.path == ARGS_CLASS else None,
                )
            ]
        if not reader.resolves(found.path):
            return [_unresolved(found.path, _COMMON, reader)]
    return []


def _no_member(found: Object) -> Obstacle:
    name = symbol_of(found).symbol
    return Obstacle(
        f"ValueError: {short_repr(enum_value(found))} is not a valid {name}",
        f"the common state contains {short_repr(found)}, and {name} of the release has no member "
        "with that value",
    )


def _forbidden(name: str) -> Obstacle:
    return Obstacle(
        "Weights only load failed. ... Can only build Tensor, Parameter, OrderedDict or types "
        f"allowlisted via `add_safe_globals`, but got <class '{name}'>",
        f"the common state contains NumPy data of the class {name}, which the release does not "
        "allow",
    )


def _optimizer(
    manifest: Manifest, reader: Reader, job: Job, request: LoadRequest
) -> tuple[list[Obstacle], list[Obstacle]]:
    """Return the obstacles of the optimizer before the job reads `.metadata`, and after."""
    if job.no_load_optim or job.finetune:
        return [], []
    saved = saved_parallelism(manifest)
    sizes = request.grid[::-1], (saved.tensor or request.grid[1], saved.pipeline or request.grid[0])
    problems = optimizer_state.problems(manifest, reader, None if request.same_grid else sizes)
    found = [
        (each.before_load, Obstacle(each.error, each.why, optimizer_state.FLAG, each.metadata_only))
        for each in problems
    ]
    return [o for early, o in found if early], [o for early, o in found if not early]


def _metadata(manifest: Manifest, reader: Reader) -> list[Obstacle]:
    for found in manifest.metadata.symbols:
        if not reader.resolves(found.path):
            return [_unresolved(found.path, metadata.FILE, reader)]
    return []


def _model(manifest: Manifest, reader: Reader) -> list[Obstacle]:
    """Return the obstacle if the model is stored under keys that the release does not request."""
    if (manifest.common.content or {}).get(_SINGLETON) is not True:
        return []
    layers = (_LAYER.fullmatch(key) for key in manifest.metadata.entries)
    first = next((match for match in layers if match), None)
    if first is None:  # no layers
        return []
    key = "".join(first.groups())
    return [
        Obstacle(row.error.format(key=key), row.why, metadata_only=False)
        for row in reader.unread_forms("singleton-shards")
    ]


def _extra_state(manifest: Manifest, reader: Reader, job: Job) -> list[Obstacle]:
    engine = job.transformer_engine
    if engine is None:
        return []
    found = transformer_engine.problems(manifest, reader, engine, job.strictness)
    return [Obstacle(each.error, each.why, each.flag, each.change is not None) for each in found]


def _unresolved(path: str, where: str, reader: Reader, flag: str | None = None) -> Obstacle:
    module, _, name = path.rpartition(".")
    moved = reader.compat.moved(path)
    if moved is not None:
        why = _named(where, path, reader, by_list=False)
        return Obstacle(moved.error, why or f"{where} names {path}", flag)
    if module.startswith("megatron."):
        error = f"AttributeError: Can't get attribute '{name}' on <module '{module}'"
    else:
        error = f"ModuleNotFoundError: No module named '{module.partition('.')[0]}'"
    return Obstacle(error, f"{where} names {path}, which the release does not have", flag)


def _loads_rng(job: Job, request: LoadRequest) -> bool:
    return not (job.no_load_rng or job.finetune) and request.same_grid


def _rng(
    manifest: Manifest, reader: Reader, job: Job, request: LoadRequest
) -> tuple[list[Obstacle], tuple[str, ...]]:
    """Return the obstacles of the RNG states, and what is not known about them."""
    if not _loads_rng(job, request):
        return [], ()
    found = rng.missing(manifest, reader, request.grid, request.world, job.expert)
    if found is not None and found.unknown is None:
        return [Obstacle(found.error, found.why, rng.FLAG)], ()
    unresolved = (path for path in manifest.rng_symbols if not reader.resolves(path))
    obstacles = [_unresolved(path, _STATES, reader, rng.FLAG) for path in unresolved][:1]
    return obstacles, () if found is None or found.unknown is None else (found.unknown,)


def _no_optimizer(manifest: Manifest, job: Job) -> list[Obstacle]:
    found = optimizer_state.unsaved(manifest)
    if found is None or job.no_load_optim or job.finetune:
        return []
    return [Obstacle(found.error, found.why, optimizer_state.FLAG, metadata_only=False)]


def _no_rng(manifest: Manifest, reader: Reader, job: Job, request: LoadRequest) -> list[Obstacle]:
    """Return the error of a job that requests no RNG states although it has no --no-load-rng."""
    error = reader.missing_rng_error
    if error is None or job.no_load_rng or job.finetune or manifest.is_release:
        return []
    if not rng.saved(manifest):
        why = "the checkpoint was saved with --no-save-rng"
    elif not request.same_grid:
        why = (
            "TP or PP of the job differs from the checkpoint: the release then does not request "
            "RNG states, and fails without them"
        )
    else:
        return []
    return [Obstacle(error.format(path=manifest.path), why, rng.FLAG, metadata_only=False)]
