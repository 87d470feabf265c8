"""Optimizers that are not converted: damaged, incomplete, contradictory or of another kind."""

from __future__ import annotations

import io
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optimizer_side
import pytest
import torch
import torch_side
from test_optimizer_conversion import FLATTENED, RESHARDABLE, read, sample
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from ckptmigrate.errors import CkptMigrateError, DamagedError, RefusedError
from ckptmigrate.optimizer.resharding import convert
from ckptmigrate.optimizer.target import OptimizerTarget

DP_RESHARDABLE, DP_ZERO = "0.17.1-optim-dp2", "0.14.0-optim-tp2-dpzero"
FLAT, FULL = "0.13.1-optim-tp2dp2", "0.20.dev0-optim-dp2-fr"
TIED = "0.17.1-optim-tp2pp2-bf16-swiglu-tied"
Edit = Callable[[Any], None]


def edited(name: str, parent: Path, edit: Edit) -> Path:
    """Return a copy of a sample with its `.metadata` edited, as torch's classes, without plans."""
    copy = parent / "edited"
    shutil.copytree(sample(name), copy)
    found = optimizer_side.metadata(copy)
    plain = torch.distributed.checkpoint.metadata.Metadata(
        found.state_dict_metadata, None, found.storage_data, found.storage_meta
    )
    if hasattr(found, "mcore_data"):
        plain.mcore_data = found.mcore_data
    edit(plain)
    (copy / ".metadata").write_bytes(pickle.dumps(plain, protocol=4))
    return copy


def refuse(checkpoint: Path, message: str, kind: type[CkptMigrateError] = DamagedError) -> None:
    """Assert that neither target is planned, with an error that has a fix."""
    for type_ in (FLATTENED, RESHARDABLE):
        with pytest.raises(kind, match=message) as caught:
            convert(read(checkpoint), OptimizerTarget(type_))
        assert caught.value.fix


def test_an_edit_that_changes_nothing_is_converted(tmp_path: Path) -> None:
    """The controls below fail because of what they edit, not because of how."""
    for number, name in enumerate((DP_RESHARDABLE, DP_ZERO, FLAT, FULL, TIED)):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = convert(read(edited(name, folder, lambda found: None)), OptimizerTarget(RESHARDABLE))
        assert made.files


# -- tables


def first_key(found: Any, *parts: str) -> str:
    return next(
        key
        for key, entry in found.state_dict_metadata.items()
        if all(part in key for part in parts) and isinstance(entry, TensorStorageMetadata)
    )


def remove_chunk(found: Any, key: str) -> None:
    entry = found.state_dict_metadata[key]
    gone = entry.chunks.pop()
    del found.storage_data[MetadataIndex(key, gone.offsets)]


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        (DP_RESHARDABLE, "bucket_idx_0.exp_avg", "elements"),
        (FLAT, "exp_avg.decoder.layers.mlp.linear_fc2.weight", "elements of"),
        (FULL, "exp_avg.decoder.layers.mlp.linear_fc2.weight", "has other chunks than"),
    ],
)
def test_a_hole_is_an_error(name: str, part: str, message: str, tmp_path: Path) -> None:
    def edit(found: Any) -> None:
        remove_chunk(found, first_key(found, part))

    refuse(edited(name, tmp_path, edit), message)


@pytest.mark.parametrize("name", [DP_RESHARDABLE, FLAT, FULL])
def test_a_missing_state_is_an_error(name: str, tmp_path: Path) -> None:
    def edit(found: Any) -> None:
        key = first_key(found, "optimizer.", "exp_avg_sq")
        del found.state_dict_metadata[key]
        for index in [index for index in found.storage_data if index.fqn == key]:
            del found.storage_data[index]

    refuse(edited(name, tmp_path, edit), "has no exp_avg_sq|different states")


def rename(found: Any, key: str, new: str) -> None:
    found.state_dict_metadata[new] = found.state_dict_metadata.pop(key)
    for index in [index for index in found.storage_data if index.fqn == key]:
        where = found.storage_data.pop(index)
        found.storage_data[replace(index, fqn=new)] = where


@pytest.mark.parametrize("name", [DP_RESHARDABLE, FLAT, FULL])
def test_an_unknown_state_is_an_error(name: str, tmp_path: Path) -> None:
    def edit(found: Any) -> None:
        key = first_key(found, "optimizer.", "exp_avg_sq")
        rename(found, key, key.replace("exp_avg_sq", "max_exp_avg_sq"))

    refuse(edited(name, tmp_path, edit), "max_exp_avg_sq, which is unknown")


