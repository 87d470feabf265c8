"""Real releases save, load and train with their distributed optimizer, on a CPU.

ckptmigrate/measuring/optimizer_job runs the jobs. Every weight and optimizer state that a save
writes is known by the formula of tests/optimizer/README.md, and so is what it is after some steps
of training: a rank compares what it holds with that, bit by bit.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch_side
from conftest import checkpoint_of
from real_releases import run_optimizer_jobs
from test_check import ask, read

from ckptmigrate import diff, migrate
from ckptmigrate.releases.job import Job

RELEASES = ("0.9.0", "0.10.0", "0.11.0", "0.12.3", "0.13.1", "0.14.0", "0.15.3", "0.16.1")
FLATTENED, GATHERED = "fully_sharded_model_space", "dp_zero_gather_scatter"
BY_BUCKET, BY_PARAMETER = "dp_reshardable", "fully_reshardable"
# What a release writes, its default first. 0.15 writes the older ones with
# --dist-ckpt-save-pre-mcore-014.
TYPES = {
    **dict.fromkeys(RELEASES[:6], (FLATTENED, GATHERED)),
    "0.15.3": (BY_BUCKET, BY_PARAMETER, FLATTENED, GATHERED),
    "0.16.1": (BY_BUCKET, BY_PARAMETER),
}
SIZES: dict[str, dict[str, Any]] = {
    "dp2": {"data_parallel": 2},
    "buckets": {"data_parallel": 2, "bucket_size": 1500},
    "tp2": {"tensor_parallel": 2, "bucket_size": 1500},
    "tp2pp2": {
        "tensor_parallel": 2, "pipeline_parallel": 2, "bucket_size": 1500,
        "bf16": True, "swiglu": True, "tied_embedding": True,
    },
    "moe": {"data_parallel": 2, "expert_parallel": 2, "experts": 4},
    "cp2": {"context_parallel": 2, "bucket_size": 1500},
    "fp16": {"data_parallel": 2, "bucket_size": 1500, "fp16": True},
}  # fmt: skip
# The elements that all ranks compare: the weights of each rank, and the three states of every
# parameter, once per data parallel group.
ELEMENTS = {
    "dp2": (2 + 3) * 7616,
    "buckets": (2 + 3) * 7616,
    "cp2": (2 + 3) * 7616,
    "fp16": (2 + 3) * 7616,
    "tp2": 2 * (1 + 3) * (7392 // 2 + 224),  # 224 weights are replicated
    "tp2pp2": 2 * (1 + 3) * ((2112 + 256) + (2112 + 256 + 32)),
    "moe": (2 + 3) * 3360 + 2 * (1 + 3) * 8192,  # shared weights, experts of a rank
}


def is_plain(release: str) -> bool:
    """Whether a release stores flattened states of one dimension in the plain form."""
    return RELEASES.index(release) < RELEASES.index("0.11.0")


@dataclass(frozen=True)
class Save:
    """What a job saves.

    Attributes:
        writer: its release.
        sharding_type: the form of the optimizer.
        sizes: a name in SIZES.
    """

    writer: str
    sharding_type: str
    sizes: str

    def __str__(self) -> str:
        return f"{self.writer}-{self.sharding_type}-{self.sizes}"

    @property
    def damaged(self) -> bool:
        """Whether the release damages it: several buckets, of which one but the last is padded.

        A tied embedding has its own bucket with pipeline parallelism.
        """
        return self.sharding_type == BY_PARAMETER and self.sizes in ("buckets", "tp2", "tp2pp2")

    @property
    def exchanges_groups(self) -> bool:
        """Whether a load by its release gives the param groups of a pipeline stage to another."""
        by_position = RELEASES.index(self.writer) < RELEASES.index("0.14.0")
        return by_position and self.sharding_type == FLATTENED and self.sizes == "tp2pp2"


SAVES = [
    Save(writer, sharding_type, sizes)
    for writer in RELEASES
    for sharding_type in TYPES[writer]
    for sizes in SIZES
    if sizes not in ("cp2", "fp16")
    # 0.10.0 builds no experts without Transformer Engine.
    if (writer, sizes) != ("0.10.0", "moe")
]
HEALTHY = [save for save in SAVES if not save.damaged]
DAMAGED = [save for save in SAVES if save.damaged]
Saved = Callable[[Save], Path]


def chosen(saves: list[Save], *sizes: str) -> list[Any]:
    """Parameters: `make test` runs the default types of these sizes, `make test-full` all."""
    return [
        pytest.param(
            save,
            id=str(save),
            marks=[]
            if save.sizes in sizes and save.sharding_type == TYPES[save.writer][0]
            else [pytest.mark.full],
        )
        for save in saves
    ]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A function that returns the root of a save, which a job makes when it is first needed."""

    @functools.cache
    def make(save: Save) -> Path:
        root = tmp_path_factory.mktemp(str(save)) / "root"
        job = {"save": "idle", "sharding_type": save.sharding_type}
        check_equal(save, resume(save, root / "iter_0000005", **job))
        return root

    return make


