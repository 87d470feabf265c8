"""The optimizer in `inspect`, `check`, `verify` and `repair`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optimizer_side
import pytest
import torch_side
from conftest import SAMPLES, Run, checkpoint_of, tree_hash
from test_schemas import printed

OPTIMIZER = optimizer_side.SAMPLES
INDEX: dict[str, dict[str, Any]] = json.loads((OPTIMIZER / "index.json").read_text())
DAMAGED, RISKY, FIXED = (
    "0.19.0-optim-dp2-fr-damaged",
    "0.15.3-optim-dp2-fr",
    "0.20.dev0-optim-dp2-fr",
)
FLATTENED, BY_BUCKET = "fully_sharded_model_space", "dp_reshardable"
# The releases that read each sharding type: OPTIMIZER.md section 1 as measured in raw_matrix.json.
READERS = {
    "0.10.0-optim-dp2": ("0.9.0", "0.15.3"),  # the plain form of one-dimensional states
    "0.13.1-optim-dp2": ("0.11.0", "0.15.3"),
    "0.15.3-optim-dp2-fr": ("0.15.3", "0.20.dev0"),
    "0.17.1-optim-dp2": ("0.15.3", "0.20.dev0"),
}
Copy = Callable[[str], Path]


@pytest.fixture
def root(tmp_path: Path) -> Copy:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(OPTIMIZER / name, tmp_path / name))

    return copy


# -- inspect


@pytest.mark.parametrize("name", sorted(INDEX))
def test_inspect_shows_the_optimizer(name: str, run: Run) -> None:
    row = INDEX[name]
    found = printed(run, "inspect", OPTIMIZER / name)["optimizer"]
    assert found["sharding_type"] == found["kind"] == row["sharding"]
    assert found["optimizers"] == (2 if row["experts"] else 1)
    assert found["dtypes"] == ["float32"]
    if found["parameters"] is not None:
        assert found["elements"] == row["elements"]
        assert found["bytes"] == 4 * row["elements"]
    assert (found["buckets"] is not None) == (row["sharding"] == BY_BUCKET)


@pytest.mark.parametrize("name", READERS)
def test_inspect_names_the_releases_that_read_the_optimizer(name: str, run: Run) -> None:
    first, last = READERS[name]
    found = printed(run, "inspect", OPTIMIZER / name)["optimizer"]["readers"]
    assert (found[0], found[-1]) == (first, last)
    assert f"read by Megatron-Core {first} to {last}" in run("inspect", OPTIMIZER / name).stdout


def kind(run: Run, root: Path, change: Callable[[dict[str, Any]], object]) -> Any:
    torch_side.edit_common(root, change)
    return printed(run, "inspect", root)["optimizer"]


def test_an_optimizer_that_is_not_distributed(copy: Copy, run: Run) -> None:
    root = copy("0.17.1-idle-w1")
    found = kind(run, root, lambda common: None)
    assert (found["sharding_type"], found["kind"]) == (None, "not distributed")
    found = kind(run, root, lambda common: setattr(common["args"], "optimizer", "dist_muon"))
    assert (found["sharding_type"], found["kind"]) == (None, "layer-wise (Muon)")


def test_a_mixture_of_optimizers(root: Copy, run: Run) -> None:
    def mix(common: dict[str, Any]) -> None:
        common["optimizer"] = {0: common["optimizer"], 1: {"optimizer": {"param_groups": []}}}

    found = kind(run, root("0.17.1-optim-dp2"), mix)
    assert found["sharding_type"] is None
    assert found["kind"] == "a mixture of dp_reshardable and not distributed"


def test_no_optimizer(root: Copy, run: Run) -> None:
    found = kind(run, root("0.17.1-optim-dp2"), lambda common: common.pop("optimizer"))
    assert found is None


# -- warnings from metadata alone


@pytest.mark.parametrize("name", sorted(INDEX))
def test_what_may_be_damaged_is_a_warning_everywhere(name: str, run: Run) -> None:
    """Only `fully_reshardable` optimizers of releases 0.15 to 0.19 may be damaged."""
    path = OPTIMIZER / name
    risky = name in (DAMAGED, RISKY)
    word = "the optimizer may be damaged"
    assert any(word in text for text in printed(run, "inspect", path)["anomalies"]) is risky
    release = "0.20.dev0" if name == FIXED else f"{INDEX[name]['release']}"
    found = json.loads(run("check", path, "--reader", release, "--json").stdout)
    assert any(word in text for text in found["warnings"]) is risky
    without = run("check", path, "--reader", release, "--no-load-optim", "--json").stdout
    assert json.loads(without)["warnings"] == []
    codes = {each["code"] for each in printed(run, "verify", path)["findings"]}
    assert ("optimizer-suspect" in codes) is risky


def test_the_warning_names_a_command_that_works(run: Run) -> None:
    result = run("check", OPTIMIZER / RISKY, "--reader", "0.15")
    assert result.returncode == 0
    [command] = [part for part in result.stdout.split("`") if part.startswith("ckptmigrate verify")]
    assert run(*command.split()[1:]).returncode == 0


def test_the_warning_states_several_buckets(root: Copy, run: Run) -> None:
    path = root(RISKY)
    torch_side.edit_common(
        path, lambda common: setattr(common["args"], "overlap_grad_reduce", True)
    )
    found = printed(run, "verify", path)["findings"]
    [what] = [each["what"] for each in found if each["code"] == "optimizer-suspect"]
    assert what.endswith("the job had several gradient buckets")


def test_a_converted_optimizer_is_not_a_risk(root: Copy, run: Run) -> None:
    """A conversion compares what it reads with the weights."""
    path = root("0.17.1-optim-dp2")
    assert (
        run("migrate", path, "--optimizer-type", "fully_reshardable", "--in-place").returncode == 0
    )
    assert not printed(run, "inspect", path)["anomalies"]
    (checkpoint_of(path) / "ckptmigrate.json").unlink()
    assert printed(run, "inspect", path)["anomalies"]


# -- verify --optimizer


@pytest.mark.parametrize("name", sorted(INDEX))
def test_verify_proves_or_excludes_the_damage(name: str, run: Run) -> None:
    damaged = INDEX[name]["damaged"]
    found = printed(run, "verify", OPTIMIZER / name, "--optimizer", status=int(damaged))
    codes = {each["code"] for each in found["findings"]}
    assert codes & {"optimizer-suspect", "optimizer-damaged"} == (
        {"optimizer-damaged"} if damaged else set()
    )
    [compared] = [each["optimizer"] for each in found["checkpoints"]]
    assert compared["compared"] == compared["parts"] > 0
    assert bool(compared["differing"]) is damaged


def test_the_parameters_that_differ_are_named(run: Run) -> None:
    """Those whose stored main parameters are not what the formula gives."""
    stored = optimizer_side.states(checkpoint_of(OPTIMIZER / DAMAGED))
    differing = {
        name
        for (name, state), values in stored.items()
        if state == "param"
        and not np.array_equal(values, optimizer_side.expected(name, state, values.shape))
    }
    found = printed(run, "verify", OPTIMIZER / DAMAGED, "--optimizer", status=1)
    assert set(found["checkpoints"][0]["optimizer"]["differing"]) == differing


@pytest.mark.parametrize("name", ["0.17.1-idle-dopt", "0.13.1-idle-dopt"])
def test_weights_that_are_not_those_of_the_optimizer(name: str, run: Run) -> None:
    """The job of these samples did not copy the main parameters to the weights."""
    found = printed(run, "verify", SAMPLES / name, "--optimizer", status=1)
    [error] = [each for each in found["findings"] if each["severity"] == "error"]
    assert error["code"] == "optimizer-damaged"
    assert "--no-load-optim" in error["remedy"]


def test_a_sample_keeps_the_warning(run: Run) -> None:
    found = printed(run, "verify", OPTIMIZER / RISKY, "--optimizer", "--sample", "3")
    codes = {each["code"] for each in found["findings"]}
    assert codes >= {"optimizer-suspect", "optimizer-sampled"}
    assert found["checkpoints"][0]["optimizer"]["compared"] == 3


def test_a_sample_needs_a_comparison(run: Run) -> None:
    result = run("verify", OPTIMIZER / RISKY, "--sample", "3")
    assert result.returncode == 2 and "--sample requires --optimizer" in result.stderr


# -- repair --drop-optimizer


@pytest.mark.parametrize("name", [DAMAGED, "0.13.1-optim-tp2dp2", "0.17.1-optim-moe-ep2"])
def test_the_optimizer_is_removed(name: str, root: Copy, run: Run) -> None:
    path = root(name)
    before = tree_hash(path)
    source = checkpoint_of(path)
    assert run("repair", path, "--drop-optimizer").returncode == 0
    assert tree_hash(path) == before
    result = checkpoint_of(path.with_name(f"{name}.repaired"))
    kept = {
        key: chunks
        for key, chunks in optimizer_side.chunks(source, optimizer_side.metadata(source)).items()
        if "optimizer." not in key
    }
    left = optimizer_side.metadata(result)
    after = optimizer_side.chunks(result, left)
    assert after.keys() == kept.keys()
    assert all(
        after[key][at].equal(tensor) for key, each in kept.items() for at, tensor in each.items()
    )
    assert not any("optimizer." in key for key in left.state_dict_metadata)
    assert not any("optimizer." in key for key in getattr(left, "mcore_data", {}))
    assert printed(run, "verify", result)["clean"]
    release = INDEX[name]["release"]
    refusal = run("check", result, "--reader", release)
    assert refusal.returncode == 1 and "KeyError: 'optimizer'" in refusal.stdout
    assert run("check", result, "--reader", release, "--no-load-optim").returncode == 0


def test_the_command_of_the_finding_removes_the_optimizer(root: Copy, run: Run) -> None:
    path = root(DAMAGED)
    found = printed(run, "verify", path, "--optimizer", status=1)["findings"]
    [remedy] = [each["remedy"] for each in found if each["code"] == "optimizer-damaged"]
    words = remedy.split("`")[1].split()
    assert run(*words[1:], "--in-place").returncode == 0
    assert printed(run, "inspect", path)["optimizer"] is None
    assert run("undo", path).returncode == 0
    assert printed(run, "inspect", path)["optimizer"]["sharding_type"] == "fully_reshardable"


def test_there_is_no_optimizer_to_remove(root: Copy, run: Run) -> None:
    path = root(DAMAGED)
    assert run("repair", path, "--drop-optimizer", "--in-place").returncode == 0
    again = run("repair", path, "--drop-optimizer", "--in-place")
    assert again.returncode == 1 and "has no optimizer" in again.stderr


# -- diff in meaning


def of_optimizer(run: Run, a: str, b: str, *options: str) -> list[tuple[str, str, str]]:
    found = printed(run, "diff", OPTIMIZER / a, OPTIMIZER / b, *options, status=1)["differences"]
    return [
        (each["sign"], each["name"], each["detail"])
        for each in found
        if each["part"] == "optimizer"
    ]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("0.13.1-optim-dp2", "0.17.1-optim-dp2"),
        ("0.13.1-optim-dp2", "0.13.1-optim-tp2dp2"),
        ("0.13.1-optim-tp2dp2", "0.19.0-optim-tp2dp2"),
        ("0.10.0-optim-dp2", "0.20.dev0-optim-dp2-fr"),
        ("0.14.0-optim-moe-ep2", "0.17.1-optim-moe-ep2"),
    ],
)
def test_equal_optimizers_of_different_types_and_sizes(a: str, b: str, run: Run) -> None:
    """The formula gives both the same elements; releases from 0.16 on add `default_config`."""
    found = of_optimizer(run, a, b, "--values")
    types = [INDEX[each]["sharding"] for each in (a, b)]
    assert [each for each in found if "default_config" not in each[1]] == (
        [("~", "sharding type", " -> ".join(types))] if types[0] != types[1] else []
    )


def test_every_element_that_differs_is_counted(run: Run) -> None:
    stored = optimizer_side.states(checkpoint_of(OPTIMIZER / DAMAGED))
    expected = {}
    for (name, state), values in stored.items():
        right = optimizer_side.expected(name, state, values.shape)
        count = int((values.view(np.uint32) != right.view(np.uint32)).sum())
        if count:
            expected[f"{name} {state}"] = f"{count} of {values.size} elements differ"
    found = of_optimizer(run, "0.17.1-optim-dp2", DAMAGED, "--values")
    assert {name: detail for _, name, detail in found if name != "sharding type"} == expected


def test_without_values_only_names_and_settings_are_compared(run: Run) -> None:
    found = of_optimizer(run, "0.17.1-optim-dp2", DAMAGED)
    assert found == [("~", "sharding type", "dp_reshardable -> fully_reshardable")]


def test_keys_of_different_types_are_not_listed(run: Run) -> None:
    a, b = OPTIMIZER / "0.13.1-optim-dp2", OPTIMIZER / "0.17.1-optim-dp2"
    found = printed(run, "diff", a, b, status=1)["differences"]
    entries = [each["name"] for each in found if each["part"] in ("entry", "payload", "plan")]
    assert not any("optimizer." in name for name in entries)
