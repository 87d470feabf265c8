"""Real releases save, a migration follows, and real releases load.

No shipped sample is involved. The jobs are those of
ckptmigrate/measuring/training_job; what must arrive is written here by hand, or read from
what was saved with real torch.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_side
from conftest import tree_hash
from real_releases import run_jobs

import ckptmigrate

RELEASES = ("0.9.0", "0.10.0", "0.11.0", "0.12.3", "0.13.1", "0.14.0", "0.15.3", "0.16.1")
LASTING = RELEASES[5:]  # among these a fault context keeps its meaning
SIZES: dict[str, dict[str, int]] = {
    "w1": {},
    "tp2pp2": {"tensor_parallel": 2, "pipeline_parallel": 2},
    "cp2": {"context_parallel": 2},
}


@dataclass(frozen=True)
class Save:
    """What a job of a release saves.

    Attributes:
        writer: the release.
        scenario: `idle`, `disabled` or `fault`.
        sizes: a name in SIZES.
    """

    writer: str
    scenario: str
    sizes: str

    def keeps_fault(self, reader: str) -> bool:
        """Whether there is a fault context that means something to a reader, too."""
        return self.scenario == "fault" and {self.writer, reader} <= {*LASTING}


CASES = [
    *(
        (Save(writer, "idle", "tp2pp2" if writer == "0.13.1" else "w1"), reader)
        for writer in RELEASES
        for reader in RELEASES
    ),
    (Save("0.10.0", "disabled", "w1"), "0.16.1"),
    (Save("0.13.1", "disabled", "w1"), "0.11.0"),
    (Save("0.16.1", "disabled", "w1"), "0.10.0"),
    *(
        (Save(writer, "fault", sizes), reader)
        for writer in LASTING
        for reader in LASTING
        for sizes in ("tp2pp2", "cp2")
    ),
    # Up to 0.13 a context that moves means nothing: the declared loss.
    (Save("0.12.3", "fault", "tp2pp2"), "0.16.1"),
    (Save("0.16.1", "fault", "tp2pp2"), "0.11.0"),
]
FAR = [
    (Save("0.9.0", "idle", "w1"), "0.16.1"),
    (Save("0.10.0", "disabled", "w1"), "0.16.1"),
    (Save("0.14.0", "fault", "tp2pp2"), "0.16.1"),
    (Save("0.16.1", "fault", "tp2pp2"), "0.11.0"),
]


def grouped() -> list[Any]:
    """Each save with its readers; those that only `make test-full` asks are apart.

    `make test` has the releases beside the writer and FAR, but for faults of four ranks FAR alone.
    """
    groups: dict[tuple[Save, bool], list[str]] = {}
    for save, reader in CASES:
        near = abs(RELEASES.index(save.writer) - RELEASES.index(reader)) < 2
        near = near and (save.scenario, save.sizes) != ("fault", "tp2pp2")
        groups.setdefault((save, near or (save, reader) in FAR), []).append(reader)
    return [
        pytest.param(
            save,
            readers,
            id=f"{save.writer}-{save.scenario}-{save.sizes}" + ("" if quick else "-rest"),
            marks=[] if quick else [pytest.mark.full],
        )
        for (save, quick), readers in groups.items()
    ]


@pytest.mark.parametrize(("save", "readers"), grouped())
def test_what_one_release_saves_others_load(save: Save, readers: list[str], tmp_path: Path) -> None:
    root = saved(save, tmp_path)
    before = tree_hash(root)
    source = torch_side.read(root / "iter_0000005")
    assert len(source.tensors) == (6 if save.sizes == "tp2pp2" else 4)
    for reader in readers:
        checkpoint = migrated(save, root, reader) / "iter_0000005"
        step = save.scenario == "fault" and reader in LASTING
        job = {"checkpoint": str(checkpoint), "step": step, **SIZES[save.sizes]}
        [ranks] = run_jobs(reader, [job])
        check_ranks(save, reader, ranks, source)
    assert tree_hash(root) == before


def saved(save: Save, folder: Path) -> Path:
    """The root that a job of the release saves."""
    root = folder / "saved"
    job = {"checkpoint": str(root / "iter_0000005"), "save": save.scenario, **SIZES[save.sizes]}
    [ranks] = run_jobs(save.writer, [job])
    assert [rank["error"] for rank in ranks] == [None] * len(ranks)
    return root


def migrated(save: Save, root: Path, reader: str) -> Path:
    """The root that the reader loads."""
    output = root.with_name(f"for-{reader}")
    loss = save.scenario == "fault" and not save.keeps_fault(reader)
    allowed = ["fault-context"] if loss else []
    [plan] = ckptmigrate.migrate(root, to=reader, output=output, allow_loss=allowed)
    return root if plan.satisfied else output


def check_ranks(
    save: Save, reader: str, ranks: list[dict[str, Any]], source: torch_side.Contents
) -> None:
    """Every rank has all tensors, and the rerun state that it should."""
    tensors = torch_side.reported_tensors(source)
    assert len(ranks) == {"w1": 1, "tp2pp2": 4, "cp2": 2}[save.sizes]
    for number, rank in enumerate(ranks):
        assert (rank["stage"], rank["error"], rank["iteration"]) == ("done", None, 5)
        assert rank["tensors"] == tensors
        assert [key for key in rank["objects"] if key.startswith("rng_state/")]
        if save.keeps_fault(reader):
            check_fault(rank, number, len(ranks), source)
        elif reader != "0.9.0":
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
    assert machine == torch_side.reported({**source.common["rerun_state_machine"], **payload})
    tokens = ["tensor", "torch.int64", list(range(number, number + 8))]
    [iterator] = machine["data_iterator_checkpoints"]
    assert iterator["saved_microbatches"] == [{"tokens": tokens}]
    failing = number == world - 1
    assert (machine["failed_validation_call"] is not None) == failing
    if failing:
        assert machine["failed_validation_call"] == [["loss is NaN", number], 1]
    # The result is confirmed on another GPU: NOT_RUNNING_YET, and the job need not exit.
    assert rank["resumed"] == [0, False]


def test_a_context_that_is_not_found_again_shows(tmp_path: Path) -> None:
    """A control: with the payloads of two ranks exchanged, the same step ends the job."""
    root = tmp_path / "control"
    source = saved(Save("0.14.0", "fault", "cp2"), tmp_path)
    ckptmigrate.migrate(source, to="none-emitting", output=root)
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