def resume(of: Save, checkpoint: Path, reader: str = "", **changes: Any) -> list[dict[str, Any]]:
    """Run a job with the sizes of a save, and return what its ranks report.

    Args:
        reader: the release, by default the one that wrote it.
        changes: fields of the job.
    """
    job = {"checkpoint": str(checkpoint), **SIZES[of.sizes], **changes}
    [ranks] = run_optimizer_jobs(reader or of.writer, [job])
    return list(ranks)


def check_equal(save: Save, ranks: list[dict[str, Any]], *, same_sizes: bool = True) -> None:
    """Every rank holds what the formula says, and all of it."""
    assert [(rank["error"], rank.get("unequal")) for rank in ranks] == [(None, [])] * len(ranks)
    if same_sizes:
        assert sum(rank["elements"] for rank in ranks) == ELEMENTS[save.sizes]


def steps(ranks: list[dict[str, Any]]) -> set[int]:
    """The steps in the param groups of all ranks."""
    return {group["step"] for rank in ranks for each in rank["groups"] for group in each}


@pytest.mark.parametrize("save", chosen(HEALTHY, "buckets"))
def test_a_release_resumes_from_its_save(save: Save, saved: Saved, tmp_path: Path) -> None:
    """And trains, saves again, and resumes from that."""
    checkpoint = checkpoint_of(saved(save))
    again = tmp_path / "again" / "iter_0000007"
    if (
        save.sizes == "tp2pp2"
        and RELEASES.index(save.writer) < 5
        and save.sharding_type == FLATTENED
    ):
        check_exchanged_groups(save, checkpoint)
        return
    trained = resume(save, checkpoint, train=2, again=str(again), sharding_type=save.sharding_type)
    check_equal(save, trained)
    assert steps(trained) == {7 + 2}
    resumed = resume(save, again, steps=2)
    check_equal(save, resumed)
    assert {rank["iteration"] for rank in resumed} == {7}


def check_exchanged_groups(save: Save, checkpoint: Path) -> None:
    """The states are right, but up to 0.13 the last pipeline stage decays the wrong weights.

    There a parameter of one dimension is the first, so its param groups have another order than
    those of the first stage, which alone are saved and matched by their position.
    """
    resumed = resume(save, checkpoint)
    check_equal(save, resumed)
    first, *_, last = ([group["wd_mult"] for group in rank["groups"][0]] for rank in resumed)
    assert (first, last) == ([1.0, 0.0], [1.0, 0.0])
    trained = resume(save, checkpoint, train=1)
    assert [bool(rank["unequal"]) for rank in trained] == [False, False, True, True]


@pytest.mark.parametrize("save", chosen(DAMAGED, "buckets"))
def test_several_padded_buckets_are_damaged_when_saved(save: Save, saved: Saved) -> None:
    ranks = resume(save, checkpoint_of(saved(save)))
    assert [rank["error"] for rank in ranks] == [None] * len(ranks)
    assert any(rank["unequal"] for rank in ranks)


@pytest.mark.full
@pytest.mark.parametrize("save", SAVES, ids=str)
def test_check_predicts_what_the_releases_do(save: Save, saved: Saved) -> None:
    found = read(saved(save))
    for reader in RELEASES:
        if (reader, save.sizes) != ("0.10.0", "moe"):
            ranks = resume(save, checkpoint_of(saved(save)), reader)
            errors = [rank["error"] for rank in ranks if rank["error"]]
            verdict = ask(found, reader)
            assert verdict.resumes == (not errors), (reader, errors, verdict.obstacles)


