"""The (PP, TP, DP x CP) grid of RNG states: told, re-keyed, and back.

The grid of 0.16 with expert parallelism is in no sample: it is synthesized from `0.16.1-idle-tp2`
with torch's own classes, as get_rng_state of core_v0.16.1 lays it out. Expected ranks are written
by hand. cases/rng-3d-0.20 is as Megatron-LM main writes it since pull request 6858.
"""

from __future__ import annotations

import copy as copying
import dataclasses
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_side
from conftest import SAMPLES, Run, checkpoint_of, refused, tree_hash
from real_releases import run_parts
from test_check import ask, read
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType

from ckptmigrate import migrate
from ckptmigrate.releases.job import Job
from ckptmigrate.versions.detection import Reading

Copy = Callable[[str], Path]
Place = tuple[int, ...]
CASE = Path(__file__).parent / "cases" / "rng-3d-0.20" / "run"

# TP 2 x PP 2 x (DP x CP) 2, on 8 ranks.
PLACES = [(p, t, d) for p in (0, 1) for t in (0, 1) for d in (0, 1)]
# (DP, CP, --use-tp-pp-dp-mapping) -> the rank at each of PLACES.
RANKS = {
    (2, 1, False): [0, 2, 1, 3, 4, 6, 5, 7],  # tp + 2 dp + 4 pp
    (1, 2, False): [0, 2, 1, 3, 4, 6, 5, 7],  # tp + 2 cp + 4 pp
    (2, 1, True): [0, 4, 1, 5, 2, 6, 3, 7],  # tp + 2 pp + 4 dp
    (1, 2, True): [0, 2, 1, 3, 4, 6, 5, 7],  # tp + 2 cp + 4 pp
}
JOBS = list(RANKS)


def key_of(place: Place, grid: Place) -> str:
    return f"rng_state/shard_{'.'.join(map(str, place))}_{'.'.join(map(str, grid))}"


def synthesize(
    root: Path,
    *,
    by_rank: bool,
    job: tuple[int, int, bool] = (2, 1, False),
    experts: int = 2,
    state_of: Callable[[Place], int] = lambda place: 4 * place[0] + 2 * place[1] + place[2],
    states: int = 1,
) -> None:
    """Give a copy of `0.16.1-idle-tp2` 8 ranks, and the RNG states of each.

    Args:
        by_rank: whether in the grid of 0.16 with expert parallelism.
        state_of: a number to tell the states at a place by.
        states: how many a list has: more than one with --data-parallel-random-init.
    """
    data, context, pipeline_first = job
    ranks = dict(zip(PLACES, RANKS[job], strict=True))
    grid: Place = (2, 2, 2) if by_rank else (2, 2)
    checkpoint = checkpoint_of(root)
    [state] = torch_side.read(checkpoint).object("rng_state/shard_0.0_1.2")[0]
    blobs, where = bytearray(), {}
    for place in PLACES:
        if not by_rank and place[2]:
            continue
        kept = []
        for number in range(states):
            kept.append(copying.deepcopy(state))
            kept[-1]["torch_rng_state"][0] = 10 * number + state_of(place)
        saved = io.BytesIO()
        torch.save([kept], saved)
        where[place] = (len(blobs), len(saved.getvalue()))
        blobs += saved.getvalue()
    (checkpoint / "__0_9.distcp").write_bytes(blobs)

    def change(metadata: Any) -> None:
        torch_side.drop(metadata, [k for k in metadata.state_dict_metadata if "rng_state" in k])
        first = metadata.all_local_plans[0]
        for _ in range(6):
            metadata.all_local_plans.append(dataclasses.replace(first, items=[]))
        for place, (offset, length) in where.items():
            key = key_of(place[: len(grid)], grid)
            metadata.state_dict_metadata[key] = BytesStorageMetadata()
            index = MetadataIndex(key)
            metadata.storage_data[index] = _StorageInfo("__0_9.distcp", offset, length)
            item = WriteItem(MetadataIndex(key), WriteItemType.BYTE_IO)
            metadata.all_local_plans[ranks[place]].items.append(item)

    torch_side.edit_metadata(root, change)

    def enlarge(common: dict[str, Any]) -> None:
        args = common["args"]
        args.world_size, args.pipeline_model_parallel_size = 8, 2
        args.data_parallel_size, args.context_parallel_size = data, context
        args.use_tp_pp_dp_mapping = pipeline_first
        args.expert_model_parallel_size = experts
        args.data_parallel_random_init = states > 1

    torch_side.edit_common(root, enlarge)


