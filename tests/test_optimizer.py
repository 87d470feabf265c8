"""Optimizer states that no metadata edit can make readable: recognised, told, a named loss.

No sample has these forms but for `0.13.1-idle-dopt`: the others are synthesized from samples,
and where a wheel of the release is there, it is asked what it makes of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_side
from conftest import HEALTHY, SAMPLES, Run, checkpoint_of, refused, tree_hash
from real_releases import run_parts
from test_check import ask, read
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

from ckptmigrate import migrate
from ckptmigrate.releases.job import Job
from ckptmigrate.versions import LAYOUTS
from ckptmigrate.versions.detection import Reading

Copy = Callable[[str], Path]
BIAS = "optimizer.state.exp_avg.decoder.final_layernorm.bias"
WEIGHT = "optimizer.state.exp_avg.output_layer.weight"
SHAPES = {BIAS: [16], WEIGHT: [32, 16]}


def obstacles(root: Path | Reading, release: str) -> list[str]:
    """What `check` says of the optimizer alone, by its flag."""
    root = read(root) if isinstance(root, Path) else root
    found = ask(root, release)
    assert all(not o.metadata_only for o in found.obstacles if o.flag == "--no-load-optim")
    without = ask(root, release, Job(no_load_optim=True))
    assert "--no-load-optim" not in [o.flag for o in without.obstacles]
    return [o.error for o in found.obstacles if o.flag == "--no-load-optim"]


# -- one dimension


@pytest.mark.parametrize("release", ["0.9.0", "0.10.0"])
def test_states_of_one_dimension_before_0_11(release: str) -> None:
    # As 0.10.0 itself says it: test_real_readers.FAILURES.
    assert obstacles(SAMPLES / "0.13.1-idle-dopt", release) == [
        "CheckpointingException: Global shape mismatch for loaded (torch.Size([1, 16])) and "
        f"expected ((16,)) tensor for key {BIAS}"
    ]


@pytest.mark.parametrize("release", ["0.11.0", "0.12.3", "0.13.1", "0.15.3"])
def test_states_of_one_dimension_from_0_11_on(release: str) -> None:
    assert obstacles(SAMPLES / "0.13.1-idle-dopt", release) == []


def as_0_10_wrote_it(root: Path, *sizes: int) -> None:
    """Synthesized: states of one dimension as 0.10 stores them, in pieces of these sizes."""

    def change(metadata: Any) -> None:
        for key, data in list(metadata.mcore_data.items()):
            if len(data.get("nd_reformulated_orig_global_shape", ())) != 1:
                continue
            del metadata.mcore_data[key]
            entry = metadata.state_dict_metadata[key]
            entry.size = torch.Size([sum(sizes)])
            starts = [sum(sizes[:number]) for number in range(len(sizes))]
            entry.chunks = [
                ChunkStorageMetadata(torch.Size([start]), torch.Size([size]))
                for start, size in zip(starts, sizes, strict=True)
            ]

    torch_side.edit_metadata(root, change)


def test_whole_states_of_0_10_are_read_by_all(copy: Copy) -> None:
    root = copy("0.13.1-idle-dopt")
    as_0_10_wrote_it(root, 16)
    found = read(root)
    for release in ("0.9.0", "0.10.0", "0.11.0", "0.15.3"):
        assert obstacles(found, release) == []


def test_cut_states_of_0_10_are_read_by_0_10_alone(copy: Copy) -> None:
    root = copy("0.13.1-idle-dopt")
    as_0_10_wrote_it(root, 4, 12)
    found = read(root)
    for release in ("0.9.0", "0.10.0"):
        assert obstacles(found, release) == []
    for release in ("0.11.0", "0.15.3"):
        [error] = obstacles(found, release)
        assert error == "RuntimeError: shape '[16]' is invalid for input of size 4"


@pytest.mark.parametrize("release", ["0.11.0", "0.15.3"])
def test_that_is_how_a_release_dies_of_cut_states(release: str, copy: Copy) -> None:
    root = copy("0.13.1-idle-dopt")
    as_0_10_wrote_it(root, 4, 12)
    asked = {"key": BIAS, "shape": [16], "range": [0, 4]}
    [told] = run_parts(release, {"checkpoint": str(checkpoint_of(root)), "flattened": asked})
    assert told == {"error": "RuntimeError: shape '[16]' is invalid for input of size 4"}


def test_entries_that_are_none(copy: Copy) -> None:
    """What cannot be a tensor's row tells nothing, and ends nothing."""
    root = copy("0.13.1-idle-dopt")
    as_0_10_wrote_it(root, 4, 12)

    def change(metadata: Any) -> None:
        for key, entry in metadata.state_dict_metadata.items():
            if "final_layernorm" in key:
                entry.chunks = 5 if key == BIAS else [7, None]
            if "word_embeddings" in key:
                metadata.state_dict_metadata[key] = "not in state_dict_metadata"

    torch_side.edit_metadata(root, change)
    assert obstacles(root, "0.11.0") == []


