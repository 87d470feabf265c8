"""Removal of the optimizer of a checkpoint, whatever its type and even if it is damaged."""

from __future__ import annotations

from dataclasses import replace

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.optimizer.description import kind
from ckptmigrate.optimizer.resharding import Conversion
from ckptmigrate.optimizer.source import OPTIMIZER, Source


def without_optimizer(found: Manifest) -> Manifest:
    """Return a checkpoint without the keys and the common state of its optimizer."""
    metadata = found.metadata.without(frozenset(Source(found).keys))
    return replace(found.with_metadata(metadata), common=found.common.without(OPTIMIZER))


def drop(found: Manifest) -> Conversion | None:
    """Return the checkpoint as a save with --no-save-optim writes it; None if it has no optimizer.

    Such a save has no state of the learning rate scheduler either, and keeps content_metadata.

    Source: core_v0.9.0 to core_v0.19.0 megatron/training/checkpointing.py generate_state_dict,
    save_checkpoint.
    """
    source = Source(found)
    if not source.keys and OPTIMIZER not in found.common.values:
        return None
    without = without_optimizer(found)
    common = without.common.without("opt_param_scheduler").with_argument("no_save_optim", True)
    return Conversion(replace(without, common=common), {}, kind(source), None, (), (), 0)
