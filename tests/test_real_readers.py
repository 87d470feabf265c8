"""Real Megatron-Core releases load migrated checkpoints and end up with the state they should.

`make readers` installs the releases into .readers/ (or $CKPTMIGRATE_READERS), one folder each.
ckptmigrate/measuring/training_job does what a training job of that release does on load.
What a job must hold is written here by hand, or read from the source checkpoint with real torch
(torch_side.py).
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch_side
from conftest import INDEX, SAMPLES, checkpoint_of
from real_releases import PROGRAM, run_jobs

import ckptmigrate

RERUN = "rerun_state_machine_state/shard_"

# Target -> the reader that represents the layout's releases.
READER_OF = {"sharded-rerun": "0.10.0", "split-rerun": "0.12.3", "none-emitting": "0.14.0"}

# Reader -> releases whose checkpoints name no symbol that the reader cannot resolve or does not
# allow. For all others the job resolves foreign symbols (samples/raw_matrix.json has the
# errors without that). To translate the symbols is not part of a rerun layout.
_TO_0_14 = ("0.9.0", "0.10.0", "0.11.0", "0.12.3", "0.13.1", "0.14.0")
UNDERSTANDS = {
    "0.9.0": ("0.9.0", "0.10.0"),
    "0.10.0": ("0.9.0", "0.10.0"),
    "0.11.0": (*_TO_0_14, "0.16.1", "0.17.1"),
    "0.12.3": (*_TO_0_14, "0.16.1", "0.17.1"),
    "0.14.0": _TO_0_14,
}

# (target, scenario) -> mode and current_iteration of the machine after the load. The job runs
# with validate_results, and a machine that takes nothing over stays at iteration -1.
IDLE = {
    ("sharded-rerun", "idle"): ("validate_results", 5),
    ("sharded-rerun", "disabled"): ("disabled", 5),  # 0.10 takes over every mode
    ("split-rerun", "idle"): ("validate_results", 5),
    ("split-rerun", "disabled"): ("validate_results", -1),  # 0.12 ignores a disabled state
    ("none-emitting", "idle"): ("validate_results", -1),
    ("none-emitting", "disabled"): ("validate_results", -1),
}

# Topology, the last part of a sample's name -> what each rank asks for of a (PP, TP) grid.
PP_TP = {
    "w1": ("0.0_1.1",),
    "tp2": ("0.0_1.2", "0.1_1.2"),
    "dp2": ("0.0_1.1", "0.0_1.1"),
    "cp2": ("0.0_1.1", "0.0_1.1"),
    "dopt": ("0.0_1.1", "0.0_1.1"),
    "tp2pp2": ("0.0_2.2", "0.1_2.2", "1.0_2.2", "1.1_2.2"),
}


@dataclass(frozen=True)
class Case:
    """A sample, what to migrate it to, and the release whose job loads it.

    Attributes:
        sample: its name.
        target: the layout or release to migrate it to; None to load the sample as is.
        reader: the release.
        via: a layout to migrate it to before; what ckptmigrate keeps for the way back is removed.
        lose_fault: whether to allow that.
        foreign_symbols: whether the job resolves them; by default where it cannot load otherwise.
        stored_shapes: whether flattened optimizer states are read as ordinary tensors.
        strictness: the job's --dist-ckpt-strictness.
        repaired: whether to repair the sample instead of migrating it.
    """

    sample: str
    target: str | None
    reader: str
    via: str | None = None
    lose_fault: bool = False
    foreign_symbols: bool | None = None
    stored_shapes: bool = False
    strictness: str = "assume_ok_unexpected"
    repaired: bool = False

    @property
    def id(self) -> str:
        """A name for people."""
        via = f"-via-{self.via}" if self.via else ""
        how = f"{via}-to-{self.target}" if self.target else "-as-is"
        how = "-repaired" if self.repaired else how
        return f"{self.sample}{how}-in-{self.reader}"

    @property
    def layout(self) -> str:
        """The layout of the sample."""
        return str(INDEX[self.sample]["layout"])

    @property
    def era(self) -> str:
        """The layout that the reader writes itself."""
        return str(INDEX[f"{self.reader}-idle-w1"]["layout"])

    def job(self, checkpoint: Path) -> dict[str, Any]:
        """The job for the program."""
        facts = INDEX[self.sample]
        foreign = self.foreign_symbols
        if foreign is None:
            foreign = facts["release"] not in UNDERSTANDS[self.reader]
        sizes = ("tensor_parallel", "pipeline_parallel", "context_parallel", "data_parallel")
        return {
            "checkpoint": str(checkpoint),
            **{size: facts[size] for size in sizes},
            "strictness": self.strictness,
            "resolve_foreign_symbols": foreign,
            "stored_shapes": self.stored_shapes,
        }


def samples(*scenarios: str) -> list[str]:
    return [name for name, facts in INDEX.items() if facts["scenario"] in scenarios]


# From 0.11 to 0.15 flattened optimizer states of one dimension are stored in another shape than
# through 0.10, which cannot load them (FAILURES has how): there they are read as stored.
RESHAPED = [("0.13.1-idle-dopt", "0.10.0")]

IDLE_CASES = [
    Case(
        sample,
        target,
        READER_OF[target],
        stored_shapes=(sample, READER_OF[target]) in RESHAPED,
    )
    for target in READER_OF
    for sample in samples("idle", "disabled")
] + [
    Case("0.17.1-idle-w1", "sharded-rerun", "0.11.0"),  # the README's first example
    Case("0.10.0-idle-tp2", "sharded-rerun", "0.10.0", via="common-state"),
    Case("0.12.3-idle-w1", "split-rerun", "0.12.3", via="common-state"),
    Case("0.12.3-disabled-tp2", "split-rerun", "0.12.3", via="always-sentinel"),
    Case("0.13.1-idle-tp2", "split-rerun", "0.12.3", via="pre-rerun"),
]
# From 0.14 on a fault context means something to every release that reads the layout.
LASTING = ("none-emitting", "always-sentinel", "common-state")
KEPT_CASES = [
    Case(sample, "none-emitting", "0.14.0")
    for sample in samples("fault")
    if INDEX[sample]["layout"] in LASTING
] + [
    # A fault of 0.14 to 0.18 looks the same in all three layouts but for the common state: here
    # it is written as 0.19 does, and back.
    Case("0.14.0-fault-w1", "none-emitting", "0.14.0", via="common-state"),
    Case("0.17.1-fault-tp2pp2", "none-emitting", "0.14.0", via="common-state"),
    Case("0.18.2-fault-cp2", "none-emitting", "0.14.0", via="common-state"),
    Case("0.18.2-fault-dp2", "none-emitting", "0.14.0", via="common-state"),
]
DROPPED_CASES = [
    Case(sample, target, READER_OF[target], lose_fault=True)
    for target in READER_OF
    for sample in samples("fault")
    if INDEX[sample]["layout"] != target
    and not (target == "none-emitting" and INDEX[sample]["layout"] in LASTING)
]
UNIVERSAL_CASES = [
    Case(sample, "universal", reader)
    for reader in UNDERSTANDS
    for sample in (
        "0.9.0-idle-w1",  # pre-rerun
        "0.10.0-idle-tp2",  # sharded-rerun
        "0.13.1-idle-tp2",  # split-rerun
        "0.16.1-idle-tp2",  # none-emitting
        "0.18.2-idle-tp2",  # always-sentinel
        "0.19.0-idle-tp2",  # common-state
    )
]
# Releases as targets: the job resolves no foreign symbols, the migration replaced them.
RELEASE_CASES = [
    Case(sample, reader, reader, foreign_symbols=False)
    for reader in ("0.9.0", "0.10.0", "0.11.0", "0.12.3", "0.13.1", "0.14.0", "0.15.3", "0.16.1")
    for sample in samples("idle")
    if sample.endswith("-w1")
] + [
    Case(sample, reader, reader, foreign_symbols=False)
    for reader in ("0.14.0", "0.15.3", "0.16.1")
    for sample in ("0.14.0-fault-w1", "0.17.1-fault-tp2pp2", "0.18.2-fault-cp2", "0.19.0-fault-w1")
]
STRICT_CASES = [
    Case(sample, "none-emitting", "0.14.0", strictness="raise_all")
    for sample in ("0.10.0-idle-w1", "0.13.1-idle-tp2", "0.18.2-idle-tp2", "0.19.0-idle-w1")
]
# `--to RELEASE --strict`, for a job of it that runs with raise_all.
STRICT_RELEASE_CASES = [
    Case(sample, reader, reader, foreign_symbols=False, strictness="raise_all")
    for reader in ("0.9.0", "0.10.0", "0.11.0", "0.12.3", "0.13.1", "0.14.0", "0.15.3", "0.16.1")
    for sample in ("0.10.0-idle-w1", "0.12.3-idle-w1", "0.18.2-idle-w1", "0.19.0-idle-w1")
]
# Samples as is, in a release that writes their layout: the program does see a fault context.
UNMIGRATED_FAULTS = [
    Case("0.10.0-fault-w1", None, "0.10.0"),
    Case("0.12.3-fault-w1", None, "0.12.3"),
    Case("0.12.3-fault-dp2", None, "0.12.3"),
    Case("0.14.0-fault-w1", None, "0.14.0"),
]
# And it does fail: (stage, part of the error message) of samples as is.
FAILURES = {
    Case("0.17.1-idle-w1", None, "0.11.0"): (
        "load",
        "Missing key in checkpoint state_dict: rerun_state_machine_state/shard_0.0_1.1",
    ),
    Case("0.18.2-idle-w1", None, "0.10.0"): (
        "load",
        "Missing key in checkpoint state_dict: rerun_state_machine_state/shard_0.0_1.1",
    ),
    Case("0.12.3-idle-w1", None, "0.10.0"): ("rerun state", "KeyError: 'last_loss'"),
    Case("0.14.0-fault-w1", None, "0.12.3"): (
        "load",
        "Missing key in checkpoint state_dict: rerun_state_machine_state/shard_0.0_1.1",
    ),
    Case("0.17.1-corrupt-tp2", None, "0.14.0"): (
        "load",
        "Missing key in checkpoint state_dict: rerun_state_machine_state/shard_",
    ),
    Case("0.17.1-corrupt-tp2", None, "0.16.1", foreign_symbols=False): (
        "load",
        "Missing key in checkpoint state_dict: rerun_state_machine_state/shard_",
    ),
    Case("0.19.0-idle-w1", None, "0.12.3"): ("common state", "no attribute 'iterdir'"),
    Case("0.18.2-idle-w1", None, "0.14.0", strictness="raise_all"): (
        "load",
        "Missing keys (for all ranks): {'rerun_state_machine_state'}",
    ),
    Case("0.13.1-idle-dopt", None, "0.10.0"): (
        "load",
        "Global shape mismatch for loaded (torch.Size([1, 16])) and expected ((16,)) tensor for "
        "key optimizer.state.exp_avg.decoder.final_layernorm.bias",
    ),
    Case("0.18.2-idle-w1", None, "0.12.3", foreign_symbols=False): (
        "common state",
        "Can't get attribute 'InferenceCudaGraphScope'",
    ),
    Case("0.16.1-idle-w1", None, "0.14.0", foreign_symbols=False): (
        "common state",
        "Unsupported global: GLOBAL signal.Signals",
    ),
}
REPAIRED_CASES = [
    Case("0.17.1-corrupt-tp2", None, "0.16.1", foreign_symbols=False, repaired=True),
]


# -- running a case

Ranks = list[dict[str, Any]]
Load = Callable[[Case], Ranks]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Migrate the checkpoint of a case, load it, and return what each rank reports."""

    def ranks_of(case: Case) -> Ranks:
        checkpoint = checkpoint_of(migrated(case, tmp_path))
        [ranks] = run_jobs(case.reader, [case.job(checkpoint)])
        assert len(ranks) == INDEX[case.sample]["world_size"]
        return ranks

    return ranks_of