# -- several optimizers


def chain(root: Path, **content: Any) -> None:
    """Synthesized: the common part of two optimizers, as MoE has them."""

    def change(state: dict[str, Any]) -> None:
        state["optimizer"] = {0: state["optimizer"], 1: dict(state["optimizer"])}
        state["content_metadata"].update(content)

    torch_side.edit_common(root, change)


@pytest.mark.parametrize(
    ("sample", "content", "flattened", "error"),
    [
        ("0.14.0-idle-w1", {}, False, 'KeyError: "chained_0.optimizer.state.'),
        (
            "0.13.1-idle-dopt",
            {"chained_optim_avoid_prefix": True},
            True,
            "CheckpointingException: Cannot find global shape metadata for N-D flattened tensor "
            "ShardedTensor(key='chained_",
        ),
    ],
)
def test_keys_without_the_prefix(
    sample: str, content: dict[str, Any], flattened: bool, error: str, copy: Copy
) -> None:
    root = copy(sample)
    chain(root, **content)
    asked = {"parameters": SHAPES, "flattened": flattened}
    job = {"checkpoint": str(checkpoint_of(root)), "chained": asked}
    found = read(root)
    for release in ("0.12.3", "0.13.1"):
        [predicted] = obstacles(found, release)
        assert predicted.startswith(error)
        [told] = run_parts(release, job)
        assert told["error"].startswith(error)
    for release in ("0.14.0", "0.15.3"):
        assert obstacles(found, release) == []
        [told] = run_parts(release, job)
        assert told == {"keys": [BIAS, WEIGHT]}


def test_keys_with_the_prefix_are_asked_for_by_all(copy: Copy) -> None:
    """Through 0.13, and later for sharding types that are not fully reshardable."""
    root = copy("0.13.1-idle-tp2")
    chain(root)
    keys = torch_side.read(checkpoint_of(root)).tensors
    names = {
        key: f"chained_{number % 2}.{key}"
        for number, key in enumerate(key for key in keys if key.startswith("optimizer."))
    }
    torch_side.edit_metadata(root, lambda metadata: torch_side.rename(metadata, names))
    found = read(root)
    for release in ("0.9.0", "0.12.3", "0.13.1", "0.14.0", "0.16.1", "0.19.0"):
        assert obstacles(found, release) == []


@pytest.mark.parametrize("sample", HEALTHY)
def test_one_optimizer_is_no_chain(sample: str) -> None:
    for release in ("0.9.0", "0.13.1", "0.19.0"):
        assert not [error for error in obstacles(SAMPLES / sample, release) if "chained" in error]


def test_it_is_a_named_loss(copy: Copy, run: Run, tmp_path: Path) -> None:
    root = copy("0.14.0-idle-w1")
    chain(root)
    before = tree_hash(root)
    arguments = ("downgrade", root, "--to", "0.11.0", "-o", tmp_path / "out")
    refused(run(*arguments), "several optimizers (MoE)", "--allow-loss optimizer-state")
    done = run(*arguments, "--allow-loss", "optimizer-state")
    assert done.returncode == 0, done.stderr
    # All else is as 0.11 needs it, and the way back is the original.
    assert ask(tmp_path / "out", "0.11.0", Job(no_load_optim=True)).resumes
    assert not ask(tmp_path / "out", "0.11.0").resumes
    migrate(tmp_path / "out", to=LAYOUTS[3].ID, output=tmp_path / "back")
    assert tree_hash(tmp_path / "back") == before


def test_states_of_one_dimension_are_a_named_loss(run: Run, tmp_path: Path) -> None:
    source = SAMPLES / "0.13.1-idle-dopt"
    arguments = ("downgrade", source, "--to", "0.10.0", "-o", tmp_path / "out")
    refused(run(*arguments), "one dimension", "--no-load-optim", "--allow-loss optimizer-state")
    done = run(*arguments, "--allow-loss", "optimizer-state")
    assert done.returncode == 0, done.stderr
    assert ask(tmp_path / "out", "0.10.0", Job(no_load_optim=True)).resumes
    migrate(tmp_path / "out", to="split-rerun", output=tmp_path / "back")
    assert tree_hash(tmp_path / "back") == tree_hash(source)