# Sizes of readers that are not those of the writer.
OTHER_SIZES = {
    FLATTENED: [{"data_parallel": 1}, {"data_parallel": 1, "tensor_parallel": 2}],
    BY_PARAMETER: [{"data_parallel": 4}, {"data_parallel": 1, "tensor_parallel": 2}],
    BY_BUCKET: [{"data_parallel": 1}, {"data_parallel": 4}],
    GATHERED: [{"data_parallel": 1}],
}


@pytest.mark.parametrize("save", chosen([s for s in HEALTHY if s.sizes == "dp2"], "dp2"))
def test_other_sizes_than_the_writers(save: Save, saved: Saved, tmp_path: Path) -> None:
    root = saved(save)
    if save.writer in ("0.12.3", "0.13.1"):  # with other TP sizes they fail with their rerun state
        migrate(root, to="none-emitting", output=tmp_path / "output")
        root = tmp_path / "output"
    for sizes in OTHER_SIZES[save.sharding_type]:
        ranks = resume(save, checkpoint_of(root), **sizes)
        check_equal(save, ranks, same_sizes=False)


@pytest.mark.parametrize("save", [s for s in HEALTHY if s.sizes == "dp2"][-3:], ids=str)
def test_other_tensor_parallelism_needs_a_form_by_parameter(save: Save, saved: Saved) -> None:
    ranks = resume(save, checkpoint_of(saved(save)), data_parallel=1, tensor_parallel=2)
    if save.sharding_type == BY_PARAMETER:
        check_equal(save, ranks, same_sizes=False)
    else:
        [error] = {rank["error"] for rank in ranks}
        assert error.endswith(
            "(TP, PP) mismatch after resume ((2, 1) vs (1, 1) from checkpoint): not supported for "
            f"DistributedOptimizer with sharding type {save.sharding_type}."
        )
        job = Job(tensor=2, pipeline=1, world=2)
        assert ask(saved(save), save.writer, job).obstacles[0].error == error
        without = ask(saved(save), save.writer, dataclasses.replace(job, no_load_optim=True))
        assert error not in [o.error for o in without.obstacles]


def test_0_16_requests_the_rng_states_of_its_own_expert_parallelism(
    saved: Saved, tmp_path: Path
) -> None:
    """A migration has the grid of the checkpoint's; a job with another one needs --no-load-rng."""
    save, root = Save("0.14.0", FLATTENED, "moe"), tmp_path / "root"
    migrate(saved(save), to="0.16.1", optimizer="convert", output=root)
    checkpoint = checkpoint_of(root)
    check_equal(save, resume(save, checkpoint, "0.16.1"))
    for experts, missing in ((1, ["0.0_1.1"]), (2, [])):
        ranks = resume(save, checkpoint, "0.16.1", expert_parallel=experts)
        errors = {rank["error"] for rank in ranks if rank["error"]}
        text = "RuntimeError: Missing key in checkpoint state_dict: rng_state/shard_{}."
        assert errors == {text.format(each) for each in missing}
        predicted = ask(root, "0.16.1", Job(expert=experts)).obstacles
        assert [each.error for each in predicted] == sorted(errors)


# -- without the optimizer

# In `make test`, one of each form of the keys.
WEIGHTS = [
    Save("0.9.0", FLATTENED, "buckets"),
    Save("0.14.0", GATHERED, "tp2"),
    Save("0.15.3", BY_BUCKET, "tp2pp2"),
    Save("0.16.1", BY_PARAMETER, "buckets"),
]


@pytest.mark.parametrize(
    "save",
    [
        pytest.param(save, id=str(save), marks=[] if save in WEIGHTS else [pytest.mark.full])
        for save in SAVES
    ],
)
def test_weights_without_the_optimizer(save: Save, saved: Saved, tmp_path: Path) -> None:
    """The result is as a save with --no-save-optim, and loads with --no-load-optim.

    Also if the release damaged the optimizer. In the other releases, too.
    """
    root = tmp_path / "output"
    migrate(saved(save), optimizer="drop", compact=True, output=root)
    own = tmp_path / "own" / "iter_0000005"
    options = {"sharding_type": save.sharding_type, "no_save_optim": True}
    check_equal(save, resume(save, own, save="idle", **options))
    one, two = (torch_side.read(each) for each in (checkpoint_of(root), own))
    assert one.metadata.state_dict_metadata.keys() == two.metadata.state_dict_metadata.keys()
    assert one.common.keys() == two.common.keys()
    assert torch_side.plain(one.common) == torch_side.plain(two.common)
    check_equal(save, resume(save, checkpoint_of(root), no_load_optim=True), same_sizes=False)
    [error] = {rank["error"] for rank in resume(save, checkpoint_of(root))}
    assert [error] == [o.error for o in ask(root, save.writer).obstacles]
    for reader in ("0.13.1", "0.16.1"):
        if reader != save.writer:
            other = tmp_path / reader
            migrate(saved(save), to=reader, optimizer="drop", compact=True, output=other)
            ranks = resume(save, checkpoint_of(other), reader, no_load_optim=True)
            check_equal(save, ranks, same_sizes=False)


