"""Damage that people reported in public: the right answer of `check`, `verify` and `repair`.

Each is made out of samples, and what must follow is what real releases do with it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch_side
from conftest import HEALTHY, INDEX, SAMPLES, Run, checkpoint_of, refused, tree_hash
from real_releases import run_jobs, run_parts

Copy = Callable[[str], Path]
FLATTENED = "0.13.1-idle-dopt"
CASES = Path(__file__).parent / "cases"
WEIGHT = "embedding.word_embeddings.weight"
MARKER = "metadata.json"


def loads(root: Path, release: str, **more: Any) -> dict[str, Any]:
    """What the one rank of a real job reports."""
    [[rank]] = run_jobs(release, [{"checkpoint": str(checkpoint_of(root)), **more}])
    return dict(rank)


def codes(run: Run, root: Path) -> set[str]:
    """The codes of the errors that `verify` finds."""
    result = run("verify", root, "--json")
    found = json.loads(result.stdout)["findings"]
    errors = {row["code"] for row in found if row["severity"] == "error"}
    assert result.returncode == bool(errors)
    return errors


# -- mcore_data, which torch 2.9 to 2.12 drop


def without_shapes(root: Path) -> None:
    torch_side.edit_metadata(root, lambda metadata: delattr(metadata, "mcore_data"))


def load_a_flattened_state(root: Path, release: str) -> str | None:
    """The error of a release that asks for a state as a distributed optimizer does."""
    state = {"key": f"optimizer.state.exp_avg.{WEIGHT}", "shape": [32, 16], "range": [0, 256]}
    [told] = run_parts(release, {"checkpoint": str(checkpoint_of(root)), "flattened": state})
    return told.get("error")


@pytest.mark.parametrize("release", ["0.11.0", "0.13.1", "0.14.0", "0.15.3"])
def test_lost_shapes_are_the_error_of_the_release(release: str, copy: Copy, run: Run) -> None:
    root = copy(FLATTENED)
    without_shapes(root)
    error = "AttributeError: 'Metadata' object has no attribute 'mcore_data'"
    assert load_a_flattened_state(root, release) == error
    result = run("check", root, "--reader", release, "--json")
    verdict = json.loads(result.stdout)
    assert result.returncode == 1
    assert error in [obstacle["error"] for obstacle in verdict["obstacles"]]


def test_lost_shapes_are_computed_again(copy: Copy, run: Run, tmp_path: Path) -> None:
    """Equal to what the release wrote; and the writer is recognised without them."""
    root = copy(FLATTENED)
    without_shapes(root)
    before = tree_hash(root)
    assert codes(run, root) == {"optimizer-shapes-missing"}
    shown = json.loads(run("inspect", root, "--json").stdout)
    assert (shown["writer"]["releases"], shown["anomalies"]) == (["0.13"], [])
    for verb in (["repair"], ["upgrade", "--to", "0.13.1"]):
        out = tmp_path / verb[0]
        assert run(verb[0], root, *verb[1:], "-o", out).returncode == 0
        original = torch_side.read(checkpoint_of(SAMPLES / FLATTENED)).metadata
        made = torch_side.read(checkpoint_of(out)).metadata
        assert made.mcore_data == original.mcore_data
        assert codes(run, out) == set()
        assert load_a_flattened_state(out, "0.13.1") is None
    assert tree_hash(root) == before


def test_a_checkpoint_without_flattened_states_needs_no_shapes(copy: Copy, run: Run) -> None:
    for name in ("0.13.1-idle-w1", "0.10.0-idle-w1"):
        root = copy(name)
        without_shapes(root)
        assert codes(run, root) == set()
        assert run("check", root, "--reader", INDEX[name]["release"]).returncode == 0
        assert loads(root, INDEX[name]["release"])["error"] is None


# -- a fault in a state that no release can resume from


def in_state(root: Path, state: Any) -> None:
    torch_side.edit_common(root, lambda common: common["rerun_state_machine"].update(state=state))


@pytest.mark.parametrize("release", ["0.14.0", "0.16.1"])
@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("RERUNNING_IN_PLACE", "TypeError: 'NoneType' object is not subscriptable"),
        ("RERUNNING_AGAIN_FROM_CHECKPOINT", "RuntimeError: Should not be here"),
    ],
)
def test_a_state_that_no_release_resumes_from(
    state: str, error: str, release: str, copy: Copy, run: Run, tmp_path: Path
) -> None:
    root = copy("0.14.0-fault-w1")
    in_state(root, torch_side.RerunState[state])
    rank = loads(root, release, step=True)
    assert (rank["stage"], rank["error"]) == ("step", error)
    result = run("check", root, "--reader", release, "--json")
    told = json.loads(result.stdout)
    assert result.returncode == 1
    assert told["obstacles"][-1]["error"] == error
    assert codes(run, root) == {"rerun-not-resumable"}
    refused(run("repair", root, "-o", tmp_path / "out"), state, "--drop-rerun")
    assert run("repair", root, "--drop-rerun", "-o", tmp_path / "out").returncode == 0
    assert codes(run, tmp_path / "out") == set()
    rank = loads(tmp_path / "out", release, step=True)
    assert (rank["stage"], rank["error"], rank["resumed"]) == ("done", None, [0, False])


# -- metadata.json


@pytest.mark.parametrize("where", ["in place", "out of place"])
def test_a_lost_marker_is_written_again(where: str, copy: Copy, run: Run, tmp_path: Path) -> None:
    """Byte for byte as the release wrote it, in every layout."""
    for name in {INDEX[name]["layout"]: name for name in HEALTHY}.values():
        root = copy(name)
        marker = checkpoint_of(root) / MARKER
        written = marker.read_bytes()
        marker.unlink()
        before = tree_hash(root)
        assert codes(run, root) == {"marker-missing", "tracker-half-written"}
        refused(run("check", root), "metadata.json is missing", "ckptmigrate verify")
        if where == "in place":
            assert run("repair", root, "--in-place").returncode == 0
            assert marker.read_bytes() == written
            assert run("undo", root).returncode == 0
            assert tree_hash(root) == before
        else:
            out = tmp_path / f"{name}-repaired"
            assert run("repair", root, "-o", out).returncode == 0
            assert tree_hash(root) == before
            assert (checkpoint_of(out) / MARKER).read_bytes() == written
            assert codes(run, out) == set()


def test_a_marker_that_is_not_json_is_written_again(copy: Copy, run: Run, tmp_path: Path) -> None:
    root = copy("0.18.2-idle-w1")
    marker = checkpoint_of(root) / MARKER
    written = marker.read_bytes()
    for content in (b"", b"[]", b'{"sharded_backend": "torch'):
        marker.write_bytes(content)
        assert codes(run, root) == {"marker-unreadable"}
        assert run("repair", root, "-o", tmp_path / f"out{len(content)}").returncode == 0
        out = checkpoint_of(tmp_path / f"out{len(content)}")
        assert (out / MARKER).read_bytes() == written


def test_another_format_without_a_marker_is_not_repaired(copy: Copy, run: Run) -> None:
    """Without a common state or sharded objects of Megatron-Core it is of another format."""
    root = copy("0.18.2-idle-w1")
    (checkpoint_of(root) / MARKER).unlink()
    (checkpoint_of(root) / "common.pt").unlink()
    refused(run("repair", root, "--in-place"), "both common.pt and the key")

    def change(metadata: Any) -> None:
        objects = [key for key in metadata.state_dict_metadata if "/shard_" in key]
        torch_side.drop(metadata, objects)

    torch_side.edit_metadata(root, change)
    refused(run("repair", root, "--in-place"), "that Megatron did not write")


# -- a key per layer, which releases up to 0.13 do not ask for


SINGLETON = CASES / "singleton" / "run"


@pytest.mark.parametrize("release", ["0.11.0", "0.13.1"])
def test_a_key_per_layer_is_not_what_old_releases_ask_for(
    release: str, run: Run, tmp_path: Path
) -> None:
    """The stacked key is the error of the release, and no migration to it is offered."""
    before = tree_hash(SINGLETON)
    result = run("check", SINGLETON, "--reader", release, "--json")
    [obstacle] = [o for o in json.loads(result.stdout)["obstacles"] if "from model" in o["error"]]
    assert result.returncode == 1
    key = obstacle["error"].split('"')[1].split()[0]
    tensors = {key: [2, *torch_side.read(checkpoint_of(SINGLETON)).tensors[_of_layer_0(key)].shape]}
    [told] = run_parts(release, {"checkpoint": str(checkpoint_of(SINGLETON)), "tensors": tensors})
    assert told["error"].startswith(obstacle["error"].removesuffix("..."))
    done = run("downgrade", SINGLETON, "--to", release, "-o", tmp_path / "out")
    refused(done, "singleton_local_shards", "0.14")
    assert not (tmp_path / "out").exists()
    assert tree_hash(SINGLETON) == before


def _of_layer_0(key: str) -> str:
    return key.replace("layers.", "layers.0.")


def test_the_value_decides(copy: Copy, run: Run) -> None:
    """Later releases read it; `False`, which releases from 0.14 on write, says nothing."""
    assert run("check", SINGLETON, "--reader", "0.17").returncode == 0
    rank = loads(SINGLETON, "0.16.1")
    assert (rank["stage"], rank["error"]) == ("done", None)
    ordinary = SAMPLES / "0.17.1-idle-w1"
    assert run("check", ordinary, "--reader", "0.13.1").returncode == 0
    assert loads(ordinary, "0.13.1", resolve_foreign_symbols=True)["error"] is None


# -- saves and downloads that did not finish


def without_metadata(root: Path) -> Path:
    """A root whose checkpoint has no .metadata; returns the checkpoint."""
    checkpoint = checkpoint_of(root)
    (checkpoint / ".metadata").unlink()
    return checkpoint


def test_a_save_that_did_not_finish_is_left_for_the_one_before(
    copy: Copy, run: Run, tmp_path: Path
) -> None:
    """An asynchronous save that was killed leaves .metadata.tmp, and a tracker that names it."""
    root = copy("0.17.1-idle-w1")
    shutil.copytree(root / "iter_0000005", root / "iter_0000010")
    (root / "latest_checkpointed_iteration.txt").write_text("10")
    checkpoint = without_metadata(root)
    (checkpoint / MARKER).unlink()
    (checkpoint / ".metadata.tmp").write_bytes(b"\x80\x02")
    before = tree_hash(root)
    assert codes(run, root) == {"tracker-half-written", "marker-missing", "metadata-missing"}
    assert run("repair", root, "-o", tmp_path / "out").returncode == 0
    assert tree_hash(root) == before
    assert checkpoint_of(tmp_path / "out").name == "iter_0000005"
    assert codes(run, tmp_path / "out") == set()


@pytest.mark.parametrize("downloaded", [False, True])
def test_without_metadata_there_is_no_way_back(downloaded: bool, copy: Copy, run: Run) -> None:
    """The only save did not finish, or a download has left out the files that begin with a dot."""
    root = copy("0.17.1-idle-w1")
    without_metadata(root)
    if downloaded:
        (root / ".cache" / "huggingface").mkdir(parents=True)
    found = run("verify", root)
    assert found.returncode == 1
    assert "the save did not finish, or a copy or a download omitted dot files" in found.stdout
    assert "ckptmigrate repair" not in found.stdout
    refused(run("repair", root), ".metadata is missing", "restore one from a copy")