@pytest.mark.parametrize("name", [FLAT, FULL])
def test_states_of_no_parameter_are_an_error(name: str, tmp_path: Path) -> None:
    def edit(found: Any) -> None:
        key = first_key(found, "output_layer.weight")
        rename(found, "output_layer.weight", "elsewhere.weight")
        assert key

    refuse(edited(name, tmp_path, edit), "output_layer.weight, which is not in the checkpoint")


@pytest.mark.parametrize("name", [DP_RESHARDABLE, DP_ZERO])
def test_a_weight_without_a_range_is_an_error(name: str, tmp_path: Path) -> None:
    """A weight that nothing in the optimizer matches, beside those that are matched."""

    def edit(found: Any) -> None:
        blob = io.BytesIO()
        torch.save(torch.arange(100.0), blob)
        size = torch.Size([100])
        chunk = ChunkStorageMetadata(torch.Size([0]), size)
        model = found.state_dict_metadata["output_layer.weight"]
        found.state_dict_metadata["another.bias"] = replace(model, size=size, chunks=[chunk])
        where = _StorageInfo("__0_7.distcp", 0, len(blob.getvalue()))
        found.storage_data[MetadataIndex("another.bias", torch.Size([0]))] = where
        (tmp_path / "edited" / "__0_7.distcp").write_bytes(blob.getvalue())

    refuse(edited(name, tmp_path, edit), "no range has the main parameters of another.bias")


def test_a_border_that_is_moved_by_64_elements_is_an_error(tmp_path: Path) -> None:
    """Two neighbors of a bucket are cut again: the same elements in order, with another border."""

    original = sample(DP_RESHARDABLE)
    all_chunks = optimizer_side.chunks(original, optimizer_side.metadata(original))

    def edit(found: Any) -> None:
        data = b""
        for state in ("param", "exp_avg", "exp_avg_sq"):
            key = first_key(found, f"bucket_idx_3.{state}")
            loaded = all_chunks[key]
            first, second = sorted(loaded)[1:3]
            whole = torch.cat([loaded[first], loaded[second]])
            moved = (second[0] - 64,)
            parts = {first: whole[: moved[0] - first[0]], moved: whole[moved[0] - first[0] :]}
            entry = found.state_dict_metadata[key]
            kept = [c for c in entry.chunks if tuple(c.offsets) not in (first, second)]
            for at in (first, second):
                del found.storage_data[MetadataIndex(key, torch.Size(at))]
            for at, tensor in parts.items():
                blob = io.BytesIO()
                torch.save(tensor.clone(), blob)
                where = _StorageInfo("__0_7.distcp", len(data), len(blob.getvalue()))
                found.storage_data[MetadataIndex(key, torch.Size(at))] = where
                data += blob.getvalue()
                kept.append(ChunkStorageMetadata(torch.Size(at), tensor.shape))
            entry.chunks[:] = kept
        (tmp_path / "edited" / "__0_7.distcp").write_bytes(data)

    refuse(edited(DP_RESHARDABLE, tmp_path, edit), "no weight has the main parameters|is not cut")


def test_buckets_that_contradict_their_numbers_are_an_error(tmp_path: Path) -> None:
    def edit(found: Any) -> None:
        for state in ("param", "exp_avg", "exp_avg_sq"):
            key = first_key(found, f"bucket_idx_4.{state}")
            rename(found, key, key.replace("bucket_idx_4", "bucket_idx_5"))

    refuse(edited(DP_RESHARDABLE, tmp_path, edit), "per_bucket_numel")


@pytest.mark.parametrize("name", [DP_RESHARDABLE, DP_ZERO])
def test_a_missing_rank_is_an_error(name: str, tmp_path: Path) -> None:
    def edit(found: Any) -> None:
        for key in [k for k in found.state_dict_metadata if ".dp_group_idx_0." in k]:
            rename(found, key, key.replace(".dp_group_idx_0.", ".dp_group_idx_7."))

    refuse(edited(name, tmp_path, edit), "some are missing")


# -- bytes