def migrated(case: Case, folder: Path) -> Path:
    """The root of a case's checkpoint: the sample, or what the migration makes of it."""
    root, output = SAMPLES / case.sample, folder / "migrated"
    if case.repaired:
        ckptmigrate.repair(root, output=output)
        return output
    if case.target is None:
        return root
    if case.via is not None:
        middle = folder / "middle"
        ckptmigrate.migrate(root, to=case.via, output=middle)
        forget_the_original(checkpoint_of(middle))
        root = middle
    [plan] = ckptmigrate.migrate(
        root,
        to=case.target,
        output=output,
        allow_loss=["fault-context"] if case.lose_fault else [],
        strict=case.strictness == "raise_all" and case.target == case.reader,
    )
    return root if plan.satisfied else output


def forget_the_original(checkpoint: Path) -> None:
    """Remove the sidecar, so that the next migration converts instead of restoring."""
    (checkpoint / "ckptmigrate.json").unlink()
    shutil.rmtree(checkpoint / ".ckptmigrate")


# -- what the source holds


@functools.cache
def source(sample: str) -> torch_side.Contents:
    return torch_side.read(checkpoint_of(SAMPLES / sample))


def fault_context(sample: str, key: str) -> Any:
    """What a machine must hold after a fault, as the source has it for one rerun shard."""
    contents = source(sample)
    [payload] = contents.object(key)
    return torch_side.reported({**contents.common.get("rerun_state_machine", {}), **payload})


