"""Real releases save, a migration follows, and real releases load: all in one run.

No shipped sample is involved. The jobs are those of ckptmigrate/measuring/training_job; what must
arrive is written here by hand, or read from what was saved with real torch.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_side
from conftest import tree_hash
from real_releases import run_jobs
from test_real_readers import as_told, digest

import ckptmigrate

RELEASES = ("0.9.0", "0.10.0", "0.11.0", "0.12.3", "0.13.1", "0.14.0", "0.15.3", "0.16.1")
LASTING = RELEASES[5:]  # among these a fault context keeps its meaning
SIZES: dict[str, dict[str, int]] = {
    "w1": {},
    "tp2pp2": {"tensor_parallel": 2, "pipeline_parallel": 2},
    "cp2": {"context_parallel": 2},
}


@dataclass(frozen=True)
class Case:
    """A save of one release that another one loads."""

    writer: str
    reader: str
    scenario: str
    sizes: str

    @property
    def saved(self) -> str:
        """The name of the root that the writer saves."""
        return f"{self.writer}-{self.scenario}-{self.sizes}"

    @property
    def id(self) -> str:
        """A name for people and folders."""
        return f"{self.saved}-in-{self.reader}"


CASES = [
    *(Case(a, b, "idle", "tp2pp2" if a == "0.13.1" else "w1") for a in RELEASES for b in RELEASES),
    *(
        Case(a, b, "disabled", "w1")
        for a, b in (("0.10.0", "0.16.1"), ("0.13.1", "0.11.0"), ("0.16.1", "0.10.0"))
    ),
    *(Case(a, b, "fault", s) for a in LASTING for b in LASTING for s in ("tp2pp2", "cp2")),
    # Up to 0.13 a context that moves means nothing: the declared loss.
    *(Case(a, b, "fault", "tp2pp2") for a, b in (("0.12.3", "0.16.1"), ("0.16.1", "0.11.0"))),
]


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Where the saves lie, and what the ranks of each case tell; the first test runs them all."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, file = shared / "saves", shared / "saves.json"
    with open(shared / "saves.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            folder.mkdir()
            file.write_text(json.dumps(run_all(folder)))
    yield folder, json.loads(file.read_text())


def run_all(folder: Path) -> dict[str, Any]:
    """Save, migrate and load; the ranks of each case by id."""
    for writer in RELEASES:
        cases = {case.saved: case for case in CASES if case.writer == writer}
        wanted = [
            {
                "checkpoint": str(folder / saved / "iter_0000005"),
                "save": case.scenario,
                **SIZES[case.sizes],
            }
            for saved, case in cases.items()
        ]
        for saved, ranks in zip(cases, run_jobs(writer, wanted), strict=True):
            assert [rank["error"] for rank in ranks] == [None] * len(ranks), saved
    hashes = {root.name: tree_hash(root) for root in folder.iterdir()}
    results = {}
    for reader in RELEASES:
        cases = {case.id: case for case in CASES if case.reader == reader}
        wanted = [
            {
                "checkpoint": str(migrated(case, folder) / "iter_0000005"),
                "step": case.scenario == "fault" and reader in LASTING,
                **SIZES[case.sizes],
            }
            for case in cases.values()
        ]
        results |= dict(zip(cases, run_jobs(reader, wanted), strict=True))
    assert {name: tree_hash(folder / name) for name in hashes} == hashes
    return results


def migrated(case: Case, folder: Path) -> Path:
    lost = case.scenario == "fault" and not {case.writer, case.reader} <= set(LASTING)
    [plan] = ckptmigrate.migrate(
        folder / case.saved,
        to=case.reader,
        output=folder / case.id,
        allow_loss=["fault-context"] if lost else [],
    )
    return folder / (case.saved if plan.satisfied else case.id)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_what_one_release_saves_another_one_loads(
    case: Case, told: tuple[Path, dict[str, Any]]
) -> None:
    folder, results = told
    source = torch_side.read(folder / case.saved / "iter_0000005")
    tensors = {key: digest(tensor) for key, tensor in source.tensors.items()}
    assert len(tensors) == (6 if case.sizes == "tp2pp2" else 4)
    ranks = results[case.id]
    assert len(ranks) == {"w1": 1, "tp2pp2": 4, "cp2": 2}[case.sizes]
    for number, rank in enumerate(ranks):
        assert (rank["stage"], rank["error"], rank["iteration"]) == ("done", None, 5)
        assert rank["tensors"] == tensors
        assert [key for key in rank["objects"] if key.startswith("rng_state/")]
        if case.scenario == "fault" and {case.writer, case.reader} <= set(LASTING):
            check_fault(rank, number, len(ranks), source)
        elif case.reader != "0.9.0":
            assert rank["machine"]["state"] == ["RerunState", 0]
            assert rank["machine"]["failed_validation_call"] is None


def check_fault(rank: dict[str, Any], number: int, world: int, source: torch_side.Contents) -> None:
    """The context of this very rank arrived, and one more step of training finds the call."""
    machine = rank["machine"]
    assert machine["state"] == ["RerunState", 3]  # WILL_RERUN_FROM_CHECKPOINT
    assert machine["current_iteration"] == 5
    key = f"rerun_state_machine_state/shard_{number}_{world}"
    assert rank["requested"] == [key]
    [payload] = source.object(key)
    assert machine == as_told({**source.common["rerun_state_machine"], **payload})
    tokens = ["tensor", "torch.int64", list(range(number, number + 8))]
    [iterator] = machine["data_iterator_checkpoints"]
    assert iterator["saved_microbatches"] == [{"tokens": tokens}]
    failing = number == world - 1
    assert (machine["failed_validation_call"] is not None) == failing
    if failing:
        assert machine["failed_validation_call"] == [["loss is NaN", number], 1]
    # The result is confirmed on another GPU: NOT_RUNNING_YET, and the job need not exit.
    assert rank["resumed"] == [0, False]


def test_a_context_that_is_not_found_again_shows(told: tuple[Path, dict[str, Any]]) -> None:
    """A control: with the payloads of two ranks exchanged, the same step ends the job."""
    folder, _ = told
    root = folder / "control"
    ckptmigrate.migrate(folder / "0.14.0-fault-cp2", to="none-emitting", output=root)
    checkpoint = root / "iter_0000005"
    metadata = torch_side.read(checkpoint).metadata
    keys = [f"rerun_state_machine_state/shard_{number}_2" for number in range(2)]
    rows = {index.fqn: index for index in metadata.storage_data if index.fqn in keys}
    first, second = (rows[key] for key in keys)
    data = metadata.storage_data
    data[first], data[second] = data[second], data[first]
    (checkpoint / ".metadata").unlink()
    with torch_side.megatron_names(), open(checkpoint / ".metadata", "wb") as file:
        pickle.dump(metadata, file)
    job = {"checkpoint": str(checkpoint), "step": True, **SIZES["cp2"]}
    [ranks] = run_jobs("0.14.0", [job])
    assert [rank["error"] for rank in ranks] == [None, None]
    assert [rank["resumed"] for rank in ranks] == [[4, True]] * 2  # RERUNNING_FROM_CHECKPOINT


def test_torch_is_the_pinned_one() -> None:
    """The figures of the matrix are those of this torch."""
    assert torch.__version__.partition("+")[0] == "2.13.0"
