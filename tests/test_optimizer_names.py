"""Names of parameters that are found by content: equal weights, copies on several ranks."""

from __future__ import annotations

import io
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optimizer_side
import pytest
import torch
from test_optimizer_conversion import FLATTENED, RESHARDABLE, read, sample, write
from test_optimizer_sources import edited
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import MetadataIndex

from ckptmigrate.errors import DamagedError, RefusedError
from ckptmigrate.optimizer.buffer_cells import Match, readings
from ckptmigrate.optimizer.resharding import convert
from ckptmigrate.optimizer.target import OptimizerTarget

SAMPLE = "0.17.1-optim-dp2"
ONES = np.ones(16, np.float32)
FIRST = "decoder.layers.self_attention.linear_qkv.layer_norm_weight"
SECOND = "decoder.layers.mlp.linear_fc1.layer_norm_weight"
TARGETS = [OptimizerTarget(FLATTENED), OptimizerTarget(RESHARDABLE)]


def changed(
    name: str, parent: Path, values: Mapping[bytes, bytes], *, keys: str = "", plans: bool = True
) -> Path:
    """Return a copy of a sample in which some chunks have other elements.

    Args:
        values: elements of a whole chunk, before -> after.
        keys: only in keys with this part.
        plans: whether the copy has save plans.
    """
    copy = parent / "changed"
    shutil.copytree(sample(name), copy)
    found = pickle.loads((copy / ".metadata").read_bytes())
    data = b""
    for key, chunks in optimizer_side.chunks(copy, found).items():
        for offsets, tensor in chunks.items():
            after = values.get(tensor.contiguous().view(torch.uint8).numpy().tobytes())
            if after is not None and keys in key:
                blob = io.BytesIO()
                torch.save(
                    torch.frombuffer(bytearray(after), dtype=tensor.dtype).reshape(tensor.shape),
                    blob,
                )
                where = _StorageInfo("__0_7.distcp", len(data), len(blob.getvalue()))
                found.storage_data[MetadataIndex(key, torch.Size(offsets))] = where
                data += blob.getvalue()
    assert data
    (copy / "__0_7.distcp").write_bytes(data)
    if not plans:
        found.all_local_plans = None
    (copy / ".metadata").write_bytes(pickle.dumps(found, protocol=4))
    return copy


def elements(name: str, state: str, layer: int) -> bytes:
    whole: Any = optimizer_side.expected(name, state, (2, 16))
    return bytes(whole[layer].tobytes())


def equal_norms(layers: tuple[int, ...]) -> dict[bytes, bytes]:
    """Return the main parameters of two norms of each layer, to be all ones."""
    return {
        elements(name, "param", layer): ONES.tobytes()
        for name in (FIRST, SECOND)
        for layer in layers
    }


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layers", [(0,), (0, 1)])
def test_equal_weights_are_told_apart_by_their_order(
    layers: tuple[int, ...], target: OptimizerTarget, tmp_path: Path
) -> None:
    """Norms that are all ones, as early in training in bf16, with different moments."""
    source = changed(SAMPLE, tmp_path, equal_norms(layers))
    copy, _ = write(source, target, tmp_path)
    for (name, state), found in optimizer_side.states(copy).items():
        expected = optimizer_side.expected(name, state, found.shape)
        if name in (FIRST, SECOND) and state == "param":
            expected[list(layers)] = 1.0
        assert np.array_equal(found, expected), (name, state)


def test_equal_weights_without_an_order_are_refused(tmp_path: Path) -> None:
    source = changed(SAMPLE, tmp_path, equal_norms((0,)), plans=False)
    with pytest.raises(RefusedError, match="several equal weights") as caught:
        convert(read(source), TARGETS[0])
    assert FIRST in caught.value.reason and SECOND in caught.value.reason