# -- checks


def check_loaded(case: Case, ranks: Ranks) -> None:
    """Every rank finished, at the same iteration, with every bit of every tensor."""
    contents = source(case.sample)
    tensors = torch_side.reported_tensors(contents)
    objects = contents.blobs.keys() - contents.rerun_keys - {"common_state/shard_0_1"}
    assert tensors
    assert objects
    for rank in ranks:
        assert (rank["stage"], rank["error"]) == ("done", None)
        assert rank["iteration"] == 5
        assert rank["tensors"] == tensors
        assert rank["objects"] == sorted(objects)


def check_idle(machine: dict[str, Any], mode: str, iteration: int) -> None:
    """The machine starts the next iteration with no fault recorded."""
    assert machine["state"] == ["RerunState", 0]  # NOT_RUNNING_YET
    assert machine["mode"] == ["RerunMode", mode]
    assert machine["current_iteration"] == iteration
    for flag in ("rerun", "checkpoint", "restart_again", "continue"):
        assert machine[f"{flag}_requested"] is False
    for fact in ("failed_validation_call", "initial_result", "suspicious_node"):
        assert machine[fact] is None
    assert machine["suspicious_device"] is None
    iterators = machine["data_iterator_checkpoints"] or []
    assert not any(iterator["saved_microbatches"] for iterator in iterators)
    assert machine.get("last_loss") is None


