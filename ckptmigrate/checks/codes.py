"""The table of the problem codes of `verify`, with severity, meaning and remedy."""

from __future__ import annotations

from typing import Final

from ckptmigrate.checks.code import Code, Severity
from ckptmigrate.checks.root_codes import ROOT_CODES

_COPY: Final = "restore the file from a copy, or use an earlier iteration"
_REPORT: Final = "run `ckptmigrate inspect {path}`, or use an earlier iteration"
_REPAIR: Final = "{repair}"
_COMPACT: Final = "no action is needed; a migration with --compact leaves the bytes out"

# The source of each code: a release or torch, a file of it, and a function or class there.
_CORE: Final = "megatron/core/dist_checkpointing"
_RERUN_FILE: Final = "megatron/core/rerun_state_machine.py"
_TRAINING: Final = "core_v0.9.0 to core_v0.19.0 megatron/training/checkpointing.py"
_TORCH: Final = "torch 2.13.0 torch/distributed/checkpoint"
_MARKER: Final = f"core_v0.9.0 to core_v0.19.0 {_CORE}/core.py maybe_load_config"
_COMMON: Final = (
    f"core_v0.9.0 to core_v0.18.2 {_CORE}/strategies/common.py load_common; "
    f"core_v0.19.0 {_CORE}/serialization.py load_common_state_dict"
)
_METADATA: Final = f"{_TORCH}/filesystem.py FileSystemReader.read_metadata"
_READ: Final = f"{_TORCH}/filesystem.py FileSystemReader.read_data"
_ROWS_OF_TORCH: Final = (
    f"{_TORCH}/metadata.py Metadata, TensorStorageMetadata, MetadataIndex; "
    f"{_TORCH}/filesystem.py _StorageInfo"
)
_PLANS: Final = (
    f"core_v0.11.0 to core_v0.19.0 {_CORE}/strategies/state_dict_saver.py "
    "save_state_dict_async_plan, verify_global_md_reuse"
)
_CHUNKS: Final = f"{_TORCH}/default_planner.py _validate_global_plan"
_NAMES: Final = (
    f"core_v0.9.0 to core_v0.19.0 {_CORE}/strategies/filesystem_async.py prepare_write_data"
)
_SYMBOLS: Final = (
    "the globals of every sample; core_v0.14.0 to core_v0.19.0 megatron/core/safe_globals.py "
    "SAFE_GLOBALS"
)
_RERUN: Final = f"core_v0.10.0 to core_v0.19.0 {_RERUN_FILE} RerunStateMachine.state_dict"
_ASKED: Final = f"core_v0.14.0 to core_v0.19.0 {_RERUN_FILE} RerunStateMachine.validate_state_dict"
_VALIDATION: Final = f"core_v0.17.1 to core_v0.19.0 {_CORE}/validation.py"
_VERIFIED: Final = f"{_VALIDATION} verify_integrity_manifest"
_SHIFTED: Final = (
    "core_v0.15.3 to core_v0.19.0 megatron/core/optimizer/distrib_optimizer.py "
    "get_parameter_state_dp_zero; Megatron-LM pull request 5077; sample "
    "0.19.0-optim-dp2-fr-damaged"
)
_SINCE_SHIFTED: Final = ">=0.15,<0.20.dev0"
_POINTERS: Final = "git-lfs v3.7.0 docs/spec.md (The Pointer)"
_OWN: Final = "ckptmigrate itself"
_SINCE_RERUN: Final = ">=0.10"
_SINCE_DIGESTS: Final = ">=0.17.1"

