"""Comparison of the main parameters of the optimizer with the weights (`verify --optimizer`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ckptmigrate.checkpoint.material import Material
from ckptmigrate.checks.findings import Finding, finding
from ckptmigrate.errors import DamagedError, RefusedError, StoreError
from ckptmigrate.optimizer.comparison import Comparison, compare
from ckptmigrate.storage.progress import Progress
from ckptmigrate.text.printable import counted

SUSPECT: Final = "optimizer-suspect"


def check(
    material: Material, sample: int | None = None, progress: Progress | None = None
) -> tuple[Comparison | None, list[Finding]]:
    """Compare the main parameters with the weights.

    Args:
        sample: compare only this number of cells; None for all.
        progress: called with each number of bytes that were read.

    Returns:
        The comparison, or None if nothing could be compared; and the findings.
    """
    found = material.whole
    if found is None:
        return None, [finding(material, "optimizer-not-compared", "the metadata cannot be read")]
    try:
        compared = compare(found, sample, progress)
    except StoreError:  # a failure of the store, not of the checkpoint
        raise
    except RefusedError as error:
        return None, [finding(material, "optimizer-not-compared", error.reason, fix=error.fix)]
    except DamagedError as error:
        return None, [finding(material, "optimizer-damaged", error.reason)]
    return compared, list(_differing(material, compared))


def _differing(material: Material, found: Comparison) -> Iterator[Finding]:
    if found.is_damaged:
        names = counted(len(found.differing), "parameter")
        what = (
            f"the main parameters of {names} are not the weights "
            f"({found.compared} of {found.cells} parts compared)"
        )
        yield finding(material, "optimizer-damaged", what, *found.differing)
    elif found.compared < found.cells:
        what = f"{found.compared} of {found.cells} parts of the main parameters were compared"
        yield finding(material, "optimizer-sampled", what)