def check_requested(case: Case, ranks: Ranks, *, grid: bool) -> None:
    """Each rank asked for its place in the (PP, TP) grid, or none asked for anything."""
    places = PP_TP[case.sample.rsplit("-", 1)[1]]
    wanted = [[RERUN + place] if grid else [] for place in places]
    assert [rank["requested"] for rank in ranks] == wanted


def named(
    cases: list[Case], alike: Callable[[Case], object] = lambda case: case
) -> pytest.MarkDecorator:
    """Parameters: `sample` apart, so that the fixture that guards the samples sees it.

    Args:
        alike: equal for cases of which `make test` runs the first; `make test-full` runs all.
    """
    first = {alike(case): case for case in reversed(cases)}
    marks = {False: [pytest.mark.full], True: []}
    return pytest.mark.parametrize(
        ("sample", "case"),
        [
            pytest.param(case.sample, case, id=case.id, marks=marks[first[alike(case)] is case])
            for case in cases
        ],
    )


# -- tests


@named(
    IDLE_CASES,
    lambda c: (c.layout, INDEX[c.sample]["scenario"], c.target, c.reader, c.via, c.stored_shapes),
)
def test_idle_and_disabled_checkpoints_are_loaded(sample: str, case: Case, load: Load) -> None:
    ranks = load(case)
    check_loaded(case, ranks)
    check_requested(case, ranks, grid=case.target != "none-emitting")
    mode, iteration = IDLE[case.target or "", INDEX[sample]["scenario"]]
    for rank in ranks:
        check_idle(rank["machine"], mode, iteration)


@named(KEPT_CASES, lambda c: (c.layout, c.via))
def test_a_fault_context_arrives_rank_by_rank(sample: str, case: Case, load: Load) -> None:
    ranks = load(case)
    check_loaded(case, ranks)
    world = len(ranks)
    for number, rank in enumerate(ranks):
        key = f"{RERUN}{number}_{world}"
        assert rank["requested"] == [key]
        assert rank["machine"] == fault_context(sample, key)
        check_fault_by_hand(rank["machine"], number, failing=number == world - 1)


