"""Checks of the common state, the rerun state, the parallel sizes and the sidecar."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ckptmigrate.checkpoint import common, migration_state, sidecar
from ckptmigrate.checkpoint import sizes_file as sizes_files
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.material import Material
from ckptmigrate.checkpoint.metadata import SHAPES
from ckptmigrate.checkpoint.rerun import STATES, Kind, grid_size
from ckptmigrate.checkpoint.topology import derive
from ckptmigrate.checks.findings import Finding, finding
from ckptmigrate.errors import CkptMigrateError, DamagedError, RefusedError, StoreError
from ckptmigrate.pickles import torch_file
from ckptmigrate.releases import optimizer_damage
from ckptmigrate.text.printable import counted
from ckptmigrate.versions import sharded_rerun
from ckptmigrate.versions.detection import read_manifest


def reruns(material: Material) -> Iterator[Finding]:
    """Yield findings about a common state and rerun shards that do not match."""
    found = material.whole
    if found is None or not _readable(found):
        return  # other checks report it
    try:
        reading = read_manifest(found)
    except StoreError:  # a failure of the store, not of the checkpoint
        raise
    except CkptMigrateError as error:
        yield finding(material, "rerun-contradictory", f"the checkpoint {error.reason}")
        return
    record = reading.record
    if record.kind is Kind.CORRUPT:
        many = counted(len(record.missing), "rerun shard")
        are = "is" if len(record.missing) == 1 else "are"
        what = f"{record.promise}, but {many} {are} missing"
        missing = finding(material, "rerun-shards-missing", what, *record.missing)
        # 0.10 and 0.11 always request rerun shards, so the repair has to write new ones.
        always = all(layout is sharded_rerun for layout in reading.layouts)
        yield replace(missing, options=("--rebuild-sentinel",) if always else ())
    elif record.is_unresumable:
        what = f"the rerun state is {STATES[record.state or 0]}, from which no release can resume"
        yield finding(material, "rerun-not-resumable", what)
    elif found.rerun_keys and record.entry is None and not record.shards:
        what = (
            f"{counted(len(found.rerun_keys), 'rerun shard')} without rerun_state_machine in the "
            "common state"
        )
        yield finding(material, "rerun-shards-unclaimed", what, *found.rerun_keys)
    elif record.entry is not None and record.kind is Kind.IDLE and not record.shards:
        yield finding(
            material,
            "rerun-sentinel-missing",
            "rerun_state_machine is idle, and all its rerun shards are missing",
        )
    elif record.missing:
        many = f"{len(record.missing)} of its {grid_size(record.grid)} rerun shards are missing"
        what = f"rerun_state_machine is idle, and {many}"
        yield finding(material, "rerun-sentinel-missing", what, *record.missing)
    if found.common.in_file and common.KEY in found.metadata.entries:
        yield finding(material, "common-twice", f"the common state is stored in {common.KEY} too")


def shapes(material: Material) -> Iterator[Finding]:
    """Yield a finding if the shapes of flattened optimizer states are missing."""
    found = material.whole
    if found is not None and found.metadata.shapes_lost:
        what = f"the optimizer states are flattened, and .metadata has no {SHAPES}"
        yield finding(material, "optimizer-shapes-missing", what)


def optimizer(material: Material) -> Iterator[Finding]:
    """Yield a finding if the metadata does not exclude that the optimizer is damaged."""
    found = material.whole
    risk = None if found is None else optimizer_damage.warning(found)
    if risk is not None:
        yield finding(material, "optimizer-suspect", risk)


def _readable(found: Manifest) -> bool:
    try:
        for key in found.rerun_keys:
            torch_file.load(found.read_blob_bytes(key))
    except DamagedError:
        return False
    return True


def sizes(material: Material) -> Iterator[Finding]:
    """Yield a finding if args, save plans, shards and data files disagree on the parallel sizes."""
    found = material.whole
    if found is None:
        return
    try:
        derive(found)
    except RefusedError as error:
        if "data files" not in error.reason:  # payload.ranks reports these
            yield finding(material, "sizes-contradict", error.reason)
    except DamagedError:
        return


def sizes_file(material: Material) -> Iterator[Finding]:
    """Yield a finding if the file with the sizes of a checkpoint without args cannot be used."""
    found = material.whole
    if found is None or found.common.arguments is not None:
        return
    if found.sizes.problem is not None:
        yield finding(material, "sizes-unreadable", found.sizes.problem)
    missing = sizes_files.missing(material.path)
    if missing is not None and found.sizes.path is None:
        what = f"the common state has no args, and {missing.name} is missing"
        yield finding(material, "run-config-missing", what)


def history(material: Material) -> Iterator[Finding]:
    """Yield findings about an incomplete migration or an outdated sidecar."""
    if migration_state.is_staged(material.path):
        yield finding(
            material,
            "migration-unfinished",
            "the staging directory of an in-place migration exists",
        )
        return
    try:
        stale = sidecar.original(material.directory).stale
    except StoreError:  # a failure of the store, not of the checkpoint
        raise
    except CkptMigrateError as error:
        stale = f"{sidecar.FILE} {error.reason}"
    if stale:
        yield finding(material, "sidecar-stale", stale)