# -- converted, then loaded by another release


def converted_type(reader: str) -> str:
    """The sharding type that every job of a release loads, whatever its sizes."""
    return FLATTENED if RELEASES.index(reader) < RELEASES.index("0.15.3") else BY_PARAMETER


CONVERSIONS = [
    (save, reader)
    for save in HEALTHY
    for reader in RELEASES
    if (reader, save.sizes) != ("0.10.0", "moe")
    # Flattened states are converted if the form for one dimension is another and is not read.
    if save.sharding_type != converted_type(reader)
    or (save.sharding_type == FLATTENED and not is_plain(save.writer) and is_plain(reader))
]
# Context parallelism, which is as data parallelism to the optimizer, and a loss scaler.
CONVERSIONS += [
    *((Save("0.13.1", FLATTENED, sizes), "0.16.1") for sizes in ("cp2", "fp16")),
    *((Save("0.16.1", BY_BUCKET, sizes), "0.13.1") for sizes in ("cp2", "fp16")),
    (Save("0.13.1", GATHERED, "fp16"), "0.16.1"),
]
# In `make test`, each type in both directions.
QUICK = [
    (Save("0.9.0", FLATTENED, "buckets"), "0.16.1"),
    (Save("0.13.1", FLATTENED, "buckets"), "0.10.0"),
    (Save("0.13.1", GATHERED, "tp2pp2"), "0.16.1"),
    (Save("0.14.0", GATHERED, "tp2"), "0.12.3"),
    (Save("0.16.1", BY_BUCKET, "buckets"), "0.13.1"),
    (Save("0.15.3", BY_BUCKET, "tp2pp2"), "0.16.1"),
    (Save("0.16.1", BY_PARAMETER, "dp2"), "0.9.0"),
]


@pytest.mark.parametrize(
    ("save", "reader"),
    [
        pytest.param(
            save,
            reader,
            id=f"{save}-to-{reader}",
            marks=[] if (save, reader) in QUICK else [pytest.mark.full],
        )
        for save, reader in CONVERSIONS
    ],
)
def test_another_release_loads_what_is_converted(
    save: Save, reader: str, saved: Saved, tmp_path: Path
) -> None:
    """With the sizes of the writer, and with others."""
    root, type_ = tmp_path / "output", converted_type(reader)
    # 0.16 saves the RNG states of every rank with experts; an older release drops all but one.
    allow = ("rng-state",) if (save.writer, save.sizes) == ("0.16.1", "moe") else ()
    [plan] = migrate(saved(save), to=reader, optimizer_type=type_, output=root, allow_loss=allow)
    assert plan.optimizer is not None
    assert ask(root, reader).resumes
    ranks = resume(save, checkpoint_of(root), reader)
    check_equal(save, ranks)
    assert steps(ranks) == {7}
    if save.sizes in ("dp2", "buckets"):
        other = {"data_parallel": 4, "bucket_size": 700}
        check_equal(save, resume(save, checkpoint_of(root), reader, **other), same_sizes=False)


# -- a second generation: another release trains and saves, and the writer resumes from that


DETOURS = [
    (save, reader)
    for save in HEALTHY
    # 0.16 saves the RNG states of every rank with experts; an older release drops all but one.
    if (save.writer, save.sizes) != ("0.16.1", "moe")
    if save.sizes in ("buckets", "moe") or save.sharding_type == BY_PARAMETER
    for reader in RELEASES
    if reader != save.writer
    if (reader, save.sizes) != ("0.10.0", "moe")
    # What the reader saves by default is another type, or is not read by the writer.
    if TYPES[reader][0] != TYPES[save.writer][0] or is_plain(reader) != is_plain(save.writer)
]


