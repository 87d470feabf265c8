"""The parallelism of the job that wrote a checkpoint, and the rank of each rerun shard.

The sizes are from `args`, or from a file of the framework if there are no args, or from the user.
They must agree with the save plans (one per rank), the data files (no rank >= WORLD) and the global
shape of the rerun shards, if there are any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import MOST_RANKS, parse_unique_key
from ckptmigrate.errors import RefusedError, Retry
from ckptmigrate.pickles.display import short_repr
from ckptmigrate.places import Place

_WORLD, _TENSOR, _PIPELINE = "--world-size", "--tensor-parallel", "--pipeline-parallel"
_ARGUMENTS = {
    _WORLD: "world_size",
    _TENSOR: "tensor_model_parallel_size",
    _PIPELINE: "pipeline_model_parallel_size",
}

_ENCODER_TENSOR = "encoder_tensor_model_parallel_size"
_ENCODER_PIPELINE = "encoder_pipeline_model_parallel_size"


@dataclass(frozen=True)
class Given:
    """Sizes that the user states, in ranks; None if not stated."""

    world: int | None = None
    tensor: int | None = None
    pipeline: int | None = None


@dataclass(frozen=True)
class Topology:
    """The parallelism of the job that wrote a checkpoint; None for an unknown size.

    Attributes:
        world, tensor, pipeline, context: sizes in ranks. The data parallel size is derived from the
            world size.
        pipeline_before_data: True for `args.use_tp_pp_dp_mapping` (tp-cp-pp-dp rank order).
        hint: the number of save plans, a suggestion for the world size if `world` is unknown.
        encoder: whether the pipeline stages of an encoder have a different TP or rank order, so
            that there is no single (PP, TP) grid.
        path: the checkpoint, for errors.
        looked: where its sizes were looked up, for errors.
    """

    world: int | None
    tensor: int | None
    pipeline: int | None
    context: int | None
    pipeline_before_data: bool
    hint: int | None = None
    encoder: bool = False
    path: Place | None = None
    looked: str = ""

    @property
    def data(self) -> int | None:
        """Return the data parallel size without context parallelism, in ranks."""
        if self.encoder or None in (self.world, self.tensor, self.pipeline, self.context):
            return None
        return self.world // (self.tensor * self.pipeline * self.context)  # type: ignore[operator]

    def require_world(self) -> int:
        """Return WORLD, in ranks.

        Raises:
            RefusedError: it is unknown; names the option that states it.
        """
        self._require(_WORLD)
        assert self.world is not None
        return self.world

    def require_grid(self) -> tuple[int, int]:
        """Return (PP, TP), in ranks.

        Raises:
            RefusedError: a size is unknown (names the options that state all unknown sizes), or
                there is no such grid.
        """
        if self.encoder:
            raise RefusedError(
                f"the encoder has its own parallel sizes (args.{_ENCODER_TENSOR} and "
                f"args.{_ENCODER_PIPELINE}), so there is no single (PP, TP) grid",
                fix="resume with 0.12 or later, which do not need it",
            )
        # The rank at each position depends on WORLD, so all are named at once.
        self._require(_TENSOR, _PIPELINE, _WORLD)
        assert self.pipeline is not None
        assert self.tensor is not None
        return self.pipeline, self.tensor

    def _require(self, *options: str) -> None:
        """Raise if a size is unknown; name the options that state all unknown ones."""
        sizes = {_TENSOR: self.tensor, _PIPELINE: self.pipeline, _WORLD: self.world}
        hints = {_TENSOR: "TP", _PIPELINE: "PP", _WORLD: str(self.hint or "WORLD")}
        unknown = [option for option in options if sizes[option] is None]
        if not unknown:
            return
        names = ", ".join(_ARGUMENTS[option] for option in unknown)
        words = tuple(word for option in unknown for word in (option, hints[option]))
        are = "is" if len(unknown) == 1 else "are"
        raise RefusedError(
            f"{names} {are} not in the checkpoint ({self.looked})",
            path=self.path,
            fix=f"set the sizes of the job that wrote it with {' '.join(words)}",
            retry=Retry(add=words),
        )

    @property
    def unknown(self) -> tuple[str, ...]:
        """Return the names of the unknown sizes among TP, PP and WORLD, as in `args`."""
        sizes = {_TENSOR: self.tensor, _PIPELINE: self.pipeline, _WORLD: self.world}
        return tuple(_ARGUMENTS[option] for option, size in sizes.items() if size is None)

    def rank_of(self, pipeline_rank: int, tensor_rank: int, data_context_rank: int = 0) -> int:
        """Return the rank at a (PP, TP, DP x CP) position.

        In DP x CP, the context parallel rank varies fastest.

        Megatron's order is tp-cp-dp-pp, or tp-cp-pp-dp with use_tp_pp_dp_mapping (core_v0.12.0 to
        core_v0.19.0 megatron/training/initialize.py _initialize_distributed).

        Raises:
            RefusedError: WORLD, TP or PP is unknown.
        """
        (pipeline, tensor), world = self.require_grid(), self.require_world()
        if self.pipeline_before_data:
            context = self.context or 1
            data_rank, context_rank = divmod(data_context_rank, context)
            stage = pipeline_rank + pipeline * data_rank
            return tensor_rank + tensor * (context_rank + context * stage)
        return tensor_rank + tensor * data_context_rank + (world // pipeline) * pipeline_rank


def derive(manifest: Manifest, given: Given | None = None) -> Topology:
    """Return the parallelism of a checkpoint.

    Raises:
        RefusedError: two sources contradict each other; names both and the option.
    """
    given = given or Given()
    plans = manifest.metadata.plans
    encoder = has_encoder(manifest)
    grid = () if encoder else _rerun_grid(manifest)
    ranks = [rank for rank, _ in manifest.payload_files.values()]
    least = max(ranks, default=0) + 1  # ranks that wrote a data file
    in_plans = len(plans) if plans else None
    world = _agree(
        manifest,
        _WORLD,
        given.world,
        {
            "the number of save plans": in_plans,
            "the rerun shards": grid[0] if len(grid) == 1 else None,
        },
        least,
    )
    pipeline, tensor = (
        _agree(manifest, option, stated, {"the rerun shards": grid[i] if len(grid) == 2 else None})
        for i, (option, stated) in enumerate(((_PIPELINE, given.pipeline), (_TENSOR, given.tensor)))
    )
    if len(grid) == 1:
        world = world or grid[0]
    elif len(grid) == 2:
        pipeline, tensor = pipeline or grid[0], tensor or grid[1]
    if world is not None and world < least:
        raise RefusedError(
            f"world size {world} contradicts the data files, one of which rank {least - 1} wrote",
            path=manifest.path,
            fix=f"set the correct size with {_WORLD} N",
        )
    if world and tensor and pipeline and not encoder and world % (tensor * pipeline):
        raise RefusedError(
            f"world size {world} is not a multiple of TP {tensor} x PP {pipeline}",
            path=manifest.path,
            fix=f"set the correct sizes with {_WORLD}, {_TENSOR} and {_PIPELINE}",
        )
    context = manifest.size_of("context_parallel_size")
    if world is None and manifest.sizes.values and in_plans and in_plans >= least:
        # The file of a framework states no world size. A save plan is written for each rank.
        world = in_plans if tensor and pipeline and not in_plans % (tensor * pipeline) else None
    return Topology(
        world,
        tensor,
        pipeline,
        context if _is_size(context) else None,
        bool(manifest.size_of("use_tp_pp_dp_mapping")),
        in_plans if in_plans and in_plans >= least else None,
        encoder,
        manifest.path,
        _looked(manifest),
    )


def _looked(manifest: Manifest) -> str:
    """Return where the sizes of a checkpoint were looked up, in a few words."""
    if manifest.common.arguments is not None:
        return "not in its args"
    path = manifest.sizes.path
    return "its common state has no args" if path is None else f"no args, and not in {path}"


def recorded(manifest: Manifest) -> Topology:
    """Return the parallelism from args alone, as a job that loads the checkpoint does."""
    world, tensor, pipeline, context = (
        size if _is_size(size) and size <= MOST_RANKS else None
        for size in (
            *(_argument(manifest, option) for option in _ARGUMENTS),
            manifest.size_of("context_parallel_size"),
        )
    )
    order = bool(manifest.size_of("use_tp_pp_dp_mapping"))
    return Topology(world, tensor, pipeline, context, order, encoder=has_encoder(manifest))


def has_encoder(manifest: Manifest) -> bool:
    """Return whether an encoder has pipeline stages that do not fit the grid of the decoder.

    Source: core_v0.9.0 to core_v0.13.1 megatron/training/arguments.py validate_args,
    megatron/core/parallel_state.py initialize_model_parallel: its ranks are first.
    """
    args = manifest.common
    if not _is_size(args.argument(_ENCODER_PIPELINE)):
        return False
    tensor = args.argument(_ENCODER_TENSOR) or args.argument(_ARGUMENTS[_TENSOR])
    own = tensor != args.argument(_ARGUMENTS[_TENSOR])
    return own or bool(args.argument("use_tp_pp_dp_mapping"))


def _argument(manifest: Manifest, option: str) -> Any:
    """Return a stated size; PP includes the encoder stages, which args count separately."""
    size = manifest.size_of(_ARGUMENTS[option])
    if option == _WORLD and size is None:
        size = _world_of_data_parallel(manifest)
    stages = manifest.common.argument(_ENCODER_PIPELINE)
    return size + stages if option == _PIPELINE and _is_size(size) and _is_size(stages) else size


def _world_of_data_parallel(manifest: Manifest) -> int | None:
    """Return the world size that the file of a framework states by its data parallel size."""
    names = ("tensor_model", "pipeline_model", "context")
    sizes = [manifest.sizes.values.get(f"{name}_parallel_size") for name in (*names, "data")]
    return math.prod(sizes) if all(map(_is_size, sizes)) else None  # type: ignore[arg-type]


def _agree(
    manifest: Manifest,
    option: str,
    stated: int | None,
    checks: dict[str, int | None],
    least: int = 1,
) -> int | None:
    """Return the size that args or the user states; raise if another source contradicts it.

    A stated size overrides args only if the files agree with it. A size below `least` is never
    suggested.

    Raises:
        RefusedError: two sources contradict each other, or a size exceeds MOST_RANKS.
    """
    argument = _argument(manifest, option)
    path = manifest.sizes.path
    where = "args." if path is None else f"{path.name}: "
    claims = {f"{where}{_ARGUMENTS[option]}": argument if _is_size(argument) else None, **checks}
    for source, value in {**claims, option: stated}.items():
        if value is not None and value > MOST_RANKS:
            raise RefusedError(
                f"{source} ({short_repr(value)}) is larger than any job",
                path=manifest.path,
                fix=f"set the correct size with {option} N",
            )
    if stated is not None:
        if stated in checks.values():
            claims = checks
        claims = {option: stated, **claims}
    sources = [(source, value) for source, value in claims.items() if value is not None]
    if not sources or (stated is None and not _is_size(argument)):
        return None
    (first, chosen), *others = sources
    for source, value in others:
        if value != chosen:
            raise RefusedError(
                f"{first} ({chosen}) contradicts {source} ({value})",
                path=manifest.path,
                fix=f"omit {option}, or set a size that matches the files"
                if stated is not None
                else f"set the correct size, which matches the files, with {option} N",
                retry=_retry(option, stated, checks, least),
            )
    return chosen


def _retry(
    option: str, stated: int | None, checks: dict[str, int | None], least: int
) -> Retry | None:
    """Return a retry without the stated size, or with the size that all files agree on."""
    if stated is not None:
        return Retry(leave_out=(option,))
    sizes = {value for value in checks.values() if value is not None}
    return Retry(add=(option, str(*sizes))) if len(sizes) == 1 and min(sizes) >= least else None


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0


def _rerun_grid(manifest: Manifest) -> tuple[int, ...]:
    for key in manifest.rerun_keys:
        parsed = parse_unique_key(key)
        if parsed:
            return parsed[1]
    return ()
