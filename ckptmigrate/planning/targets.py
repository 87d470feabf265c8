"""What `--to` names: a layout, `universal`, or a release; and the least that leads there."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ckptmigrate import versions
from ckptmigrate.access.storage import Overlay
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.rerun import Kind
from ckptmigrate.checkpoint.topology import Given
from ckptmigrate.errors import RefusedError
from ckptmigrate.planning.converting import Converted, convert
from ckptmigrate.planning.losses import OPTIMIZER_STATE
from ckptmigrate.releases import optimizer, rng
from ckptmigrate.releases.checking import (
    DEFAULT_STRICTNESS,
    RAISE_ALL,
    Job,
    Obstacle,
    Verdict,
    check,
)
from ckptmigrate.releases.environment import USUAL, Environment
from ckptmigrate.releases.readers import Reader, reader
from ckptmigrate.versions import Layout, none_emitting
from ckptmigrate.versions.reading import Reading, read_manifest


@dataclass(frozen=True)
class Target:
    """What a migration leads to.

    Attributes:
        name: as the user wrote it.
        layout: the layout asked for; of a release, its own.
        reader: the release that is to resume, or None for a layout.
        native: whether a release gets its own layout even where it needs less.
        strict: whether it is to resume under `raise_all`.
        environment: the Python and the NumPy of the job that is to load it.
    """

    name: str
    layout: Layout
    reader: Reader | None = None
    native: bool = False
    strict: bool = False
    environment: Environment = USUAL

    @property
    def idle_only(self) -> bool:
        """Whether a fault context must not stay even where its layout would keep it."""
        return self.name == versions.UNIVERSAL


def target(
    name: str,
    *,
    torch: str | None = None,
    environment: Environment = USUAL,
    native: bool = False,
    strict: bool = False,
) -> Target:
    """What a name stands for.

    Args:
        torch: the reader's version of torch, for a release.
        environment: the Python and the NumPy of the job.
        native, strict: see Target, for a release.

    Raises:
        RefusedError: it is neither a layout nor a release.
    """
    if not re.match(r"\d", name):
        return Target(name, versions.named(name), environment=environment)
    from ckptmigrate.releases.facts import compat

    found = reader(name, compat(), torch, environment)
    return Target(name, versions.named(found.layout), found, native, strict, environment)


def reach(begin: Reading, wanted: Target, given: Given | None) -> Converted:
    """The conversion that changes least and does what the target asks for.

    Raises:
        RefusedError: no conversion makes the release resume; names the reason.
    """
    if wanted.reader is None:
        return convert(
            begin,
            wanted.layout,
            environment=wanted.environment,
            idle_only=wanted.idle_only,
            given=given,
        )
    return _least(begin, wanted, wanted.reader, given)


def _least(begin: Reading, wanted: Target, release: Reader, given: Given | None) -> Converted:
    """Of what a release could be given, the first that it resumes from with the fewest losses:
    the checkpoint as it lies, the one without rerun state, the release's own layout, idle."""
    layouts: list[tuple[Layout | None, bool]] = [(wanted.layout, False)]
    if not wanted.native:
        layouts = [(None, False), (none_emitting, False), *layouts]
    if begin.record.kind is Kind.FAULT:
        layouts.append((wanted.layout, True))
    # A job that does not look for what was never saved.
    job = Job(
        strictness=RAISE_ALL if wanted.strict else DEFAULT_STRICTNESS,
        no_load_optim=not optimizer.saved(begin.manifest),
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
        except RefusedError as error:  # sizes that another of them may not need
            unknown.append(error)
            continue
        verdict = check(reading_of(found.manifest), release, job)
        if any(map(_in_the_way, verdict.obstacles)) or verdict.warnings:
            refusals.append(verdict)
            continue
        losses = found.losses + ((OPTIMIZER_STATE,) if verdict.obstacles else ())
        notes = found.notes + tuple(f"{o.why}: resume with {o.flag}" for o in verdict.obstacles)
        notes += tuple(f"release {release.release} resumes without {w}" for w in verdict.without)
        candidates.append(replace(found, losses=losses, notes=notes))
    if not candidates:
        if unknown:
            raise unknown[0]
        # What no layout removes is the reason, where there is such a thing.
        obstacle = min(
            (o for v in refusals for o in v.obstacles if _in_the_way(o)),
            key=lambda o: o.metadata_only,
        )
        raise RefusedError(
            f"release {release.release} cannot resume from it: {obstacle.why} ({obstacle.error})",
            path=begin.manifest.path,
            layout=wanted.layout.ID,
            fix=f"run the job with {obstacle.flag}" if obstacle.flag else None,
        )
    return min(candidates, key=lambda found: len(found.losses))


def _in_the_way(obstacle: Obstacle) -> bool:
    """Whether a job fails whatever it is told to go without."""
    return obstacle.metadata_only or obstacle.flag is None


def reading_of(result: Manifest) -> Reading:
    """A manifest that is not on disk yet, read as if it were."""
    if not result.new_payload:
        return read_manifest(result)
    written = Overlay(result.directory, {result.new_payload_file: result.new_payload})
    return read_manifest(replace(result, directory=written, new_payload=b""))