@pytest.mark.parametrize(
    ("save", "reader"),
    [
        pytest.param(
            save,
            reader,
            id=f"{save}-over-{reader}",
            marks=[]
            if (str(save), reader) == (f"0.13.1-{FLATTENED}-buckets", "0.16.1")
            else [pytest.mark.full],
        )
        for save, reader in DETOURS
    ],
)
def test_a_second_generation(save: Save, reader: str, saved: Saved, tmp_path: Path) -> None:
    """The optimizer is, step by step, that of a job which never left its release."""
    check_detour(save, reader, saved(save), tmp_path)


@pytest.mark.full
@pytest.mark.parametrize(("writer", "reader"), [("0.13.1", "0.16.1"), ("0.16.1", "0.12.3")])
def test_a_second_generation_without_distributed_optimizer(
    writer: str, reader: str, tmp_path: Path
) -> None:
    save = Save(writer, TYPES[writer][0], "dp2")
    job = {"use_distributed_optimizer": False}
    resume(save, tmp_path / "root" / "iter_0000005", save="idle", **job)
    check_detour(save, reader, tmp_path / "root", tmp_path, **job)


@pytest.mark.full
@pytest.mark.parametrize(("writer", "reader"), [("0.14.0", "0.16.1"), ("0.16.1", "0.14.0")])
def test_a_second_generation_with_a_fault(writer: str, reader: str, tmp_path: Path) -> None:
    """The other release reruns the step that failed, and goes on."""
    save = Save(writer, TYPES[writer][0], "buckets")
    check_equal(save, resume(save, tmp_path / "root" / "iter_0000005", save="fault"))
    check_detour(save, reader, tmp_path / "root", tmp_path, first={"step": True})


def check_detour(
    save: Save, reader: str, root: Path, parent: Path, *, first: dict[str, Any] | None = None,
    **job: Any,
) -> None:  # fmt: skip
    """Check a job that trains a step with another release, and one more with its own.

    Args:
        root: what the release of `save` wrote.
        first: fields of the jobs that resume from it.
        job: fields of all jobs.
    """
    first = {**job, **(first or {})}
    there, back = parent / "there", parent / "back"
    others = parent / "others" / "iter_0000006"
    own, direct = (parent / name / "iter_0000007" for name in ("own", "direct"))
    type_ = {"sharding_type": save.sharding_type}
    migrate(root, to=reader, optimizer="convert", output=there)
    ranks = resume(save, checkpoint_of(there), reader, train=1, again=str(others), **first)
    check_trained(ranks, 7 + 1)
    migrate(others.parent, to=save.writer, optimizer="convert", output=back)
    ranks = resume(save, checkpoint_of(back), train=1, steps=1, again=str(own), **type_, **job)
    check_trained(ranks, 7 + 2)
    check_trained(
        resume(save, checkpoint_of(root), train=2, again=str(direct), **type_, **first), 7 + 2
    )
    found = diff(direct.parent, own.parent, values=True)
    # storage_meta has the path and a random name of each save.
    assert [str(each) for each in found if "storage_meta." not in each.name] == []


def check_trained(ranks: list[dict[str, Any]], step: int) -> None:
    """Every rank holds what the formula says after these steps, and no rank reruns a step."""
    assert [(rank["error"], rank.get("unequal")) for rank in ranks] == [(None, [])] * len(ranks)
    assert steps(ranks) == {step}
    assert all(rank.get("resumed", [0, False]) == [0, False] for rank in ranks)


# -- controls: the jobs notice what is wrong


def test_exchanged_moments_show(saved: Saved, tmp_path: Path) -> None:
    save = Save("0.13.1", FLATTENED, "buckets")
    key = "decoder.final_layernorm.weight"
    first, second = (f"optimizer.state.{state}.{key}" for state in ("exp_avg", "exp_avg_sq"))
    root = tmp_path / "exchanged"
    shutil.copytree(saved(save), root)
    torch_side.edit_metadata(
        root, lambda metadata: torch_side.rename(metadata, {first: second, second: first})
    )
    ranks = resume(save, checkpoint_of(root))
    found = [tuple(each) for rank in ranks for each in rank["unequal"]]
    assert {each[:2] for each in found} == {(key, "exp_avg"), (key, "exp_avg_sq")}
    assert sum(count for *_, count in found) == 2 * 16


def test_a_missing_step_shows(saved: Saved) -> None:
    save = Save("0.13.1", FLATTENED, "buckets")
    ranks = resume(save, checkpoint_of(saved(save)), steps=1)
    assert all(len(rank["unequal"]) > 10 for rank in ranks)
