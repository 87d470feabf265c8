"""Conversion of the distributed optimizer: every element of every sample, for every target."""

from __future__ import annotations

import json
import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optimizer_side
import pytest
from packaging.version import Version

from ckptmigrate.checkpoint import material, metadata_file
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.errors import CkptMigrateError, DamagedError
from ckptmigrate.optimizer import checksums, new_files
from ckptmigrate.optimizer.comparison import compare
from ckptmigrate.optimizer.description import describe, has_several_buckets, may_be_damaged
from ckptmigrate.optimizer.resharding import Conversion, convert
from ckptmigrate.optimizer.target import PART_SIZE, SMALLEST_PART, OptimizerTarget
from ckptmigrate.pickles.equality import equal
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
    return material.load(LocalDirectory(checkpoint))


def sample(name: str) -> Path:
    return SAMPLES / name / "iter_0000005"


def write(
    source: Path, target: OptimizerTarget, parent: Path, part_size: int = PART_SIZE
) -> tuple[Path, Conversion]:
    """Convert a checkpoint into a copy of it, as a migration does."""
    before = read(source)
    made = convert(before, target, part_size=part_size)
    copy = parent / "converted"
    shutil.copytree(source, copy)
    optimizer_side.perform(made, copy)
    for name, content in optimizer_side.placed(made).contents(before).items():
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
        convert(read(sample(name)), OptimizerTarget(FLATTENED))


@pytest.mark.parametrize("name", ["0.13.1-idle-dopt", "0.17.1-idle-dopt"])
def test_stale_weights_are_refused(name: str) -> None:
    checkpoint = next((SAMPLES.parent / "samples" / name).glob("iter_*"))
    with pytest.raises(CkptMigrateError, match="the weights were changed after the save"):
        convert(read(checkpoint), OptimizerTarget(FLATTENED))


@pytest.mark.parametrize("target", TARGETS, ids=label)
def test_large_chunks_are_split_over_several_files(
    target: OptimizerTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_files, "LARGEST_CHUNK", 300)  # bytes
    name = "0.17.1-optim-tp2pp2-bf16-swiglu-tied"
    copy, made = write(sample(name), target, tmp_path, SMALLEST_PART)
    assert len(made.files) > 2
    assert max(made.sizes.values()) <= SMALLEST_PART
    assert max(blob.size for blobs in made.files.values() for blob in blobs) <= 300
    for (parameter, state), elements in optimizer_side.states(copy).items():
        expected = optimizer_side.expected(parameter, state, elements.shape)
        assert np.array_equal(elements, expected), (parameter, state)


@pytest.mark.parametrize("name", INTACT)
def test_swapped_moments_are_not_those_expected(name: str, tmp_path: Path) -> None:
    """The comparison of these tests sees what it is meant to see."""
    copy, _ = write(sample(name), OptimizerTarget(RESHARDABLE), tmp_path)
    found = optimizer_side.states(copy)
    for parameter in {parameter for parameter, _ in found}:
        swapped = found[parameter, "exp_avg_sq"]
        expected = optimizer_side.expected(parameter, "exp_avg", swapped.shape)
        assert not np.array_equal(swapped, expected)


@pytest.mark.parametrize("name", INTACT)
def test_weights_are_the_main_parameters(name: str) -> None:
    found = compare(read(sample(name)))
    assert not found.is_damaged and found.compared == found.cells > 0


@pytest.mark.parametrize("count", [1, 5])
def test_a_sample_of_the_weights_is_compared(count: int) -> None:
    found = compare(read(sample("0.20.dev0-optim-dp2-fr")), count)
    assert (found.compared, found.is_damaged) == (count, False)
    found = compare(read(sample(DAMAGED[0])), count)
    assert found.compared == count


def test_the_damage_is_counted() -> None:
    """In the damaged sample, all parameters are shifted but those before the first padding."""
    found = compare(read(sample(DAMAGED[0])))
    assert found.is_damaged
    intact = {"output_layer.weight", "decoder.final_layernorm.bias"}
    assert not intact & set(found.differing)


@pytest.mark.parametrize("name", sorted(INDEX))
def test_the_summary_is_that_of_the_index(name: str) -> None:
    found = describe(read(sample(name)))
    assert found is not None
    assert found.type == INDEX[name]["sharding"]
    if found.parameters is not None:
        assert found.elements == INDEX[name]["elements"]


def test_arguments_that_make_several_buckets() -> None:
    found = read(sample(DAMAGED[0]))
    assert may_be_damaged(found)
    assert has_several_buckets(found) is False  # its job set buckets by hand
    arguments = found.common.arguments
    assert isinstance(arguments, dict)
    for changed in (
        {"overlap_grad_reduce": True},
        {"pipeline_model_parallel_size": 2, "untie_embeddings_and_output_weights": False},
        {"pipeline_model_parallel_size": 2, "mtp_num_layers": 1},
    ):
        values = {**found.common.values, "args": {**arguments, **changed}}
        changed_job = replace(found, common=replace(found.common, values=values))
        assert has_several_buckets(changed_job) is True
    values = {**found.common.values, "args": None}
    without = replace(found, common=replace(found.common, values=values))
    assert has_several_buckets(without) is None


@pytest.mark.parametrize(
    "name", ["0.10.0-optim-dp2", "0.13.1-optim-tp2dp2", "0.17.1-optim-moe-ep2"]
)
def test_a_large_metadata_file_is_edited_in_the_same_way(name: str) -> None:
    data = (sample(name) / ".metadata").read_bytes()
    whole = read(sample(name))
    by_rows = replace(whole, metadata=metadata_file.read(data, threshold=1))
    assert type(by_rows.metadata) is not type(whole.metadata)
    for target in TARGETS:
        one, other = (convert(each, target) for each in (whole, by_rows))
        assert one.files == other.files
        assert equal(one.manifest.metadata.whole().tree, other.manifest.metadata.whole().tree)


@pytest.mark.parametrize("name", ["0.10.0-optim-dp2", "0.17.1-optim-dp2"])
def test_progress_counts_what_is_read_and_written(name: str, tmp_path: Path) -> None:
    seen: list[int] = []
    made = convert(read(sample(name)), OptimizerTarget(RESHARDABLE), seen.append)
    # Main parameters and weights, 4 bytes per element each.
    assert sum(seen) == INDEX[name]["elements"] // 3 * 4 * 2
    written: list[int] = []
    optimizer_side.perform(made, tmp_path, written.append)
    assert sum(written) == sum(made.sizes.values())
    assert made.read_size == INDEX[name]["elements"] * 4


@pytest.mark.parametrize("sizes", [(0, 0), (1, 0), (0, 5), (7, 1), (300, 4096), (5, 70_001)])
def test_the_checksum_of_joined_bytes_is_that_of_zlib(sizes: tuple[int, int]) -> None:
    first, second = (bytes(range(1, 252)) * 300)[: sizes[0]], (bytes(range(251)) * 300)[: sizes[1]]
    found = checksums.joined(zlib.crc32(first), zlib.crc32(second), len(second))
    assert found == zlib.crc32(first + second)
