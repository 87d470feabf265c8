"""Adapters without a base model: `check` says yes to none, and `inspect` says what they need.

cases/lora-adapter is laid out as Megatron-Bridge saves LoRA. The keys of the other forms are those
that the frameworks write (the sources are in checkpoint/adapters.py).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch_side
from conftest import Run, checkpoint_of
from test_check import ask, read

from ckptmigrate.checkpoint import adapters
from ckptmigrate.releases.check_answer import CheckAnswer

Copy = Callable[[str], Path]
CASE = Path(__file__).parent / "cases" / "lora-adapter" / "run"
SAMPLE = "0.17.1-idle-w1"
PROJ, QKV = (f"decoder.layers.self_attention.linear_{name}" for name in ("proj", "qkv"))
FC1 = "decoder.layers.mlp.linear_fc1"
BRIDGE, SWIFT = "Megatron-Bridge or NeMo 2", "ms-swift"
# The keys of the tensors of a checkpoint -> its frameworks, adapters and other tensors.
ALONE: dict[str, tuple[tuple[str, ...], str, int, int]] = {
    "bridge": (
        (f"{PROJ}.adapter.linear_in.weight", f"{PROJ}.adapter.linear_out.weight"), BRIDGE, 2, 0,
    ),
    "canonical": (
        tuple(f"{QKV}.adapter.adapter_{part}.linear_in.weight" for part in "qkv"), BRIDGE, 3, 0,
    ),
    "dora": ((f"{FC1}.adapter.weight_magnitude",), BRIDGE, 1, 0),
    "multi": (
        tuple(f"{PROJ}.adapters.{slot}.linear_in.weight" for slot in (0, 1)), BRIDGE, 2, 0,
    ),
    "nemo": ((f"module.{QKV}.adapter.linear_in.weight",), BRIDGE, 1, 0),
    "experts": (
        ("decoder.layers.mlp.experts.experts.linear_fc1.adapter.linear_in.weight",), BRIDGE, 1, 0,
    ),
    "bridge and a norm": (
        (f"{PROJ}.adapter.linear_in.weight", "decoder.final_layernorm.weight"), BRIDGE, 1, 1,
    ),
    "swift": (
        (f"{PROJ}.lora_A.default.weight", f"{PROJ}.lora_B.default.weight"), SWIFT, 2, 0,
    ),
    "swift and a head": (
        (f"{QKV}.lora_A.default.weight", "output_layer.modules_to_save.default.weight"),
        SWIFT, 2, 0,
    ),
    "with optimizer": (
        (f"{QKV}.lora_A.default.weight", f"optimizer.state.exp_avg.{QKV}.lora_A.default.weight",
         f"chained_0.optimizer.state.exp_avg.{QKV}.weight"), SWIFT, 1, 0,
    ),
}  # fmt: skip
# The keys of checkpoints that have a base model, or no adapters.
WHOLE = {
    "plain": (f"{PROJ}.weight", f"{QKV}.weight"),
    "bridge": (f"{PROJ}.weight", f"{PROJ}.adapter.linear_in.weight"),
    "swift": (f"{PROJ}.base_layer.weight", f"{PROJ}.lora_A.default.weight"),
    "a layer of that name": ("adapter.weight", f"{FC1}.weight"),
    "no layers": ("vision_model.conv1.weight", "adapters_of_another_kind.weight"),
}


def with_tensors(root: Path, keys: Iterable[str]) -> None:
    """Leave only tensors of these keys in a copy of SAMPLE, with the bytes of others."""

    def change(metadata: Any) -> None:
        model = [k for k in metadata.state_dict_metadata if "/shard_" not in k]
        wanted = tuple(keys)
        torch_side.drop(metadata, model[len(wanted) :])
        torch_side.rename(metadata, dict(zip(model, wanted, strict=False)))

    torch_side.edit_metadata(root, change)


@pytest.mark.parametrize("form", ALONE)
def test_adapters_alone(copy: Copy, form: str) -> None:
    keys, frameworks, tensors, others = ALONE[form]
    root = copy(SAMPLE)
    with_tensors(root, keys)
    found = read(root)
    summary = adapters.find(found.manifest.metadata.entries)
    assert summary is not None
    assert (summary.form.frameworks, summary.tensors, summary.others) == (
        frameworks,
        tensors,
        others,
    )
    for release in ("0.16.1", "0.17.1", "0.18.2"):
        verdict = ask(found, release)
        assert verdict.answer is CheckAnswer.CONDITIONAL
        assert not verdict.resumes
        assert verdict.needs == (summary.need,)


@pytest.mark.parametrize("form", WHOLE)
def test_a_base_model_needs_nothing(copy: Copy, form: str) -> None:
    root = copy(SAMPLE)
    with_tensors(root, WHOLE[form])
    found = read(root)
    assert adapters.find(found.manifest.metadata.entries) is None
    assert ask(found, "0.17.1").answer is CheckAnswer.YES


def test_long_keys_take_no_time() -> None:
    begun = time.process_time()
    for part in ("linear_", ".linear_", "dense", ".adapter", "lora_A", "linear_fc1.base_layer."):
        adapters.find([part * 100_000, f".{part}" * 100_000])
    assert time.process_time() - begun < 2


def test_the_case(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(CASE, root)
    need = "the job has to load the base checkpoint, too, from checkpoint.pretrained_checkpoint"
    inspected = run("inspect", root)
    assert inspected.returncode == 0
    assert "iter_0000005: adapters alone, " in inspected.stdout
    assert need in inspected.stdout
    found = json.loads(run("inspect", root, "--json").stdout)["adapters"]
    assert (found["frameworks"], found["tensors"], found["others"]) == (BRIDGE, 2, 0)
    assert need in found["needs"]

    checked = run("check", root, "--reader", "0.16")
    assert checked.returncode == 1
    assert checked.stdout.startswith("Megatron-Core 0.16.1 can resume only under a condition from")
    assert f"needs: {found['needs']}" in checked.stdout
    told = json.loads(run("check", root, "--reader", "0.16", "--json").stdout)
    assert (told["resumes"], told["answer"], told["needs"]) == (
        False,
        "conditional",
        [found["needs"]],
    )
    assert told["fix"] == {"command": None, "flags": [], "reason": None}
    every = run("check", root)
    assert "0 of 12 releases resume" in every.stdout
    assert every.stdout.count(found["needs"]) == 1
    assert "  0.16.1       conditional" in every.stdout
    # A reason to fail comes before the condition.
    assert "  0.11.0       no: RuntimeError" in every.stdout

    for words in (("--dry-run",), ("--native", "-o", tmp_path / "out")):
        done = run("downgrade", root, "--to", "0.16", *words)
        assert done.returncode == 0
        assert need in done.stdout
    report = tmp_path / "report.md"
    assert run("check", root, "--reader", "0.16", "--report", report).returncode == 1
    assert "0.16.1 (torch 2.13.0): conditional" in report.read_text()


def test_a_condition_of_a_batch(run: Run, copy: Copy, tmp_path: Path) -> None:
    root = copy(SAMPLE)
    shutil.copytree(checkpoint_of(CASE), root / "iter_0000004")
    done = run("check", root, "--all", "--reader", "0.16")
    assert done.returncode == 1
    assert "conditional: the checkpoint contains adapters alone" in done.stdout