def check_fault_by_hand(machine: dict[str, Any], rank: int, *, failing: bool) -> None:
    """What the fault samples of 0.14 and later were made with, for one rank."""
    assert machine["mode"] == ["RerunMode", "validate_results"]
    assert machine["state"] == ["RerunState", 3]  # WILL_RERUN_FROM_CHECKPOINT
    assert machine["current_iteration"] == 5
    tokens = ["tensor", "torch.int64", list(range(rank, rank + 8))]
    assert machine["data_iterator_checkpoints"] == [
        {"saved_microbatches": [{"tokens": tokens}], "replaying": False, "replay_pos": 0}
    ]
    facts = ("failed_validation_call", "initial_result", "suspicious_node", "suspicious_device")
    found = [machine[fact] for fact in facts]
    call = [["loss is NaN", rank], 1]
    assert found == ([call, "nan", "node-017", 3] if failing else [None] * 4)


@named(DROPPED_CASES, lambda c: (c.layout, c.target))
def test_a_dropped_fault_context_leaves_an_idle_job(sample: str, case: Case, load: Load) -> None:
    ranks = load(case)
    check_loaded(case, ranks)
    check_requested(case, ranks, grid=case.target != "none-emitting")
    mode, iteration = IDLE[case.target or "", "idle"]
    for rank in ranks:
        check_idle(rank["machine"], mode, iteration)


@named(UNIVERSAL_CASES, lambda c: c.layout if c.reader == "0.10.0" else c.reader)
def test_every_reader_loads_the_universal_layout(sample: str, case: Case, load: Load) -> None:
    ranks = load(case)
    check_loaded(case, ranks)
    asks = case.reader in ("0.10.0", "0.11.0")  # and so takes the iteration over
    check_requested(case, ranks, grid=asks)
    for rank in ranks:
        if case.reader == "0.9.0":  # it has no rerun state machine
            assert "machine" not in rank
        else:
            check_idle(rank["machine"], "validate_results", 5 if asks else -1)


@named(RELEASE_CASES, lambda c: (c.era, c.layout, INDEX[c.sample]["scenario"]))
def test_every_release_resumes_after_one_command(sample: str, case: Case, load: Load) -> None:
    ranks = load(case)
    check_loaded(case, ranks)
    for rank in ranks:
        if case.reader == "0.9.0":
            assert "machine" not in rank
        elif INDEX[sample]["scenario"] == "fault":
            [key] = rank["requested"]
            assert rank["machine"] == fault_context(sample, key)
        else:
            assert rank["machine"]["state"] == ["RerunState", 0]


@named(STRICT_CASES)
def test_none_emitting_idle_loads_with_raise_all(sample: str, case: Case, load: Load) -> None:
    ranks = load(case)
    check_loaded(case, ranks)
    for rank in ranks:
        check_idle(rank["machine"], "validate_results", -1)


@named(STRICT_RELEASE_CASES, lambda c: (c.era, c.sample))
def test_every_release_resumes_under_raise_all(sample: str, case: Case, load: Load) -> None:
    ranks = load(case)
    check_loaded(case, ranks)
    for rank in ranks:
        assert case.reader == "0.9.0" or rank["machine"]["state"] == ["RerunState", 0]


@named(REPAIRED_CASES)
def test_a_repaired_checkpoint_resumes_as_idle(sample: str, case: Case, load: Load) -> None:
    """The control is in FAILURES: without the repair the same job fails on every rank."""
    ranks = load(case)
    check_loaded(case, ranks)
    for rank in ranks:
        assert rank["requested"] == []
        check_idle(rank["machine"], "validate_results", -1)


@named(UNMIGRATED_FAULTS)
def test_the_program_sees_fault_contexts(sample: str, case: Case, load: Load) -> None:
    """A control: what the release itself wrote it restores, with the fault context."""
    ranks = load(case)
    check_loaded(case, ranks)
    for rank in ranks:
        [key] = rank["requested"]
        assert rank["machine"] == fault_context(sample, key)
        assert rank["machine"]["state"] == ["RerunState", 3]


@named(list(FAILURES))
def test_the_program_fails_where_a_job_does(sample: str, case: Case, load: Load) -> None:
    """A control: samples that the release cannot load as is, and how a job fails."""
    stage, words = FAILURES[case]
    for rank in load(case):
        assert rank["stage"] == stage
        assert words in rank["error"]


def test_the_program_knows_nothing_of_ckptmigrate() -> None:
    files = list(PROGRAM.glob("*.py"))
    assert len(files) > 4
    for file in files:
        lines = file.read_text().splitlines()
        assert not [line for line in lines if "import" in line and "ckptmigrate" in line]