def rng(root: Path) -> dict[str, bytes]:
    """The bytes of the RNG states, by key; the tables of `.metadata` agree on the keys."""
    contents = torch_side.read(checkpoint_of(root))
    torch_side.consistent(contents, has_plans=True)
    return {key: blob for key, blob in contents.blobs.items() if key.startswith("rng_state/")}


def writers(root: Path) -> dict[str, int]:
    """The rank whose plan writes each key of the RNG states."""
    plans = torch_side.read(checkpoint_of(root)).plan_keys()
    assert plans is not None
    return {key: r for r, keys in enumerate(plans) for key in keys if key.startswith("rng_state/")}


def payload(root: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in checkpoint_of(root).glob("*.distcp")
    }


@pytest.fixture
def source(copy: Copy) -> Path:
    """A checkpoint of 0.16 with expert parallelism, every rank with a state of its own."""
    root = copy("0.16.1-idle-tp2")
    synthesize(root, by_rank=True)
    return root


# -- check


def of_rng(root: Path | Reading, release: str, job: Job | None = None) -> list[str]:
    found = ask(root, release, job)
    shown = [o for o in found.obstacles if "rng_state" in o.error]
    assert all((o.flag, o.metadata_only) == ("--no-load-rng", True) for o in shown)
    return [o.error for o in shown]


MISSING = "RuntimeError: Missing key in checkpoint state_dict: rng_state/shard_"


def test_every_other_release_asks_for_pp_tp(source: Path) -> None:
    found = read(source)
    for release in ("0.9.0", "0.13.1", "0.15.3", "0.17.1", "0.19.0"):
        assert of_rng(found, release) == [f"{MISSING}0.0_2.2."]
        # Who does not ask, resumes: by its own wish, or because TP or PP is another one.
        for job in (Job(no_load_rng=True), Job(finetune=True), Job(tensor=1), Job(pipeline=1)):
            assert of_rng(found, release, job) == []


def test_what_is_not_known_of_a_development_version(source: Path) -> None:
    """0.20.dev0 is main of 2026-08-22, and main changed the grid a few days later."""
    found = read(source)
    for release in ("0.20.dev0", "0.20.0"):
        verdict = ask(found, release)
        assert (verdict.obstacles, verdict.answer.value, verdict.resumes) == ((), "unknown", False)
        assert "main of 2026-08-22 requests one per (PP, TP) rank (2 x 2)" in verdict.unknown[0]
        for job in (Job(no_load_rng=True), Job(finetune=True), Job(tensor=1)):
            assert ask(found, release, job).resumes
    # Another reason to fail is known.
    assert ask(SAMPLES / "0.13.1-idle-dopt", "0.20.dev0").answer.value == "no"
    # The grid that main of 2026-08-22 requests is not in doubt.
    assert ask(SAMPLES / "0.20.dev0-idle-w1", "0.20.dev0").answer.value == "yes"


