"""`check` and the test jobs against raw_matrix.json: what training did with the optimizer as it is.

tests/optimizer/README.md describes the checkpoints. raw_matrix.json has more of them than this
folder, which has those of six releases.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from real_releases import READERS, run_optimizer_jobs
from test_check import ask, read

from ckptmigrate.measuring import jobs

SAMPLES = Path(__file__).parent / "optimizer"
INDEX: dict[str, dict[str, Any]] = json.loads((SAMPLES / "index.json").read_text())
ROWS: list[dict[str, Any]] = [
    row
    for row in json.loads((SAMPLES / "raw_matrix.json").read_text())
    if (SAMPLES / row["sample"]).is_dir()
]
# The fields of a job that are those of index.json.
SHARED = (
    "tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel", "bucket_size",
    "bf16", "swiglu", "tied_embedding", "experts",
)  # fmt: skip

# The beginning of these errors, which names the global, is not in the file.
CUT_OFF = ("obal if you trust", "bals([signal.Signals])`")


def job_of(sample: str) -> dict[str, Any]:
    """The job that resumes from a sample with the sizes that it was saved with."""
    fields = {name: INDEX[sample][name] for name in SHARED}
    return {"checkpoint": str(SAMPLES / sample / "iter_0000005"), **fields}


def common_part(error: str) -> str:
    """The part of an error that does not depend on the machine, and not on who prints it."""
    error = error.partition(" on <module")[0].removeprefix("RuntimeError: sys.exit called: ")
    return error.replace("Unable to restore RerunMachine from checkpoint: ", "KeyError: ").strip()


def test_the_rows_are_there() -> None:
    assert len(ROWS) == 6 * 12
    assert sum(row["optimizer_equal"] for row in ROWS) == 32


@pytest.mark.parametrize("sample", sorted({row["sample"] for row in ROWS}))
def test_check_agrees_with_training(sample: str) -> None:
    found = read(SAMPLES / sample)
    for row in (row for row in ROWS if row["sample"] == sample):
        verdict = ask(found, row["reader"], torch=row["reader_torch"])
        assert verdict.resumes == row["optimizer_equal"], row
        if row["error"] and not row["error"].startswith(CUT_OFF):
            predicted = common_part(verdict.obstacles[0].error).rpartition(" ... ")[2]
            predicted = predicted.rpartition("Common file /")[2].rpartition("iter_")[2]
            assert predicted.rstrip(".'") in common_part(row["error"]), row


@pytest.mark.parametrize("release", jobs.installed(READERS))
def test_the_jobs_agree_with_training(release: str) -> None:
    """What the tests run in place of training does the same: it loads, or fails with the error."""
    rows = [row for row in ROWS if row["reader"] == release]
    outcomes = run_optimizer_jobs(release, [job_of(row["sample"]) for row in rows])
    for row, ranks in zip(rows, outcomes, strict=True):
        for rank in ranks:
            if row["optimizer_equal"]:
                assert (rank["error"], rank["unequal"]) == (None, []), row
            else:
                # The beginning of some measured errors is cut off.
                assert common_part(rank["error"]).endswith(common_part(row["error"])[-150:]), row
        if row["optimizer_equal"]:  # 7616 weights in each rank, and their three states once
            assert sum(rank["elements"] for rank in ranks) == 2 * 7616 + 3 * 7616
