"""The settings of a converted optimizer: common state, param_groups, keys and every table."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import optimizer_side
import pytest
import torch
import torch_side
from packaging.version import Version
from test_optimizer_conversion import (
    FLATTENED,
    INTACT,
    RESHARDABLE,
    SAMPLES,
    label,
    read,
    sample,
    write,
)
from test_optimizer_sources import edited
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from ckptmigrate.checks.verification import verify_one
from ckptmigrate.errors import RefusedError
from ckptmigrate.optimizer import meaning
from ckptmigrate.optimizer.resharding import convert
from ckptmigrate.optimizer.target import OptimizerTarget

OLD, NEW = (
    OptimizerTarget(FLATTENED, Version("0.10")),
    OptimizerTarget(RESHARDABLE, Version("0.19")),
)
MIDDLE = OptimizerTarget(FLATTENED, Version("0.13"))


@pytest.mark.parametrize("target", [OLD, NEW], ids=label)
@pytest.mark.parametrize("name", INTACT)
def test_settings_and_tables(name: str, target: OptimizerTarget, tmp_path: Path) -> None:
    """The groups are those of the writer; every table has every key; `verify` finds no problem."""
    copy, made = write(sample(name), target, tmp_path)
    common = optimizer_side.common(copy)
    written = json.loads((SAMPLES / name / "writer.json").read_text())["groups"]
    states = common["optimizer"]
    states = [states[number] for number in sorted(states)] if 0 in states else [states]
    for state, groups in zip(states, written, strict=True):
        assert state["param_state_sharding_type"] == target.type
        found = state["optimizer"]["param_groups"]
        expected = json.loads(json.dumps(groups))
        for group in expected:
            group.pop("default_config", None)
            if target is NEW:
                group["default_config"] = True
        assert [{**group, "betas": list(group["betas"])} for group in found] == expected
    content = common.get("content_metadata")
    assert (content or {}).get("distrib_optim_sharding_type") == (
        target.type if target is NEW else None
    )
    assert target is NEW or common["args"].ckpt_fully_parallel_save is True

    tables = optimizer_side.metadata(copy)
    keys = set(tables.state_dict_metadata)
    assert {index.fqn for index in tables.storage_data} == keys
    if tables.planner_data:
        assert set(tables.planner_data) == keys
    tensors = {k for k, e in tables.state_dict_metadata.items() if hasattr(e, "chunks")}
    shapes = getattr(tables, "mcore_data", {})
    if target is OLD:
        assert set(shapes) == tensors
    assert set(shapes) <= tensors
    for key, row in shapes.items():
        parameter = key.partition("optimizer.state.")[2].partition(".")[2]
        reshaped = "optimizer.state." in key and len(tables.state_dict_metadata[parameter].size) > 1
        if target is OLD and reshaped:
            assert row == {
                "nd_reformulated_orig_global_shape": tuple(
                    tables.state_dict_metadata[parameter].size
                )
            }
        else:
            assert row == {}
    assert not any("optimizer.distributed" in key for key in keys)
    old = {f.code for f in verify_one(sample(name)).findings}
    new = {f.code for f in verify_one(copy).findings}
    # Without a migration history, nothing shows that the states were compared with the weights.
    assert new - old <= {"orphan-bytes", "optimizer-suspect"}
    assert sum(made.sizes.values()) == sum((copy / file).stat().st_size for file in made.files)


@pytest.mark.parametrize("name", INTACT)
def test_save_plans_name_every_chunk(name: str, tmp_path: Path) -> None:
    copy, _ = write(sample(name), NEW, tmp_path)
    found = optimizer_side.metadata(copy)
    plans = getattr(found, "all_local_plans", None)
    if plans is None:
        return
    planned = [item.index for plan in plans for item in plan.items]
    assert len(planned) == len(set(planned))
    assert set(planned) == set(found.storage_data)
    for plan in plans:
        rows = getattr(plan, "mcore_data", None)
        if rows:
            assert set(rows) <= {item.index.fqn for item in plan.items}


@pytest.mark.parametrize("name", ["0.14.0-optim-moe-ep2", "0.17.1-optim-moe-ep2"])
def test_several_optimizers_have_a_prefix_up_to_0_13(name: str, tmp_path: Path) -> None:
    for number, target in enumerate((MIDDLE, NEW, OptimizerTarget(FLATTENED, Version("0.14")))):
        folder = tmp_path / str(number)
        folder.mkdir()
        copy, _ = write(sample(name), target, folder)
        keys = [
            key
            for key in optimizer_side.metadata(copy).state_dict_metadata
            if "optimizer.state." in key
        ]
        for key in keys:
            prefix = f"chained_{int('.experts.' in key)}." if target is MIDDLE else ""
            assert key.startswith(f"{prefix}optimizer.state.")


# -- param_groups


def with_groups(name: str, groups: list[dict[str, Any]]) -> Any:
    """Return a sample whose common state has other param_groups."""
    found = read(sample(name))
    state = dict(found.common.values["optimizer"])
    state["optimizer"] = {"param_groups": groups}
    values = {**found.common.values, "optimizer": state}
    return replace(found, common=replace(found.common, values=values))


def groups_of(found: Any, target: OptimizerTarget) -> list[dict[str, Any]]:
    made = convert(found, target)
    groups: list[dict[str, Any]] = made.manifest.common.values["optimizer"]["optimizer"][
        "param_groups"
    ]
    return groups


def group(**fields: Any) -> dict[str, Any]:
    plain = {"wd_mult": 1.0, "lr_mult": 1.0, "is_expert_parallel": False, "is_decoupled_lr": False}
    return {**plain, "lr": 0.1, "step": 7, **fields}


def test_a_decoupled_learning_rate_is_an_override_from_0_16() -> None:
    found = with_groups("0.13.1-optim-dp2", [group(), group(is_decoupled_lr=True, lr=0.2)])
    plain, decoupled = groups_of(found, NEW)
    assert plain == {**group(), "default_config": True}
    assert decoupled == {**group(lr=0.2), "default_config": False, "is_decoupled_lr": False}


def test_an_override_is_a_decoupled_learning_rate_up_to_0_15() -> None:
    """Up to 0.13, the group of the embedding is first."""
    groups = [group(default_config=True), group(default_config=False, lr=0.2)]
    found = with_groups("0.20.dev0-optim-dp2-fr", groups)
    assert groups_of(found, MIDDLE) == [group(is_decoupled_lr=True, lr=0.2), group()]
    target = OptimizerTarget(FLATTENED, Version("0.14"))
    assert groups_of(found, target) == [group(), group(is_decoupled_lr=True, lr=0.2)]


def test_the_order_of_three_groups_up_to_0_13() -> None:
    """After the embedding, the layers of the sample start with a norm, which has no decay."""
    plain, no_decay = group(default_config=True), group(default_config=True, wd_mult=0.0)
    decoupled = group(default_config=False, lr=0.2)
    found = with_groups("0.20.dev0-optim-dp2-fr", [plain, no_decay, decoupled])
    assert groups_of(found, MIDDLE) == [
        group(is_decoupled_lr=True, lr=0.2),
        group(wd_mult=0.0),
        group(),
    ]
    attributes = {**found.metadata.attributes, "all_local_plans": None}
    planless = found.with_metadata(found.metadata._with(attributes))
    with pytest.raises(RefusedError, match="order of its param_groups"):
        convert(planless, MIDDLE)


def test_a_missing_step_is_that_of_the_other_groups() -> None:
    groups = [group(), group(wd_mult=0.0)]
    del groups[1]["step"]
    found = with_groups("0.13.1-optim-dp2", groups)
    assert [each["step"] for each in groups_of(found, NEW)] == [7, 7]


def test_without_a_release_the_groups_stay() -> None:
    groups = [group(), group(is_decoupled_lr=True)]
    found = with_groups("0.13.1-optim-dp2", groups)
    assert groups_of(found, OptimizerTarget(RESHARDABLE)) == groups


def test_the_loss_scaler_is_kept() -> None:
    found = read(sample("0.13.1-optim-dp2"))
    scaler = {"scale": 65536.0, "growth_tracker": 3, "hysteresis_tracker": 2}
    state = {**found.common.values["optimizer"], "grad_scaler": scaler}
    values = {**found.common.values, "optimizer": state}
    changed = replace(found, common=replace(found.common, values=values))
    made = convert(changed, NEW)
    assert made.manifest.common.values["optimizer"]["grad_scaler"] == scaler


# -- the bytes of a chunk


def test_a_chunk_is_written_as_torch_saves_it(tmp_path: Path) -> None:
    """The same pickle and storage, in a zip of the same size."""
    copy, _ = write(sample("0.13.1-optim-dp2"), NEW, tmp_path)
    found = optimizer_side.metadata(copy)
    for index, where in found.storage_data.items():
        if "optimizer.state" in index.fqn:
            data = (copy / where.relative_path).read_bytes()[where.offset :][: where.length]
            again = io.BytesIO()
            torch.save(torch.load(io.BytesIO(data), weights_only=True), again)
            ours, theirs = zipfile.ZipFile(io.BytesIO(data)), zipfile.ZipFile(again)
            assert set(ours.namelist()) <= set(theirs.namelist())
            for member in ("data.pkl", "data/0", "byteorder", "version"):
                assert ours.read(f"archive/{member}") == theirs.read(f"archive/{member}")
            assert ours.testzip() is None


@pytest.mark.parametrize("target", [FLATTENED, RESHARDABLE])
def test_the_tensors_of_a_loss_scaler_are_moved(target: str, tmp_path: Path) -> None:
    """From the sharded object of a rank to the common state, with their storages."""
    key = "optimizer.distributed.dp_group_idx_0.grad_scaler/shard_0_1"
    scaler = {"scale": torch.tensor([8192.0]), "growth_tracker": 3}

    def edit(metadata: Any) -> None:
        blob = io.BytesIO()
        torch.save([scaler], blob)
        (tmp_path / "edited" / "__0_7.distcp").write_bytes(blob.getvalue())
        metadata.state_dict_metadata[key] = BytesStorageMetadata()
        where = _StorageInfo("__0_7.distcp", 0, len(blob.getvalue()))
        metadata.storage_data[MetadataIndex(key)] = where

    source = edited("0.17.1-optim-dp2", tmp_path, edit)
    copy, _ = write(source, OptimizerTarget(target), tmp_path)
    assert torch_side.read_common(copy)["optimizer"]["grad_scaler"] == scaler
    differences = [str(each) for each in meaning.diff(read(source), read(copy), values=True)]
    assert not [each for each in differences if "grad_scaler" in each]