def test_the_case_of_main(run: Run, tmp_path: Path) -> None:
    """A reader up to 0.19 says no for rng_state, also 0.16: the expert parallel size is 1."""
    root = tmp_path / "run"
    shutil.copytree(CASE, root)
    found = read(root)
    for release in ("0.9.0", "0.13.1", "0.16.1", "0.17.1", "0.19.0"):
        assert of_rng(found, release) == [f"{MISSING}0.0_1.2."]
    unknown = run("check", root, "--reader", "0.20")
    assert unknown.returncode == 1
    assert unknown.stdout.startswith("It is not known whether Megatron-Core 0.20.dev0 can resume")
    assert "and Megatron-LM main of 2026-08-22)" in unknown.stdout
    told = json.loads(run("check", root, "--reader", "0.20", "--json").stdout)
    assert (told["resumes"], told["answer"], told["obstacles"]) == (False, "unknown", [])
    assert told["fix"]["command"] is None
    assert "  0.20.dev0    unknown" in run("check", root).stdout
    before = rng(root)
    for release in ("0.16.1", "0.19.0", "0.13.1"):
        out = tmp_path / release
        assert run("downgrade", root, "--to", release, "-o", out).returncode == 0
        assert rng(out) == {
            f"rng_state/shard_0.{t}_1.2": before[f"rng_state/shard_0.{t}.0_1.2.1"] for t in (0, 1)
        }
        assert ask(out, release).resumes
    every = tmp_path / "universal"
    assert run("migrate", root, "--to", "universal", "-o", every).returncode == 0
    assert rng(every).keys() == {f"rng_state/shard_0.{t}_1.2" for t in (0, 1)}
    assert all(of_rng(every, release) == [] for release in ("0.9.0", "0.16.1", "0.20.dev0"))
    up = run("upgrade", root, "--to", "0.20", "--dry-run")
    assert "(in Megatron-LM main of 2026-08-22: later commits store one for every rank" in up.stdout


def test_0_16_asks_for_its_own_grid(source: Path) -> None:
    found = read(source)
    assert ask(found, "0.16.1").resumes
    assert ask(found, "0.16.0", Job(strictness="raise_all")).resumes
    # A strictness that drops missing keys looks at `rng_state` alone, which is there.
    assert of_rng(found, "0.17.1", Job(strictness="log_all")) == [f"{MISSING}0.0_2.2."]
    # Twice the ranks: DP x CP is 4.
    assert of_rng(found, "0.16.1", Job(world=16)) == [f"{MISSING}0.0.0_2.2.4."]
    assert of_rng(found, "0.16.1", Job(world=16, no_load_rng=True)) == []


def test_0_16_asks_by_rank_with_expert_parallelism_alone(copy: Copy, tmp_path: Path) -> None:
    root = copy("0.16.1-idle-tp2")
    synthesize(root, by_rank=False)
    found = read(root)
    for release in ("0.15.3", "0.17.1", "0.19.0"):
        assert of_rng(found, release) == []
    assert of_rng(found, "0.16.1") == [f"{MISSING}0.0.0_2.2.2."]
    assert of_rng(found, "0.16.1", Job(no_load_rng=True)) == []
    torch_side.edit_common(root, lambda s: setattr(s["args"], "expert_model_parallel_size", 1))
    assert of_rng(root, "0.16.1") == []


def test_0_16_asks_for_the_grid_of_its_own_expert_parallelism(copy: Copy) -> None:
    """As test_optimizer_real measures it."""
    root = copy("0.16.1-idle-tp2")
    synthesize(root, by_rank=True)
    found = read(root)
    assert of_rng(found, "0.16.1", Job(expert=2)) == []
    assert of_rng(found, "0.16.1", Job(expert=1)) == [f"{MISSING}0.0_2.2."]
    assert of_rng(found, "0.16.1", Job(expert=1, no_load_rng=True)) == []


def test_a_checkpoint_without_rng_states(source: Path) -> None:
    torch_side.edit_metadata(
        source,
        lambda metadata: torch_side.drop(
            metadata, [k for k in metadata.state_dict_metadata if "rng_state" in k]
        ),
    )
    assert of_rng(source, "0.17.1") == [f"{MISSING}0.0_2.2."]
    torch_side.edit_common(source, lambda state: setattr(state["args"], "no_save_rng", True))
    assert of_rng(source, "0.17.1") == []


def test_keys_of_several_models_tell_nothing(source: Path) -> None:
    keys = rng(source)
    torch_side.edit_metadata(
        source, lambda metadata: torch_side.rename(metadata, {key: f"vision.{key}" for key in keys})
    )
    assert of_rng(source, "0.19.0") == []
    # The name of the model comes after it in Megatron-Bridge.
    others = {f"vision.{key}": key.replace("rng_state", "rng_state.vision") for key in keys}
    torch_side.edit_metadata(source, lambda metadata: torch_side.rename(metadata, others))
    assert of_rng(source, "0.19.0") == []


