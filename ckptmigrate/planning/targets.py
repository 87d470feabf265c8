"""The target of a migration (a layout, `universal` or a release), and the smallest change to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from ckptmigrate import versions
from ckptmigrate.checkpoint import sidecar
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import Kind
from ckptmigrate.checkpoint.sidecar import Step
from ckptmigrate.checkpoint.topology import Given
from ckptmigrate.errors import RefusedError
from ckptmigrate.optimizer.target import PART_SIZE
from ckptmigrate.planning import extra_states
from ckptmigrate.planning.conversion import Converted, convert
from ckptmigrate.planning.extra_states import words
from ckptmigrate.planning.losses import EXTRA_STATE, OPTIMIZER_STATE
from ckptmigrate.releases import optimizer_state, rng, transformer_engine
from ckptmigrate.releases.environment import USUAL, Environment
from ckptmigrate.releases.job import DEFAULT_STRICTNESS, RAISE_ALL, Job
from ckptmigrate.releases.prediction import Obstacle, Verdict, check
from ckptmigrate.releases.readers import Reader, reader
from ckptmigrate.releases.transformer_engine import ADD
from ckptmigrate.storage.directories import Overlay
from ckptmigrate.versions import Layout, none_emitting
from ckptmigrate.versions.detection import Reading, read_manifest

KEEP: Final = transformer_engine.KEEP
CONVERT: Final = "convert"
DROP: Final = sidecar.DROPPED
# Names of targets that are neither a release nor a layout.
WEIGHTS: Final = "weights"
COMPACT: Final = "compact"
UNMOVED: Final = (WEIGHTS, COMPACT, *map(extra_states.target_name, (ADD, DROP)))


@dataclass(frozen=True)
class Target:
    """The target of a migration.

    Attributes:
        name: the `--to` value of the user; without one, that of `--optimizer-type`, or one of
            UNMOVED.
        layout: the target layout; for a release, the layout that it writes.
        reader: the target release, or None for a layout.
        native: whether to write the release's own layout even if a smaller change is sufficient.
        strict: whether the job must load under `--dist-ckpt-strictness raise_all`.
        environment: the Python and NumPy versions of the target job.
        optimizer: KEEP, CONVERT where the release does not load the optimizer as it is, or DROP.
        optimizer_type: the sharding type to convert the optimizer to; by default it depends on the
            release.
        compact: whether the result has no bytes in data files that no key uses.
        part_size: the largest size of a new data file in bytes.
        extra_state: KEEP, DROP or ADD, for the `_extra_state` of Transformer Engine.
        transformer_engine: the version of the job, or `none`; None if it is not known.
    """

    name: str
    layout: Layout
    reader: Reader | None = None
    native: bool = False
    strict: bool = False
    environment: Environment = USUAL
    optimizer: str = KEEP
    optimizer_type: str | None = None
    compact: bool = False
    part_size: int = PART_SIZE
    extra_state: str = KEEP
    transformer_engine: str | None = None

    @property
    def stays(self) -> bool:
        """Whether the checkpoint is not migrated, and only parts of it change."""
        return self.name in (self.optimizer_type, *UNMOVED)

    @property
    def words(self) -> tuple[str, ...]:
        """The command-line options that request this target."""
        found = [] if self.stays else ["--to", self.name]
        if self.optimizer_type is not None:
            found += ["--optimizer-type", self.optimizer_type]
        elif self.optimizer != KEEP:
            found += ["--optimizer", self.optimizer]
        found += words(self.extra_state, self.transformer_engine)
        found += ["--compact"] if self.compact else []
        release = self.reader
        if release is not None and release.torch != reader(release.release, release.compat).torch:
            found += ["--torch", release.torch]
        found += self.environment.options()
        found += ["--native"] if self.native else []
        return (*found, "--strict") if self.strict else tuple(found)

    @property
    def idle_only(self) -> bool:
        """Whether a fault context is dropped even if its layout can keep it."""
        return self.name == versions.UNIVERSAL


def target(
    name: str,
    *,
    torch: str | None = None,
    environment: Environment = USUAL,
    native: bool = False,
    strict: bool = False,
    optimizer: str = KEEP,
    optimizer_type: str | None = None,
    extra_state: str = KEEP,
    transformer_engine: str | None = None,
    compact: bool = False,
    part_size: int = PART_SIZE,
) -> Target:
    """Return the target of a `--to` value.

    Args:
        torch: the reader's version of torch, for a release.
        environment: the Python and NumPy versions of the job.
        native, strict: see Target, for a release.
        optimizer, optimizer_type, compact, part_size: see Target; a type implies CONVERT.
        extra_state, transformer_engine: see Target.

    Raises:
        RefusedError: the name is neither a layout nor a release.
    """
    if optimizer_type is not None:
        optimizer = CONVERT
    make = partial(
        Target,
        name,
        environment=environment,
        optimizer=optimizer,
        optimizer_type=optimizer_type,
        compact=compact,
        part_size=part_size,
        extra_state=extra_state,
        transformer_engine=transformer_engine,
    )
    if not re.match(r"\d", name):
        return make(versions.named(name))
    from ckptmigrate.releases.facts import compat

    found = reader(name, compat(), torch, environment)
    return make(versions.named(found.layout), found, native=native, strict=strict)


def continued(wanted: Target, steps: Sequence[Step]) -> Target:
    """Return a target that repeats the change of the `_extra_state` by the last of some steps.

    A migration starts from the original, which does not have that change. KEEP means to keep it.

    Args:
        steps: the steps from the original to the checkpoint.
    """
    last = steps[-1].extra_state if steps else ""
    if wanted.extra_state != KEEP or last not in (DROP, ADD):
        return wanted
    engine = steps[-1].transformer_engine or None
    return replace(wanted, extra_state=last, transformer_engine=engine)


def reach(begin: Reading, wanted: Target, given: Given | None) -> Converted:
    """Return the smallest conversion that reaches the target, with the requested `_extra_state`.

    Raises:
        RefusedError: the release cannot resume from any conversion; names the reason.
    """
    release, engine = wanted.reader, wanted.transformer_engine
    if wanted.extra_state == KEEP:
        found = _reach(begin, wanted, given)
    else:
        made = extra_states.changed(begin.manifest, wanted.extra_state, release, engine)
        found = _reach(replace(begin, manifest=made.manifest), wanted, given)
        losses = found.losses + ((EXTRA_STATE,) if made.lossy else ())
        found = replace(found, extra_state=made, losses=losses, notes=found.notes + made.notes)
    if release is None or engine is None:
        return found
    strictness = RAISE_ALL if wanted.strict else DEFAULT_STRICTNESS
    return replace(
        found,
        notes=found.notes + extra_states.remaining(found.manifest, release, engine, strictness),
    )


def _reach(begin: Reading, wanted: Target, given: Given | None) -> Converted:
    if wanted.reader is None:
        return convert(
            begin,
            None if wanted.stays else wanted.layout,
            environment=wanted.environment,
            idle_only=wanted.idle_only,
            given=given,
        )
    return _least(begin, wanted, wanted.reader, given)


def _least(begin: Reading, wanted: Target, release: Reader, given: Given | None) -> Converted:
    """Return the first conversion with the fewest data losses that a release can resume from.

    Conversions, in order: the checkpoint's own layout, none-emitting, the release's own layout, and
    for a fault the release's own layout without the fault context. With `native`, only the last
    two.
    """
    layouts: list[tuple[Layout | None, bool]] = [(wanted.layout, False)]
    if not wanted.native:
        layouts = [(None, False), (none_emitting, False), *layouts]
    if begin.record.kind is Kind.FAULT:
        layouts.append((wanted.layout, True))
    # The job does not request an optimizer or RNG states that were not saved.
    job = Job(
        strictness=RAISE_ALL if wanted.strict else DEFAULT_STRICTNESS,
        no_load_optim=not optimizer_state.saved(begin.manifest),
        no_load_rng=not rng.saved(begin.manifest),
    )
    candidates: list[Converted] = []
    refusals: list[Verdict] = []
    unknown: list[RefusedError] = []
    for layout, idle_only in layouts:
        try:
            found = convert(
                begin,
                layout,
                reader=release,
                environment=wanted.environment,
                idle_only=idle_only,
                given=given,
            )
        except RefusedError as error:  # unknown parallel sizes; another layout may not need them
            unknown.append(error)
            continue
        verdict = check(reading_of(found.manifest), release, job)
        if any(map(_blocks, verdict.obstacles)) or verdict.warnings:
            refusals.append(verdict)
            continue
        losses = found.losses + ((OPTIMIZER_STATE,) if verdict.obstacles else ())
        notes = found.notes + tuple(f"{o.why}: resume with {o.flag}" for o in verdict.obstacles)
        notes += tuple(f"release {release.release} resumes without {w}" for w in verdict.without)
        notes += (*verdict.needs, *verdict.unknown)
        candidates.append(replace(found, losses=losses, notes=notes))
    if not candidates:
        if unknown:
            raise unknown[0]
        # Prefer an obstacle that no migration removes: it is the actual reason.
        obstacle = min(
            (o for v in refusals for o in v.obstacles if _blocks(o)),
            key=lambda o: o.metadata_only,
        )
        raise RefusedError(
            f"release {release.release} cannot resume after any migration: {obstacle.why} "
            f"({obstacle.error})",
            path=begin.manifest.path,
            layout=wanted.layout.ID,
            fix=f"run the job with {obstacle.flag}" if obstacle.flag else None,
        )
    return min(candidates, key=lambda found: len(found.losses))


def _blocks(obstacle: Obstacle) -> bool:
    """Return whether an obstacle rules out a conversion.

    An obstacle that no migration removes, but that a flag of the job avoids, does not.
    """
    return obstacle.metadata_only or obstacle.flag is None


def reading_of(result: Manifest) -> Reading:
    """Read a manifest that is not on disk yet as if it were."""
    if not result.new_payload:
        return read_manifest(result)
    written = Overlay(result.directory, {result.new_payload_file: result.new_payload})
    return read_manifest(replace(result, directory=written, new_payload=b""))
