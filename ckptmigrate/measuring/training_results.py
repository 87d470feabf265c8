"""What Megatron-LM training did with samples, which was measured elsewhere."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckptmigrate.compat.cells import OPTIMIZER
from ckptmigrate.storage import local_files

Rows = Mapping[tuple[str, str], Mapping[str, Any]]


@dataclass(frozen=True)
class TrainingResults:
    """The results of training jobs: (reader, sample) -> row.

    Attributes:
        raw: of unmigrated samples.
        migrated: of migrated samples.
    """

    raw: Rows = field(default_factory=dict)
    migrated: Rows = field(default_factory=dict)

    def has(self, samples: Collection[str]) -> bool:
        """Return whether there are results of one of these samples."""
        return any(sample in samples for _, sample in self.raw)


def of_samples(samples: Path) -> TrainingResults:
    """Return the results in the directory of the samples, and in that of optimizers beside it."""
    with_optimizer = _rows(samples.parent / OPTIMIZER / "raw_matrix.json")
    raw = {**_rows(samples / "raw_matrix.json"), **with_optimizer}
    return TrainingResults(raw, _rows(samples / "migrated_matrix.json"))


def _rows(file: Path) -> Rows:
    return {(row["reader"], row["sample"]): row for row in json.loads(local_files.read_text(file))}