def test_a_grid_that_no_memory_holds(source: Path) -> None:
    def change(common: dict[str, Any]) -> None:
        args = common["args"]
        args.tensor_model_parallel_size = args.pipeline_model_parallel_size = 1_000_000
        del args.world_size

    torch_side.edit_common(source, change)
    assert of_rng(source, "0.17.1") == [f"{MISSING}0.0_1000000.1000000."]


def test_the_verb(source: Path, run: Run) -> None:
    told = run("check", source, "--reader", "0.17.1")
    assert told.returncode == 1
    assert "flag:  run the job with --no-load-rng" in told.stdout
    assert told.stdout.splitlines()[-1].endswith("--to 0.17.1 --allow-loss rng-state")
    assert run("check", source, "--reader", "0.17.1", "--no-load-rng").returncode == 0


# -- down


def test_down_takes_the_first_of_each(source: Path, run: Run, tmp_path: Path) -> None:
    before, hashes = rng(source), tree_hash(source)
    arguments = ("downgrade", source, "--to", "0.15.3", "-o", tmp_path / "out")
    refused(
        run(*arguments), "an RNG state for every rank", "--no-load-rng", "--allow-loss rng-state"
    )
    assert not (tmp_path / "out").exists()
    done = run(*arguments, "--allow-loss", "rng-state", "--json")
    assert done.returncode == 0, done.stderr
    [told] = json.loads(done.stdout)["checkpoints"]
    assert told["losses"] == ["rng-state"]
    assert rng(tmp_path / "out") == {
        "rng_state/shard_0.0_2.2": before["rng_state/shard_0.0.0_2.2.2"],
        "rng_state/shard_0.1_2.2": before["rng_state/shard_0.1.0_2.2.2"],
        "rng_state/shard_1.0_2.2": before["rng_state/shard_1.0.0_2.2.2"],
        "rng_state/shard_1.1_2.2": before["rng_state/shard_1.1.0_2.2.2"],
    }
    assert len({*before.values()}) == 8
    assert payload(tmp_path / "out") == payload(source)
    assert ask(tmp_path / "out", "0.15.3").resumes
    assert tree_hash(source) == hashes
    # The way back is the original, byte for byte, and has what was lost.
    migrate(tmp_path / "out", to="none-emitting", output=tmp_path / "back")
    assert tree_hash(tmp_path / "back") == hashes
    [plan] = migrate(tmp_path / "out", to="0.16.1", output=tmp_path / "up")
    assert (plan.losses, rng(tmp_path / "up")) == ((), before)


@pytest.mark.parametrize("job", JOBS)
def test_down_is_planned_by_the_rank_that_saved_it(
    job: tuple[int, int, bool], copy: Copy, tmp_path: Path
) -> None:
    root = copy("0.16.1-idle-tp2")
    synthesize(root, by_rank=True, job=job)
    migrate(root, to="0.17.1", output=tmp_path / "out", allow_loss=["rng-state"])
    ranks = dict(zip(PLACES, RANKS[job], strict=True))
    assert writers(tmp_path / "out") == {
        f"rng_state/shard_{p}.{t}_2.2": ranks[p, t, 0] for p in (0, 1) for t in (0, 1)
    }


@pytest.mark.parametrize("states", [1, 2])
def test_down_is_exact_where_all_ranks_have_the_same(
    states: int, copy: Copy, tmp_path: Path
) -> None:
    """Two: with --data-parallel-random-init, where each list holds the states of all."""
    root = copy("0.16.1-idle-tp2")
    synthesize(root, by_rank=True, states=states, state_of=lambda place: 2 * place[0] + place[1])
    [plan] = migrate(root, to="0.17.1", output=tmp_path / "out")
    assert plan.losses == ()
    assert any("which is equal to its own" in note for note in plan.notes)
    assert rng(tmp_path / "out").keys() == {
        f"rng_state/shard_{p}.{t}_2.2" for p in (0, 1) for t in (0, 1)
    }


