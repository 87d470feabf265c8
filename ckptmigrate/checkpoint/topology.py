"""The parallelism of the job that wrote a checkpoint, and the rank of each rerun shard.

The sizes are from `args`, or from the user if a framework writes no args. They must agree with the
save plans (one per rank), the data files (no rank >= WORLD) and the global shape of the rerun
shards, if there are any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import MOST_RANKS, parse_unique_key
from ckptmigrate.errors import RefusedError, Retry
from ckptmigrate.pickles.display import short_repr

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
    """

    world: int | None
    tensor: int | None
    pipeline: int | None
    context: int | None
    pipeline_before_data: bool
    hint: int | None = None
    encoder: bool = False

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
        return self._require(self.world, _WORLD, "WORLD", self.hint)

    def require_grid(self) -> tuple[int, int]:
        """Return (PP, TP), in ranks.

        Raises:
            RefusedError: a size is unknown (names the option that states it), or there is no such
                grid.
        """
        if self.encoder:
            raise RefusedError(
                f"the encoder has its own parallel sizes (args.{_ENCODER_TENSOR} and "
                f"args.{_ENCODER_PIPELINE}), so there is no single (PP, TP) grid",
                fix="resume with 0.12 or later, which do not need it",
            )
        pipeline = self._require(self.pipeline, _PIPELINE, "PP", None)
        return pipeline, self._require(self.tensor, _TENSOR, "TP", None)

    @staticmethod
    def _require(value: int | None, option: str, name: str, hint: int | None) -> int:
        if value is None:
            raise RefusedError(
                f"{_ARGUMENTS[option]} ({name}) is not in the args of the checkpoint",
                fix=f"set it with {option} {hint or 'N'}",
                retry=Retry(add=(option, str(hint))) if hint else None,
            )
        return value

    def rank_of(self, pipeline_rank: int, tensor_rank: int, data_context_rank: int = 0) -> int:
        """Return the rank at a (PP, TP, DP x CP) position.

        In DP x CP, the context parallel rank varies fastest.

        Megatron's order is tp-cp-dp-pp, or tp-cp-pp-dp with use_tp_pp_dp_mapping (core_v0.12.0 to
        core_v0.19.0 megatron/training/initialize.py _initialize_distributed).

        Raises:
            RefusedError: WORLD, TP or PP is unknown.
        """
        world, (pipeline, tensor) = self.require_world(), self.require_grid()
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
    args = manifest.common
    plans = manifest.metadata.plans
    encoder = has_encoder(manifest)
    grid = () if encoder else _rerun_grid(manifest)
    ranks = [rank for rank, _ in manifest.payload_files.values()]
    least = max(ranks, default=0) + 1  # ranks that wrote a data file
    world = _agree(
        manifest,
        _WORLD,
        given.world,
        {
            "the number of save plans": len(plans) if plans else None,
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
    context = args.argument("context_parallel_size")
    return Topology(
        world,
        tensor,
        pipeline,
        context if _is_size(context) else None,
        bool(args.argument("use_tp_pp_dp_mapping")),
        len(plans) if plans and len(plans) >= least else None,
        encoder,
    )


def told(manifest: Manifest) -> Topology:
    """Return the parallelism from args alone, as a job that loads the checkpoint does."""
    world, tensor, pipeline, context = (
        size if _is_size(size) and size <= MOST_RANKS else None
        for size in (
            *(_argument(manifest, option) for option in _ARGUMENTS),
            manifest.common.argument("context_parallel_size"),
        )
    )
    order = bool(manifest.common.argument("use_tp_pp_dp_mapping"))
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
    """Return a size from args; PP includes the encoder stages, which args count separately."""
    size = manifest.common.argument(_ARGUMENTS[option])
    stages = manifest.common.argument(_ENCODER_PIPELINE)
    return size + stages if option == _PIPELINE and _is_size(size) and _is_size(stages) else size


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
    claims = {f"args.{_ARGUMENTS[option]}": argument if _is_size(argument) else None, **checks}
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