def flip(checkpoint: Path, key: str) -> None:
    """Change one byte in the middle of the first chunk of a key."""
    found = optimizer_side.metadata(checkpoint)
    where = next(w for i, w in found.storage_data.items() if i.fqn == key)
    path = checkpoint / where.relative_path
    data = bytearray(path.read_bytes())
    with io.BytesIO(data[where.offset : where.offset + where.length]) as blob:
        stored = torch.load(blob, weights_only=True).contiguous().numpy().tobytes()
    data[data.index(stored, where.offset) + len(stored) // 2 // 4 * 4 + 2] ^= 0x41
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", [DP_RESHARDABLE, FLAT, FULL])
def test_changed_weights_are_an_error(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(sample(name), copy)
    flip(copy, "decoder.layers.mlp.linear_fc1.weight")
    refuse(copy, "the weights|damaged")


@pytest.mark.parametrize(
    ("name", "part"),
    [(DP_RESHARDABLE, "bucket_idx_2.exp_avg"), (FLAT, ".exp_avg."), (FULL, ".exp_avg.")],
)
def test_bytes_that_contradict_their_checksum_are_an_error(
    name: str, part: str, tmp_path: Path
) -> None:
    copy, out = tmp_path / "copy", tmp_path / "out"
    shutil.copytree(sample(name), copy)
    out.mkdir()
    flip(copy, first_key(optimizer_side.metadata(copy), part))
    made = convert(read(copy), OptimizerTarget(RESHARDABLE))
    with pytest.raises(DamagedError, match="other bytes than its checksum"):
        optimizer_side.perform(made, out)


def test_a_source_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    copy, out = tmp_path / "copy", tmp_path / "out"
    shutil.copytree(sample(FLAT), copy)
    out.mkdir()
    made = convert(read(copy), OptimizerTarget(RESHARDABLE))
    flip(copy, "optimizer.state.exp_avg.output_layer.weight")
    with pytest.raises(DamagedError, match="other bytes than its checksum"):
        optimizer_side.perform(made, out)


def test_a_truncated_data_file_is_an_error(tmp_path: Path) -> None:
    copy, out = tmp_path / "copy", tmp_path / "out"
    shutil.copytree(sample(FLAT), copy)
    out.mkdir()
    made = convert(read(copy), OptimizerTarget(RESHARDABLE))
    path = copy / "__0_0.distcp"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DamagedError, match="is truncated"):
        optimizer_side.perform(made, out)


# -- other kinds of optimizers


@pytest.mark.parametrize("name", ["0.13.1-idle-w1", "0.17.1-idle-w1", "0.9.0-idle-w1"])
def test_a_non_distributed_optimizer_is_named(name: str) -> None:
    checkpoint = next((optimizer_side.SAMPLES.parent / "samples" / name).glob("iter_*"))
    with pytest.raises(RefusedError, match="not distributed"):
        convert(read(checkpoint), OptimizerTarget(RESHARDABLE))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("use_precision_aware_optimizer", True),
        ("optimizer_cpu_offload", True),
        ("num_distributed_optimizer_instances", 2),
        ("use_megatron_fsdp", True),
        ("fp8_param_gather", True),
    ],
)
def test_what_content_cannot_tell_is_named(argument: str, value: Any) -> None:
    found = read(sample(DP_RESHARDABLE))
    arguments = found.common.arguments
    assert isinstance(arguments, dict)
    values = {**found.common.values, "args": {**arguments, argument: value}}
    changed = replace(found, common=replace(found.common, values=values))
    with pytest.raises(RefusedError, match=r"--|instances"):
        convert(changed, OptimizerTarget(FLATTENED))


@pytest.mark.parametrize("what", ["moe_grouped_gemm", "decoder.layers.0.mixer.in_proj.weight"])
def test_weights_that_a_release_stores_in_another_order_are_named(
    what: str, tmp_path: Path
) -> None:
    copy = tmp_path / "root" / "iter_0000005"
    shutil.copytree(sample(DP_RESHARDABLE), copy)
    flip(copy, "output_layer.weight")
    if what.startswith("decoder"):
        torch_side.edit_metadata(
            copy.parent, lambda metadata: torch_side.rename(metadata, {"output_layer.weight": what})
        )
    found = read(copy)
    arguments = found.common.arguments
    assert isinstance(arguments, dict)
    values = {**found.common.values, "args": {**arguments, what: True}}
    changed = replace(found, common=replace(found.common, values=values))
    with pytest.raises(RefusedError, match=r"Mamba|--moe-grouped-gemm"):
        convert(changed, OptimizerTarget(RESHARDABLE))


@pytest.mark.parametrize("types", [("dp_reshardable", None), ("dp_reshardable", FLATTENED)])
def test_mixtures_are_named(types: tuple[str | None, ...]) -> None:
    found = read(sample(DP_RESHARDABLE))
    states = {
        number: {"param_state_sharding_type": type_} if type_ else {"optimizer": {}}
        for number, type_ in enumerate(types)
    }
    values = {**found.common.values, "optimizer": states}
    changed = replace(found, common=replace(found.common, values=values))
    with pytest.raises(RefusedError, match=r"partly not distributed|mixes sharding types"):
        convert(changed, OptimizerTarget(FLATTENED))


def test_the_old_bucket_type_is_named() -> None:
    found = read(sample(DP_RESHARDABLE))
    state = {"param_state_sharding_type": "fully_sharded_bucket_space"}
    values = {**found.common.values, "optimizer": state}
    changed = replace(found, common=replace(found.common, values=values))
    with pytest.raises(RefusedError, match="fully_sharded_bucket_space"):
        convert(changed, OptimizerTarget(FLATTENED))