def test_one_rank_of_eight_is_a_loss_too(copy: Copy, run: Run) -> None:
    root = copy("0.16.1-idle-tp2")
    synthesize(root, by_rank=True, state_of=lambda place: int(place == (1, 0, 1)))
    refused(run("upgrade", root, "--to", "0.17.1", "--dry-run"), "--allow-loss rng-state")


# -- up


@pytest.mark.parametrize("job", JOBS)
def test_up_gives_each_rank_what_it_would_get_anyway(
    job: tuple[int, int, bool], copy: Copy, tmp_path: Path
) -> None:
    root = copy("0.16.1-idle-tp2")
    synthesize(root, by_rank=False, job=job)
    before, hashes = rng(root), tree_hash(root)
    assert len({*before.values()}) == 4
    [plan] = migrate(root, to="0.16.1", output=tmp_path / "out")
    assert plan.losses == ()
    ranks = dict(zip(PLACES, RANKS[job], strict=True))
    expected = {
        f"rng_state/shard_{p}.{t}.{d}_2.2.2": before[f"rng_state/shard_{p}.{t}_2.2"]
        for p, t, d in PLACES
    }
    assert rng(tmp_path / "out") == expected
    assert writers(tmp_path / "out") == {
        f"rng_state/shard_{p}.{t}.{d}_2.2.2": ranks[p, t, d] for p, t, d in PLACES
    }
    assert payload(tmp_path / "out") == payload(root)
    assert ask(tmp_path / "out", "0.16.1").resumes
    migrate(tmp_path / "out", to="none-emitting", output=tmp_path / "back")
    assert tree_hash(tmp_path / "back") == hashes


@pytest.mark.parametrize("layout", ["pre-rerun", "split-rerun", "common-state", "universal"])
def test_layouts_leave_them_alone(source: Path, layout: str, tmp_path: Path) -> None:
    before = rng(source)
    migrate(source, to=layout, output=tmp_path / "out")
    assert rng(tmp_path / "out") == before


# -- the real releases


def digest(blob: bytes) -> str:
    """As readers/parts.py tells an object: by what torch saves of it."""
    saved = io.BytesIO()
    torch.save(torch.load(io.BytesIO(blob), weights_only=False), saved)
    return hashlib.sha256(saved.getvalue()).hexdigest()


def job_of(root: Path, places: list[Place], grid: Place) -> dict[str, Any]:
    asked = [["rng_state", grid, place] for place in places]
    return {"checkpoint": str(checkpoint_of(root)), "objects": asked}


@pytest.mark.parametrize("release", ["0.13.1", "0.15.3"])
def test_a_real_release_loads_what_down_made(source: Path, release: str, tmp_path: Path) -> None:
    before = rng(source)
    migrate(source, to=release, output=tmp_path / "out", allow_loss=["rng-state"])
    places: list[Place] = [(0, 0), (0, 1), (1, 0), (1, 1)]
    [told] = run_parts(release, job_of(tmp_path / "out", places, (2, 2)))
    assert told == {"digests": [digest(before[key_of((*place, 0), (2, 2, 2))]) for place in places]}
    assert len({*told["digests"]}) == 4


def test_the_real_0_16_1_loads_what_up_made(copy: Copy, tmp_path: Path) -> None:
    root = copy("0.16.1-idle-tp2")
    synthesize(root, by_rank=False)
    before = rng(root)
    migrate(root, to="0.16.1", output=tmp_path / "out")
    raw, made = run_parts(
        "0.16.1",
        job_of(root, PLACES, (2, 2, 2)),
        job_of(tmp_path / "out", PLACES, (2, 2, 2)),
    )
    # What it dies of otherwise is what `check` says.
    assert [raw["error"]] == of_rng(root, "0.16.1")
    assert made == {"digests": [digest(before[key_of(place[:2], (2, 2))]) for place in PLACES]}


def test_how_a_real_release_dies_of_the_other_grid(source: Path) -> None:
    [told] = run_parts("0.16.1", job_of(source, [(0, 0), (1, 1)], (2, 2)))
    assert [told["error"]] == of_rng(source, "0.17.1")