_ROWS: Final = (
    Code(
        "not-verified", Severity.ERROR,
        "One of several checkpoints has another format or cannot be read.",
        "run `ckptmigrate verify {path}`",
        _OWN,
    ),
    Code(
        "marker-missing", Severity.ERROR,
        "metadata.json is missing, so no release recognises the directory as a torch_dist "
        "checkpoint.",
        _REPAIR,
        _MARKER, repair=(),
    ),
    Code(
        "marker-unreadable", Severity.ERROR,
        "metadata.json is not a JSON object, so no release recognises the checkpoint.",
        _REPAIR,
        _MARKER, repair=(),
    ),
    Code(
        "pointer-file", Severity.ERROR,
        "Only pointers to some files were downloaded, such as those of Git LFS. A job that loads "
        "them fails with `invalid load key, 'v'`.",
        "run `git lfs pull` in the clone that the files are from, or download them again",
        _POINTERS,
    ),
    Code(
        "metadata-missing", Severity.ERROR,
        ".metadata is missing, so no release can locate any tensor.", _COPY,
        _METADATA,
    ),
    Code(
        "metadata-unreadable", Severity.ERROR,
        ".metadata is not a pickle of checkpoint metadata, so no release can load it.", _COPY,
        _METADATA,
    ),
    Code(
        "entry-malformed", Severity.ERROR,
        "A row of .metadata is not as torch writes it, so the load fails.", _COPY,
        _ROWS_OF_TORCH,
    ),
    Code(
        "table-mismatch", Severity.ERROR,
        "A key is not in all tables of .metadata, so a load or a later save fails or uses wrong "
        "data.", _COPY,
        f"{_READ}; {_PLANS}",
    ),
    Code(
        "common-missing", Severity.ERROR,
        "The common state (args, iteration, optimizer settings, learning rate schedule) is "
        "missing.",
        "restore common.pt from a copy; it cannot be rebuilt",
        _COMMON,
    ),
    Code(
        "common-unreadable", Severity.ERROR,
        "The common state is not a torch file with a dict that can be read without executing code.",
        _COPY,
        _COMMON,
    ),
    Code(
        "common-twice", Severity.WARNING,
        "The common state is stored twice, in common.pt and as a sharded object. Releases read "
        "common.pt.",
        "compare both; if common.pt is correct, you need to do nothing",
        _COMMON, ">=0.19",
    ),
    Code(
        "payload-missing", Severity.ERROR,
        "A data file that .metadata refers to is missing: its tensors or objects are lost.", _COPY,
        _READ,
    ),
    Code(
        "payload-name", Severity.ERROR,
        "A key refers to a file outside the checkpoint. No release writes that.",
        "do not load it; find out which program wrote it",
        f"{_READ}; {_NAMES}",
    ),
    Code(
        "byte-range-outside", Severity.ERROR,
        "A byte range is beyond the end of its data file: the file is truncated.", _COPY,
        _READ,
    ),
    Code(
        "byte-ranges-overlap", Severity.ERROR,
        "Two byte ranges overlap in part, so at least one key loads wrong values.", _COPY,
        f"{_TORCH}/filesystem.py _write_item",
    ),
    Code(
        "chunk-outside", Severity.ERROR,
        "A chunk of a tensor is outside its global shape.", _COPY,
        _CHUNKS,
    ),
    Code(
        "chunks-do-not-tile", Severity.ERROR,
        "The chunks of a tensor overlap or leave gaps: the load leaves elements unset, or uses "
        "either of two values.",
        _COPY,
        _CHUNKS,
    ),
    Code(
        "chunks-not-compared", Severity.WARNING,
        "A tensor has so many dimensions that only the number of its elements was compared.",
        "find out which program wrote it; Megatron-Core splits tensors in a few dimensions only",
        _OWN,
    ),
    Code(
        "plan-rank-unknown", Severity.ERROR,
        "A data file belongs to a rank that the save plans or args do not have.", _REPORT,
        f"{_PLANS}; {_NAMES}",
    ),
    Code(
        "sizes-contradict", Severity.WARNING,
        "The parallel sizes in args, save plans and files contradict each other.",
        "set the correct sizes in a migration with --world-size, --tensor-parallel and "
        "--pipeline-parallel",
        "core_v0.9.0 to core_v0.19.0 megatron/training/arguments.py validate_args; " + _PLANS,
    ),
    Code(
        "run-config-missing", Severity.ERROR,
        "The common state has no args, and run_config.yaml is missing, so Megatron-Bridge cannot "
        "load the checkpoint. A save that fails in its last step leaves that.",
        _COPY,
        "Megatron-Bridge 067f987d src/megatron/bridge/training/checkpointing.py "
        "_extract_megatron_lm_args_from_state_dict; Megatron-Bridge issue 5746",
    ),
    Code(
        "sizes-unreadable", Severity.WARNING,
        "The file in which the framework states the parallel sizes cannot be read.",
        "restore the file from a copy, or set the sizes in a migration with --world-size, "
        "--tensor-parallel and --pipeline-parallel",
        "Megatron-Bridge 067f987d src/megatron/bridge/training/utils/checkpoint_utils.py "
        "read_run_config",
    ),
    Code(
        "blob-unreadable", Severity.ERROR,
        "A sharded object is not a torch zip file that can be read without executing code.", _COPY,
        f"{_TORCH}/default_planner.py DefaultLoadPlanner.load_bytes",
    ),
    Code(
        "blob-not-read", Severity.NOTE,
        "A sharded object, or with --load a chunk of a tensor, is too large to read. Its byte "
        "range was checked.",
        "no action is needed",
        _OWN,
    ),
    Code(
        "unknown-symbol", Severity.ERROR,
        "A pickle names a global that Megatron-Core does not write. A job that loads it imports "
        "that global and may call it.",
        "do not load the checkpoint before you know which program wrote the global; if you trust "
        "it, run `ckptmigrate verify {path} --known NAME`",
        _SYMBOLS,
    ),
    Code(
        "moved-module", Severity.WARNING,
        "A pickle names a module by the name that it has since Python 3.13, so a job with an "
        "older Python cannot load it.",
        _REPAIR,
        "compat_matrix.yaml moved_modules",
        repair=(),
    ),
    Code(
        "rerun-shards-missing", Severity.ERROR,
        "Rerun shards are missing, so a job that requests them cannot load the checkpoint. The "
        "fault context is lost. Weights, optimizer and RNG states are intact.",
        _REPAIR,
        f"{_RERUN}; {_TRAINING} load_checkpoint; sample 0.17.1-corrupt-tp2", _SINCE_RERUN,
        repair=(),
    ),
    Code(
        "rerun-not-resumable", Severity.ERROR,
        "No release can resume from this rerun state: a job loads it and fails at its first step. "
        "A job that exits with status 17 saves it for examination.",
        _REPAIR,
        f"core_v0.10.0 to core_v0.19.0 {_RERUN_FILE} should_run_forward_backward", _SINCE_RERUN,
        repair=("--drop-rerun",),
    ),
    Code(
        "optimizer-shapes-missing", Severity.ERROR,
        ".metadata has flattened optimizer states without mcore_data, the table of their shapes, "
        "so no release can load the optimizer.",
        _REPAIR,
        f"core_v0.9.0 to core_v0.15.3 {_CORE}/strategies/torch.py get_reformulation_metadata; "
        "pytorch issue 178001", "<0.16",
        repair=(),
    ),
    Code(
        "optimizer-suspect", Severity.WARNING,
        "Releases 0.15 to 0.19 write fully_reshardable optimizers with shifted values if a "
        "gradient buffer has several buckets. A load replaces the weights by these values.",
        "to compare the optimizer with the weights, run `ckptmigrate verify {path} --optimizer`",
        _SHIFTED, _SINCE_SHIFTED,
    ),
    Code(
        "optimizer-damaged", Severity.ERROR,
        "The optimizer is not that of the weights, or is incomplete. A job that loads it fails, or "
        "replaces the weights by other values. The weights are intact.",
        f"resume with --no-load-optim; to remove the optimizer, {_REPAIR}",
        _SHIFTED, repair=("--drop-optimizer",),
    ),
    Code(
        "optimizer-not-compared", Severity.WARNING,
        "The optimizer cannot be compared with the weights.",
        "no action is needed",
        _OWN,
    ),
    Code(
        "optimizer-sampled", Severity.NOTE,
        "Only a sample of the optimizer was compared with the weights.",
        "to compare all of it, omit --sample",
        _OWN,
    ),
    Code(
        "rerun-contradictory", Severity.ERROR,
        "The common state and the rerun shards do not match: no release writes both.", _REPORT,
        _RERUN, _SINCE_RERUN,
    ),
    Code(
        "rerun-shards-unclaimed", Severity.WARNING,
        "The checkpoint has rerun shards, and no rerun_state_machine in the common state. "
        "Releases from 0.12 on do not request them.",
        "no action is needed, unless a job runs with --dist-ckpt-strictness raise_all",
        f"{_TRAINING} load_checkpoint", ">=0.14",
    ),
    Code(
        "rerun-sentinel-missing", Severity.WARNING,
        "The rerun state is idle, and its rerun shards are missing. Releases from 0.14 on can "
        "resume from it.",
        _REPAIR,
        _ASKED, ">=0.18",
        repair=("--rebuild-sentinel",),
    ),
    Code(
        "orphan-payload", Severity.NOTE,
        "No key refers to this data file.", _COMPACT,
        _READ,
    ),
    Code(
        "orphan-bytes", Severity.NOTE,
        "No key refers to some bytes of a data file.",
        _COMPACT,
        _READ,
    ),
    Code(
        "migration-unfinished", Severity.ERROR,
        "An in-place migration did not finish, or is still running.",
        "if no migration is running, run `ckptmigrate recover {path}`",
        _OWN,
    ),
    Code(
        "sidecar-stale", Severity.WARNING,
        "The checkpoint changed after its last migration, so the original files are not used.",
        "no action is needed, unless you want to undo the migration",
        _OWN,
    ),
    Code(
        "nested-linked", Severity.ERROR,
        "A directory is a link to a nested checkpoint, which no command follows.",
        "replace the link by the directory",
        _OWN,
    ),
    *ROOT_CODES,
    Code(
        "integrity-unreadable", Severity.ERROR,
        "integrity.json does not contain SHA-256 hashes, so a job with --verify-integrity fails.",
        "remove it, and run the job without --verify-integrity",
        _VERIFIED, _SINCE_DIGESTS,
    ),
    Code(
        "integrity-absent", Severity.NOTE,
        "integrity.json is missing, so --hash has nothing to compare with.",
        "save with --verify-integrity to write it",
        f"{_VALIDATION} save_integrity_manifest", _SINCE_DIGESTS,
    ),
    Code(
        "integrity-file-missing", Severity.ERROR,
        "A file in integrity.json is missing.", _COPY,
        _VERIFIED, _SINCE_DIGESTS,
    ),
    Code(
        "integrity-mismatch", Severity.ERROR,
        "The SHA-256 hash of a file differs from integrity.json, so a job with --verify-integrity "
        "fails.",
        f"restore the file from a copy; if it was changed on purpose, {_REPAIR}",
        _VERIFIED, _SINCE_DIGESTS,
        repair=(),
    ),
    Code(
        "tensor-unreadable", Severity.ERROR,
        "torch cannot load the bytes of a chunk.", _COPY,
        _READ,
    ),
    Code(
        "tensor-mismatch", Severity.ERROR,
        "A chunk loads as a tensor of another dtype or shape than .metadata records.", _COPY,
        _READ,
    ),
)  # fmt: skip
CODES: Final = {row.code: row for row in _ROWS}
