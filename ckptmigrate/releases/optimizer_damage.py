"""The defect of releases 0.15 to 0.19 that damages `fully_reshardable` optimizers in a save.

The save of such an optimizer slices a buffer without padding by offsets with padding. Every
parameter after the first padded bucket is shifted, and a load replaces the weights by the shifted
values. Source: core_v0.15.3 to core_v0.19.0 megatron/core/optimizer/distrib_optimizer.py; fixed by
Megatron-LM pull request 5077; sample 0.19.0-optim-dp2-fr-damaged.
"""

from __future__ import annotations

import re
from typing import Final

from ckptmigrate.checkpoint import sidecar
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.errors import DamagedError
from ckptmigrate.optimizer.description import has_several_buckets, may_be_damaged
from ckptmigrate.releases import writer_evidence
from ckptmigrate.releases.facts import compat, matches
from ckptmigrate.text.commands import command

DAMAGING: Final = ">=0.15,<0.20.dev0"  # releases that write it
_MAIN: Final = re.compile(r"(?:chained_\d+\.)?optimizer\.state\.param\.", re.ASCII)


def warning(manifest: Manifest) -> str | None:
    """Return a sentence if the metadata does not exclude that the optimizer is damaged, or None."""
    if not may_be_damaged(manifest):
        return None
    writers = writer_evidence.possible_writers(manifest, compat()).releases
    if writers and not any(matches(each, DAMAGING) for each in writers):
        return None
    if _is_converted(manifest):
        return None
    condition = {
        True: "the job had several gradient buckets",
        False: "it is damaged if the job had several gradient buckets, which args do not show",
        None: "it is damaged if the job had several gradient buckets",
    }[has_several_buckets(manifest)]
    return (
        "the optimizer may be damaged: releases 0.15 to 0.19 write fully_reshardable optimizers "
        f"with shifted values, which replace the weights in a load; {condition}"
    )


def _is_converted(manifest: Manifest) -> bool:
    """Return whether a migration wrote the optimizer, which compares it with the weights."""
    key = next((key for key in manifest.metadata.entries if _MAIN.match(key)), None)
    if key is None:
        return False
    try:
        original = sidecar.original(manifest.directory)
    except DamagedError:
        return False
    new = {name for step in original.steps for name in step.payload}
    files = {blob.file for blob in manifest.metadata.chunks_of({key}).values()}
    return not original.stale and bool(files) and files <= new


def advice(manifest: Manifest) -> str | None:
    """Return the warning with the command that compares the optimizer, or None."""
    text = warning(manifest)
    check = command("verify", manifest.path, "--optimizer")
    return None if text is None else f"{text}; to compare it with the weights, run `{check}`"
