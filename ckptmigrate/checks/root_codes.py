"""The problem codes of `verify` about the tracker files and the saves of a root."""

from __future__ import annotations

from typing import Final

from ckptmigrate.checks.code import Code, Severity

PAIR: Final = "tracker-pair"
TEXT_MISSING: Final = "tracker-text-missing"
_REPAIR: Final = "{repair}"
_TRAINING: Final = "core_v0.9.0 to core_v0.19.0 megatron/training/checkpointing.py"
_TRACKER: Final = f"{_TRAINING} _load_base_checkpoint"
_BRIDGE: Final = (
    "Megatron-Bridge src/megatron/bridge/training/checkpointing.py _resolve_checkpoint_iteration"
)

ROOT_CODES: Final = (
    Code(
        "tracker-missing", Severity.ERROR,
        "The root has no tracker file, so a job finds no checkpoint and starts from random "
        "weights.",
        _REPAIR,
        _TRACKER,
        repair=("--in-place",),
    ),
    Code(
        TEXT_MISSING, Severity.WARNING,
        "Only latest_train_state.pt names the latest iteration. Megatron-Bridge needs no other "
        "tracker file; a job of Megatron-LM finds no checkpoint.",
        _REPAIR,
        _BRIDGE,
        repair=("--in-place",),
    ),
    Code(
        "tracker-unreadable", Severity.ERROR,
        "The tracker file contains neither an iteration nor `release`.", _REPAIR,
        f"{_TRAINING} read_metadata",
        repair=("--in-place",),
    ),
    Code(
        "tracker-dangling", Severity.ERROR,
        "The tracker file names an iteration that does not exist.", _REPAIR,
        _TRACKER,
        repair=("--in-place",),
    ),
    Code(
        "tracker-half-written", Severity.ERROR,
        "The tracker file names an iteration whose save did not finish.", _REPAIR,
        _TRACKER,
        repair=("--in-place",),
    ),
    Code(
        PAIR, Severity.ERROR,
        "latest_train_state.pt, which Megatron-Bridge reads first, does not name the iteration of "
        "the tracker file.",
        _REPAIR,
        _BRIDGE,
        repair=("--in-place",),
    ),
    Code(
        "save-unfinished", Severity.ERROR,
        "A file beside the save marks it as not finished. NeMo deletes such a save when a job "
        "starts.",
        "use another save",
        "NeMo 8cfedd72 nemo/lightning/pytorch/callbacks/model_checkpoint.py "
        "_remove_unfinished_checkpoints",
    ),
    Code(
        "tracker-behind", Severity.WARNING,
        "An iteration is newer than the one in the tracker file.",
        "no action is needed if its save is still running; otherwise use it with --iteration",
        _TRACKER,
    ),
    Code(
        "non-persistent-newer", Severity.WARNING,
        "A non-persistent checkpoint is at least as new. A job with --non-persistent-ckpt-type "
        "global loads it instead.",
        "to verify it too, run `ckptmigrate verify {path}/non_persistent --all`",
        f"{_TRACKER}, _get_non_persistent_iteration", ">=0.9",
    ),
)  # fmt: skip