def test_equal_weights_beside_a_shared_embedding(tmp_path: Path) -> None:
    """The last stage registers its copy of the embedding last, and has no key for it."""
    norms = {FIRST: (1, 2), SECOND: (1, 2), "decoder.final_layernorm.weight": (0, 1)}
    values = {}
    for name, (layer, layers) in norms.items():
        whole: Any = optimizer_side.expected(name, "param", (layers, 16))
        before = torch.from_numpy(whole[layer])
        for dtype in (torch.float32, torch.bfloat16):
            one = torch.ones(16, dtype=dtype)
            cast = before.to(dtype).view(torch.uint8).numpy().tobytes()
            values[cast] = one.view(torch.uint8).numpy().tobytes()
    source = changed("0.17.1-optim-tp2pp2-bf16-swiglu-tied", tmp_path, values)
    copy, _ = write(source, TARGETS[1], tmp_path)
    for (name, state), found in optimizer_side.states(copy).items():
        expected = optimizer_side.expected(name, state, found.shape)
        if name in norms and state == "param":
            expected.reshape(-1, 16)[norms[name][0]] = 1.0
        assert np.array_equal(found, expected), (name, state)


@pytest.mark.parametrize("exchanged", [False, True])
def test_without_plans_the_keys_show_the_order(exchanged: bool, tmp_path: Path) -> None:
    """As up to 0.10; not if a weight that is found by its content contradicts it."""
    name = "0.14.0-optim-tp2-dpzero"
    names = (FIRST, SECOND)

    def edit(found: Any) -> None:
        data = b""
        for index, where in found.storage_data.items():
            blob = (sample(name) / where.relative_path).read_bytes()[where.offset :][: where.length]
            if "param_state/" in index.fqn:
                [state] = torch.load(io.BytesIO(blob), weights_only=True)
                [tensors] = state[0].values()
                main = tensors["param"].numpy().tobytes()
                for before, after in equal_norms((0,)).items():
                    main = main.replace(before, after)
                tensors["param"] = torch.frombuffer(bytearray(main), dtype=torch.float32)
                value: Any = [state]
            elif index.fqn in names and index.offset[0] == 0:
                value = torch.ones(1, 16)
            else:
                continue
            written = io.BytesIO()
            torch.save(value, written)
            size = len(written.getvalue())
            found.storage_data[index] = _StorageInfo("__0_7.distcp", len(data), size)
            data += written.getvalue()
        (tmp_path / "edited" / "__0_7.distcp").write_bytes(data)
        if exchanged:
            rows = found.state_dict_metadata
            moved = "decoder.layers.mlp.linear_fc2.weight"
            found.state_dict_metadata = {moved: rows.pop(moved), **rows}

    source = edited(name, tmp_path, edit)
    if exchanged:
        with pytest.raises(RefusedError, match="several equal weights"):
            convert(read(source), TARGETS[1])
        return
    copy, _ = write(source, TARGETS[1], tmp_path)
    for (key, state), found in optimizer_side.states(copy).items():
        expected = optimizer_side.expected(key, state, found.shape)
        if key in names and state == "param":
            expected[0] = 1.0
        assert np.array_equal(found, expected), (key, state)


def test_the_halves_of_a_gated_mlp_are_one_reading() -> None:
    """Whether they are one parameter with two cells, or two parameters in two buckets."""
    halves = [Match(512 * n, 512, (("fc1", (n, 0)),)) for n in (0, 1)]
    apart = Match(1088, 16, (("norm", (0,)),))
    steps = {
        0: [((halves[0],), 512), (tuple(halves), 1024)],
        512: [((halves[1],), 1024)],
        1024: [((), 1088)],
        1088: [((apart,), 1152)],
    }
    assert readings(steps) == [[*halves, apart]]
    other = Match(1024, 16, (("norm", (0,)),))
    assert len(readings({**steps, 1024: [((), 1088), ((other,), 1088)]})) == 2
    assert readings({0: [((halves[0],), 512)], 512: []}) == []


def test_equal_weights_with_equal_states_need_no_order(tmp_path: Path) -> None:
    values = equal_norms((0,))
    for state in ("exp_avg", "exp_avg_sq"):
        values[elements(SECOND, state, 0)] = elements(FIRST, state, 0)
    copy, _ = write(changed(SAMPLE, tmp_path, values, plans=False), TARGETS[1], tmp_path)
    found = optimizer_side.states(copy)
    for state in ("param", "exp_avg", "exp_avg_sq"):
        assert np.array_equal(found[FIRST, state][0], found[SECOND, state][0])
    assert np.array_equal(
        found[FIRST, "exp_avg"], optimizer_side.expected(FIRST, "exp_avg", (2, 16))
    )


