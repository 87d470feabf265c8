"""The job that loads a checkpoint: its options and sizes, and what the checkpoint offers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import MODE_OF_ARGUMENT
from ckptmigrate.checkpoint.topology import Topology, derive, recorded
from ckptmigrate.errors import RefusedError
from ckptmigrate.releases.facts import minor
from ckptmigrate.releases.readers import Reader
from ckptmigrate.releases.writer_evidence import possible_writers
from ckptmigrate.versions import rerun_facts
from ckptmigrate.versions.detection import Reading
from ckptmigrate.versions.load_rules import LENIENT, LoadRequest

STRICTNESS: Final = ("assume_ok_unexpected", "raise_unexpected", "raise_all", *LENIENT)
DEFAULT_STRICTNESS: Final = "assume_ok_unexpected"
RAISE_ALL: Final = "raise_all"


@dataclass(frozen=True)
class Job:
    """The job that loads a checkpoint; a size of None means the size in the checkpoint.

    Attributes:
        tensor, pipeline, context, world, expert: parallel sizes, in ranks.
        rerun_mode: its --rerun-mode.
        finetune: whether it runs with --finetune.
        no_load_optim: whether it runs with --no-load-optim.
        no_load_rng: whether it runs with --no-load-rng.
        strictness: its --dist-ckpt-strictness.
        transformer_engine: its version of Transformer Engine, or `none`; None if it is not known.
    """

    tensor: int | None = None
    pipeline: int | None = None
    context: int | None = None
    world: int | None = None
    rerun_mode: str = "validate_results"
    finetune: bool = False
    no_load_optim: bool = False
    no_load_rng: bool = False
    strictness: str = DEFAULT_STRICTNESS
    expert: int | None = None
    transformer_engine: str | None = None


def offered(reading: Reading, reader: Reader, job: Job) -> LoadRequest:
    """Return what a checkpoint offers to a job of a release."""
    manifest, record = reading.manifest, reading.record
    saved = saved_parallelism(manifest)
    grid = (job.pipeline or saved.pipeline or 1, job.tensor or saved.tensor or 1)
    world = job.world or saved.world or saved.hint or 1
    fields: set[str] = set()
    if record.entry is not None:
        fields |= {name for name in record.entry if isinstance(name, str)}
    shard = next(iter(record.shards.values()), None)  # all have the same fields
    if shard is not None:
        fields |= set(shard.stored or shard.fields)
    same_grid = grid == (saved.pipeline or grid[0], saved.tensor or grid[1])
    return LoadRequest(
        facts=rerun_facts.gather(manifest),
        record=record,
        fields=frozenset(fields),
        grid=grid,
        world=world,
        same_grid=same_grid,
        same_job=same_grid and _same_size(world, saved, job),
        mode=MODE_OF_ARGUMENT.get(job.rerun_mode, job.rerun_mode),
        finetune=job.finetune or manifest.is_release,
        lenient=job.strictness in LENIENT,
        same_release=_wrote(reader, manifest),
    )


def _wrote(reader: Reader, manifest: Manifest) -> bool:
    """Return whether the reader's minor release is the only possible writer."""
    writers = possible_writers(manifest, reader.compat).releases
    return [minor(release) for release in writers] == [minor(reader.release)]


def saved_parallelism(manifest: Manifest) -> Topology:
    """Return the parallelism of the checkpoint; that of args, as in Megatron, if they disagree."""
    try:
        return derive(manifest)
    except RefusedError:
        return recorded(manifest)


def _same_size(world: int, saved: Topology, job: Job) -> bool:
    return world == (saved.world or world) and (
        job.context is None or saved.context is None or job.context == saved.context
    )
