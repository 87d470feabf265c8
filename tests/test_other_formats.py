"""Checkpoints of other formats: each is named, with the reason and the tool that converts it.

DCP checkpoints are written by the real torch. The names of the others are those that the releases,
DeepSpeed and nvidia-resiliency-ext write (see the sources in checkpoint/other_formats.py).
"""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from conftest import Run, checkpoint_of, refused
from real_releases import READERS
from test_sources import INSTALLED

from ckptmigrate import UnsupportedFormatError
from ckptmigrate.checkpoint import formats, other_formats
from ckptmigrate.storage.directories import LocalDirectory

Copy = Callable[[str], Path]


def files(*names: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")

    return make


def saved(**state: Any) -> Callable[[Path], None]:
    """A checkpoint that torch saves, in the nesting that Megatron passes to it."""

    def make(folder: Path) -> None:
        dcp.save({"model": {"w": torch.ones(3)}, **state}, checkpoint_id=folder, no_dist=True)

    return make


RNG = {"(0, 0)": [{"torch_rng_state": torch.ones(2)}]}
ARGS = argparse.Namespace
CONVERT = "--ckpt-convert-format torch_dist --ckpt-convert-save DIR"
LEGACY = f"--ckpt-format torch {CONVERT}"
# What a folder is made of -> what is said of it.
KINDS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "legacy": (files("mp_rank_00/model_optim_rng.pt"), ("legacy torch checkpoint", "TP 1", LEGACY)),
    "legacy-dist": (
        files(
            *(f"mp_rank_0{t}/{n}.pt" for t in (0, 1) for n in ("model_optim_rng", "distrib_optim"))
        ),
        ("legacy torch checkpoint", "TP 2)", "same parallel sizes", LEGACY),
    ),
    "legacy-pp": (
        files(*(f"mp_rank_{t:02d}_{p:03d}/model_optim_rng.pt" for t in (0, 1) for p in range(4))),
        ("legacy torch checkpoint", "TP 2 x PP or EP 4)", LEGACY),
    ),
    "legacy-ep": (
        files(
            *(
                f"mp_rank_{t:02d}_{p:03d}_{e:03d}/model_optim_rng.pt"
                for t, p, e in ((0, 0, 0), (1, 2, 7))
            )
        ),
        ("legacy torch checkpoint", "TP 2 x PP 3 x EP 8)", LEGACY),
    ),
    "legacy-empty": (lambda f: (f / "mp_rank_00").mkdir(), ("legacy torch checkpoint", LEGACY)),
    "legacy-rank": (files("distrib_optim.pt"), ("distrib_optim.pt of one rank", LEGACY)),
    "deepspeed": (
        files("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"),
        ("DeepSpeed checkpoint (mp_rank_00_model_states.pt)", "deepspeed_to_megatron.py"),
    ),
    "deepspeed-3": (
        files("zero_pp_rank_0_mp_rank_00_model_states.pt"),
        ("DeepSpeed checkpoint", "deepspeed_to_megatron.py"),
    ),
    "local": (
        files("iter_0000005_0_local.pt"),
        ("local checkpoint of nvidia-resiliency-ext (iter_0000005_0_local.pt)", "global"),
    ),
    "local-root": (
        files("node-001/session/3/iter_0000005_3_local.pt"),
        ("(node-001/session/3/iter_0000005_3_local.pt)", "same ranks on the same nodes"),
    ),
    "local-dirty": (files("0/iter_0000005_0_local.dirty.pt"), ("local checkpoint", "global")),
    "fsdp_dtensor": (
        saved(args=ARGS(ckpt_format="fsdp_dtensor")),
        ("is a fsdp_dtensor checkpoint", "checkpoint_inspector.py", "convert_checkpoints_fsdp.py"),
    ),
    "fsdp_dtensor-keys": (  # Megatron-Bridge stores no args
        saved(model={"module": {"w": torch.ones(3)}}, checkpoint_version=3.0),
        ("is a fsdp_dtensor checkpoint", "convert_checkpoints_fsdp.py"),
    ),
    "fsdp_dtensor-rng": (
        saved(rng_state=RNG, iteration=5),
        ("is a fsdp_dtensor checkpoint", "convert_checkpoints_fsdp.py"),
    ),
    "torch_dcp": (
        saved(args=ARGS(ckpt_format="torch_dcp")),
        ("is a torch_dcp checkpoint", "--use-torch-fsdp2", CONVERT),
    ),
    "either": (
        saved(args=ARGS(), iteration=5),
        ("is a torch_dcp or fsdp_dtensor checkpoint", "for fsdp_dtensor", "for torch_dcp"),
    ),
    "dcp": (saved(), ("PyTorch Distributed Checkpoint", "that Megatron did not write")),
    "fsdp_dtensor-marker": (
        lambda f: (f / "metadata.json").write_text('{"sharded_backend": "fsdp_dtensor"}') and None,
        ("is a fsdp_dtensor checkpoint (fsdp_dtensor in metadata.json)", "checkpoint_inspector.py"),
    ),
    "zarr": (
        lambda f: (f / "metadata.json").write_text('{"sharded_backend": "zarr"}') and None,
        ("is a zarr checkpoint, which only releases up to 0.15 read", CONVERT),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_format_is_named(run: Run, tmp_path: Path, kind: str) -> None:
    make, words = KINDS[kind]
    folder = tmp_path / "root" / "iter_0000005"
    folder.mkdir(parents=True)
    make(folder)
    (tmp_path / "root" / "latest_checkpointed_iteration.txt").write_text("5")
    for path in (folder, tmp_path / "root"):
        refused(run("inspect", path), str(folder), *words)
    with pytest.raises(UnsupportedFormatError) as told:
        formats.require_torch_dist(LocalDirectory(folder))
    for verb in (
        ("verify",),
        ("check", "--reader", "0.16"),
        ("downgrade", "--to", "0.16", "--dry-run"),
        ("repair", "--in-place"),
    ):
        result = run(verb[0], folder, *verb[1:])
        refused(result, told.value.reason)


def test_each_row_is_met() -> None:
    """No format without an example here."""
    shown = {kind.partition("-")[0] for kind in KINDS} | {"torch", "torch_dcp or fsdp_dtensor"}
    assert set(other_formats.FORMATS) <= shown


def test_the_releases_that_read_zarr() -> None:
    """The last of them is the one that the row names."""
    reading = [
        release
        for release in INSTALLED
        if (READERS / release / "megatron/core/dist_checkpointing/strategies/zarr.py").exists()
    ]
    assert reading[-1] == "0.15.3"
    assert "core_v0.15.3" in other_formats.FORMATS[other_formats.ZARR].source


def test_the_root_of_a_legacy_checkpoint_is_the_one_to_load(run: Run, tmp_path: Path) -> None:
    rank = tmp_path / "root" / "iter_0000005" / "mp_rank_00"
    files("model_optim_rng.pt")(rank)
    for path in (rank, rank.parent):
        refused(run("inspect", path), f"--load {tmp_path / 'root'} --ckpt-format")


def test_torch_converts_what_is_only_dcp(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "dcp"
    saved()(folder)
    told = re.search("run `(.*)`", run("inspect", folder).stderr)
    assert told
    _, _, module, *arguments = shlex.split(told[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.delitem(sys.modules, module, raising=False)
    runpy.run_module(module, run_name="__main__")
    assert torch.equal(torch.load(tmp_path / "model.pt")["model"]["w"], torch.ones(3))


def test_data_files_alone_are_of_no_format(run: Run, tmp_path: Path) -> None:
    """A save that did not finish, or a download without dot files: any DCP format leaves this."""
    folder = tmp_path / "run" / "iter_0000005"
    saved(args=ARGS(ckpt_format="fsdp_dtensor"))(folder)
    (folder / ".metadata").unlink()
    refused(run("inspect", folder), "is not a checkpoint (no metadata.json and no .metadata)")
    told = run("verify", folder).stdout
    assert "marker-missing" in told
    assert "metadata-missing" in told
    (tmp_path / "run" / ".cache" / "huggingface" / "download").mkdir(parents=True)
    refused(run("inspect", folder), "`hf download REPO --include 'iter_0000005/*' --local-dir")


def test_a_torch_dist_without_both_files_is_still_one(run: Run, copy: Copy) -> None:
    """Its sharded objects show it: torch_dcp has none."""
    root = copy("0.17.1-idle-w1")
    for name in ("metadata.json", "common.pt"):
        (checkpoint_of(root) / name).unlink()
    refused(run("inspect", root), "metadata.json is missing", "ckptmigrate verify")
    found = run("verify", root).stdout
    assert "marker-missing" in found
    assert "common-missing" in found


def test_hostile_names(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "iter_0000005"
    for name in (
        "mp_rank_00\nowned",
        "mp_rank_00_\x1b]0;owned\x07",
        f"mp_rank_{'9' * 200}",
        "mp_rank_\u0660\u0661",
        "iter_0000005_0_local.pt\n",
        "zero_pp_rank_0_mp_rank_00_optim_states.pt\n",
    ):
        (folder / name).mkdir(parents=True)
    refused(run("inspect", folder), "legacy torch checkpoint (mp_rank_*/model_optim_rng.pt)")


def test_many_ranks(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "iter_0000005"
    folder.mkdir()
    for rank in range(20_000):
        (folder / f"mp_rank_{rank:02d}").mkdir()
    begun = time.process_time()
    refused(run("inspect", folder), "TP 20000)")
    assert time.process_time() - begun < 2


def test_a_link_is_not_followed_to_local_checkpoints(run: Run, tmp_path: Path) -> None:
    """Nor does a directory that leads to itself keep the search busy."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "0").symlink_to(tmp_path / "root")
    refused(run("inspect", tmp_path / "root"), "is neither a checkpoint nor a root")