@pytest.mark.parametrize("state", ["exp_avg", "exp_avg_sq"])
def test_copies_that_differ_are_reported(state: str, tmp_path: Path) -> None:
    """A bias that two tensor parallel ranks hold; the second copy of a moment is changed."""
    name = "decoder.layers.mlp.linear_fc2.bias"
    before = elements(name, state, 1)
    source = changed("0.19.0-optim-tp2dp2", tmp_path, {before: ONES.tobytes()}, keys="idx_1.gbuf")
    copy, made = write(source, TARGETS[1], tmp_path)
    assert [(each.name, each.states) for each in made.replicas] == [(name, (state,))]
    assert len(made.replicas[0].places) == 2
    found = optimizer_side.states(copy)[name, state]
    assert np.array_equal(found, optimizer_side.expected(name, state, found.shape))


def test_copies_that_are_equal_are_not_reported() -> None:
    made = convert(read(sample("0.19.0-optim-tp2dp2")), TARGETS[1])
    assert made.replicas == ()


def test_args_that_contradict_the_borders_are_refused() -> None:
    found = read(sample(SAMPLE))
    arguments = found.common.arguments
    assert isinstance(arguments, dict)
    values = {**found.common.values, "args": {**arguments, "data_parallel_size": 64}}
    wrong = replace(found, common=replace(found.common, values=values))
    with pytest.raises(Exception, match="is not cut at every"):
        convert(wrong, TARGETS[0])


@pytest.mark.parametrize("padding", [64, 128])
def test_padding_of_a_bucket_before_a_shared_embedding(padding: int, tmp_path: Path) -> None:
    """Up to 0.12 the bucket may be stored with its padding, which has no meaning."""
    name = "0.14.0-optim-tp2-dpzero"
    key = "optimizer.distributed.dp_group_idx_0.param_state/shard_0_1"

    def edit(found: Any) -> None:
        where = next(w for i, w in found.storage_data.items() if i.fqn == key)
        data = (sample(name) / where.relative_path).read_bytes()[where.offset :][: where.length]
        [state] = torch.load(io.BytesIO(data), weights_only=True)
        [tensors] = state[0].values()
        for name_ in ("param", "exp_avg", "exp_avg_sq"):
            # The first parameter, output_layer, has 256 elements and a bucket of its own.
            first, rest = tensors[name_][:256], tensors[name_][256:]
            tensors[name_] = torch.cat([first, torch.full((padding,), 7.0), rest])
        tensors["numel_unpadded"] += padding
        blob = io.BytesIO()
        torch.save([state], blob)
        (tmp_path / "edited" / "__0_7.distcp").write_bytes(blob.getvalue())
        index = next(i for i in found.storage_data if i.fqn == key)
        found.storage_data[index] = _StorageInfo("__0_7.distcp", 0, len(blob.getvalue()))

    found = read(edited(name, tmp_path, edit))
    with pytest.raises(DamagedError, match="no weight has the main parameters from element"):
        convert(found, TARGETS[0])  # 0.13 and later do not write it
    arguments = found.common.arguments
    assert isinstance(arguments, dict)
    sizes = {"pipeline_model_parallel_size": 2, "untie_embeddings_and_output_weights": False}
    values = {**found.common.values, "args": {**arguments, **sizes}}
    del values["content_metadata"]
    old = replace(found, common=replace(found.common, values=values))
    made = convert(old, TARGETS[1])
    (tmp_path / "out").mkdir()
    optimizer_side.perform(made, tmp_path / "out")
    plain = convert(read(sample(name)), TARGETS[1])
    (tmp_path / "plain").mkdir()
    optimizer_side.perform(plain, tmp_path / "plain")
    written = [
        [(folder / file).read_bytes() for file in each.files]
        for folder, each in ((tmp_path / "out", made), (tmp_path / "plain", plain))
    ]
    assert written[0] == written[1]
