"""Conversion of the distributed optimizer: every element of every sample, for every target."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import optimizer_side
import pytest
from packaging.version import Version

from ckptmigrate import optimizer
from ckptmigrate.checkpoint import manifest
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.errors import CkptMigrateError, DamagedError
from ckptmigrate.optimizer import Conversion, OptimizerTarget
from ckptmigrate.storage.directories import LocalDirectory

SAMPLES = optimizer_side.SAMPLES
INDEX: dict[str, dict[str, Any]] = json.loads((SAMPLES / "index.json").read_text())
INTACT = sorted(name for name, row in INDEX.items() if not row["damaged"])
DAMAGED = sorted(name for name, row in INDEX.items() if row["damaged"])
FLATTENED, RESHARDABLE = "fully_sharded_model_space", "fully_reshardable"
TARGETS = [
    OptimizerTarget(FLATTENED, Version("0.10")),
    OptimizerTarget(FLATTENED, Version("0.13")),
    OptimizerTarget(FLATTENED, Version("0.14")),
    OptimizerTarget(RESHARDABLE, Version("0.15")),
    OptimizerTarget(RESHARDABLE, Version("0.19")),
    OptimizerTarget(RESHARDABLE),
]


def read(checkpoint: Path) -> Manifest:
    return manifest.load(LocalDirectory(checkpoint))


def sample(name: str) -> Path:
    return SAMPLES / name / "iter_0000005"


def write(source: Path, target: OptimizerTarget, parent: Path) -> tuple[Path, Conversion]:
    """Convert a checkpoint into a copy of it, as a migration does."""
    before = read(source)
    made = optimizer.convert(before, target)
    copy = parent / "converted"
    shutil.copytree(source, copy)
    optimizer.perform(made, copy)
    for name, content in made.manifest.contents(before).items():
        assert content is not None
        (copy / name).write_bytes(content)
    return copy, made


def label(target: OptimizerTarget) -> str:
    return f"{target.type}-{target.release}"


@pytest.mark.parametrize("target", TARGETS, ids=label)
@pytest.mark.parametrize("name", INTACT)
def test_every_element(name: str, target: OptimizerTarget, tmp_path: Path) -> None:
    copy, _ = write(sample(name), target, tmp_path)
    found = optimizer_side.states(copy)
    assert sum(elements.size for elements in found.values()) == INDEX[name]["elements"]
    for (parameter, state), elements in found.items():
        assert np.array_equal(
            elements, optimizer_side.expected(parameter, state, elements.shape)
        ), (parameter, state)


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_source_is_refused(name: str) -> None:
    with pytest.raises(DamagedError, match="are not the weights"):
        optimizer.convert(read(sample(name)), OptimizerTarget(FLATTENED))


@pytest.mark.parametrize("name", ["0.13.1-idle-dopt", "0.17.1-idle-dopt"])
def test_stale_weights_are_refused(name: str) -> None:
    checkpoint = next((SAMPLES.parent / "samples" / name).glob("iter_*"))
    with pytest.raises(CkptMigrateError, match="the weights were changed after the save"):
        optimizer.convert(read(checkpoint), OptimizerTarget(FLATTENED))
