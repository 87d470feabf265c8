"""The table of load errors, part 1: the root, its tracker file and the kind of a checkpoint."""

from __future__ import annotations

from typing import Final

from ckptmigrate.logs.kinds import VERIFY, Cause, ErrorKind, Sure, missing

_CORE: Final = "megatron/core/dist_checkpointing"
_TRAINING: Final = "core_v0.9.0 to core_v0.19.0 megatron/training/checkpointing.py"
_LOADED: Final = f"{_TRAINING} _load_base_checkpoint"
_PLANNER: Final = "torch 2.13.0 torch/distributed/checkpoint/default_planner.py"
_BRIDGE: Final = "NVIDIA-NeMo/Megatron-Bridge v0.6.0 src/megatron/bridge"

ROWS: Final = (
    # -- the root and its tracker file
    ErrorKind(
        "no-load-directory",
        (r"could not find the metadata file because load directory is not defined",),
        "WARNING: could not find the metadata file because load directory is not defined",
        "the job runs without --load, so it loads no checkpoint and starts from random weights",
        (Cause("--load is not set", "run the job with --load {path}"),),
        _LOADED,
    ),
    ErrorKind(
        "no-tracker-file",
        (
            r"could not find the metadata file (?P<file>\S+)",
            r">> '--exit-on-missing-checkpoint' (?:set|is set)",
            r"No such file or directory: '(?P<file>[^']*/latest_checkpointed_iteration\.txt)'",
        ),
        "WARNING: could not find the metadata file /ckpt/latest_checkpointed_iteration.txt",
        "the directory given with --load has no tracker file (latest_checkpointed_iteration.txt), "
        "so the job finds no checkpoint in it",
        (
            Cause(
                "--load names another directory, such as an iteration or the parent of a root",
                "run the job with the root as --load",
                tell="the directory that you mean has a tracker file",
                test="has-tracker",
            ),
            Cause(
                "the root lost its tracker file, or its first save did not finish",
                "run `ckptmigrate repair {path}`",
                tell="the directory has iter_* directories and no tracker file",
                test="no-tracker",
            ),
        ),
        _LOADED,
    ),
    ErrorKind(
        "invalid-tracker-file",
        (
            r"ERROR: Invalid metadata file (?P<file>\S+?)\. Exiting",
            r"error parsing metadata file \S*latest_checkpointed_iteration",
        ),
        "ERROR: Invalid metadata file /ckpt/latest_checkpointed_iteration.txt. Exiting",
        "the tracker file (latest_checkpointed_iteration.txt) contains neither an iteration nor "
        "`release`",
        (Cause("the tracker file is damaged", "run `ckptmigrate repair {path}`"),),
        f"{_TRAINING} read_metadata",
    ),
    ErrorKind(
        "no-pretrained-checkpoint",
        (r"No checkpoint found in load directory or pretrained directory",),
        "FileNotFoundError: No checkpoint found in load directory or pretrained directory",
        "neither --load nor --pretrained-checkpoint names a directory with a tracker file",
        (Cause("both paths are wrong, or both roots have no tracker file", VERIFY),),
        f"{_TRAINING} load_checkpoint",
    ),
    ErrorKind(
        "no-checkpoint-directory",
        (
            r"(?:^|CheckpointingException: )Checkpoint directory (?P<file>\S+) does not exist",
            r"No such file or directory: '(?P<file>[^']*/iter_\d{7,})/?'",
        ),
        "CheckpointingException: Checkpoint directory /ckpt/iter_0000100 does not exist",
        "the directory of the iteration does not exist, or not on this node",
        (
            Cause(
                "the tracker file names an iteration that was deleted or never saved",
                "run `ckptmigrate repair {path}`",
                tell="`ckptmigrate verify` of the root reports tracker-dangling",
                test="tracker-dangling",
            ),
            Cause(
                "the path is wrong, or the file system is not mounted on every node",
                "make the same path available on every node",
                tell="the directory exists on the node where you check, and only some ranks print "
                "the error",
            ),
        ),
        f"core_v0.9.0 to core_v0.19.0 {_CORE}/validation.py",
    ),
    ErrorKind(
        "trackers-differ",
        (r"found iteration \d+ in the metadata while max iteration across the ranks",),
        "WARNING: on rank 3 found iteration 100 in the metadata while max iteration across the "
        "ranks is 200, replacing it with max iteration.",
        "the ranks read different tracker files, and the job loads the newest iteration that any "
        "of them names",
        (
            Cause(
                "every node has its own disk, or one of them shows an older state of the file",
                "use a file system that is the same on every node",
            ),
        ),
        f"{_TRAINING} read_metadata",
    ),
    ErrorKind(
        "no-legacy-file",
        (r"No such file or directory: '(?P<file>[^']*/mp_rank_\d+[^']*)'",),
        "FileNotFoundError: [Errno 2] No such file or directory: "
        "'/ckpt/iter_0000100/mp_rank_01/model_optim_rng.pt'",
        "the job loads a checkpoint of the legacy format (mp_rank_*), which has a file for each "
        "TP and PP rank, and this one is missing",
        (
            Cause(
                "the job has another TP or PP than the checkpoint, which this format does not "
                "support",
                "run the job with the TP and PP of the checkpoint, and save it with --ckpt-format "
                "torch_dist",
                tell="the directory has other mp_rank_* directories",
            ),
            Cause(
                "the checkpoint is distributed, and the job is configured to load the legacy "
                "format",
                "run the job with --ckpt-format torch_dist",
                tell="the directory has metadata.json and *.distcp files",
                test="has-marker",
            ),
        ),
        f"{_LOADED}",
    ),
    ErrorKind(
        "no-dist-flags",
        (r"Detected load from a distributed checkpoint, but neither --use-dist-ckpt",),
        "RuntimeError: Detected load from a distributed checkpoint, but neither --use-dist-ckpt "
        "nor --auto-detect-ckpt-format is set.",
        "the job is not configured to load a distributed checkpoint",
        (Cause("a flag is missing", "run the job with --auto-detect-ckpt-format"),),
        f"{_TRAINING} _load_global_dist_base_checkpoint",
    ),
    ErrorKind(
        "not-distributed",
        (
            r"(?:^|\s)(?P<file>\S+) is not a distributed checkpoint",
            r"unknown checkpoint format in (?P<file>\S+)",
            r"No such file or directory: '(?P<file>[^']*/iter_\d+/metadata\.json)'",
        ),
        "CheckpointingException: /ckpt/iter_0000100 is not a distributed checkpoint",
        "metadata.json is missing, so no release recognises a torch_dist checkpoint",
        (
            Cause(
                "the save did not finish: metadata.json is one of the last files written",
                VERIFY,
                tell="the directory is an iteration without metadata.json",
                test="no-marker",
            ),
            Cause(
                "the path is not an iteration directory, or its checkpoint has another format",
                "name the root as --load: the directory that has the tracker file; "
                f"{VERIFY}: it names another format",
                tell="the directory has no .metadata and no *.distcp files",
                test="other-format",
            ),
            Cause(
                "every node has its own disk, and only the node of rank 0 has metadata.json",
                "use a shared file system, or copy metadata.json, .metadata and common.pt to "
                "every node",
                tell="metadata.json exists, and the ranks of the first node do not print the error",
                test="has-marker",
            ),
        ),
        f"core_v0.9.0 to core_v0.19.0 {_CORE}/validation.py; "
        f"{_TRAINING} _get_checkpoint_format; NVIDIA/Megatron-LM issue 1530",
    ),
    ErrorKind(
        "taken-for-torch-dcp",
        missing(r"(?:args|iteration|checkpoint_version)"),
        "RuntimeError: Missing key in checkpoint state_dict: args.",
        "Megatron recognises the directory as a torch_dcp or fsdp_dtensor checkpoint, because it "
        "has .metadata and no metadata.json",
        (
            Cause(
                "it is a torch_dist checkpoint whose metadata.json is missing",
                VERIFY,
                tell="the directory has common.pt, or .metadata names common_state/shard_0_1",
                test="no-marker",
            ),
            Cause(
                "it is a checkpoint of another format: fsdp_dtensor, torch_dcp, or another program",
                f"{VERIFY}: it names the format and the tool that converts it",
                tell="it has neither of them",
                test="other-format",
            ),
        ),
        f"core_v0.12.0 to core_v0.19.0 megatron/training/checkpointing.py _load_base_checkpoint; "
        f"{_PLANNER} create_default_local_load_plan",
        since=">=0.12",
        sure=Sure.LIKELY,
        frames=r"megatron|checkpointing\.py:",
    ),
    # -- Megatron-Bridge
    ErrorKind(
        "no-run-config",
        (
            r"Could not find run_config\.yaml in (?P<file>\S+)",
            r"No such file or directory: '(?P<file>[^']*/run_config\.yaml)'",
        ),
        "FileNotFoundError: Could not find run_config.yaml in /ckpt. Ensure this is a valid "
        "Megatron checkpoint.",
        "Megatron-Bridge looks for run_config.yaml in the iteration and does not find it",
        (
            Cause(
                "Megatron-LM wrote the checkpoint: it stores its arguments in the common state "
                "and writes no run_config.yaml",
                "pass the model configuration to Megatron-Bridge instead of inferring it",
                tell="the common state has `args`",
                test="has-args",
            ),
            Cause(
                "Megatron-Bridge wrote it and the save did not finish, or the file was not copied",
                "restore run_config.yaml from a copy, or from an earlier iteration of the same run",
                tell="the common state has no `args`",
                test="no-args",
            ),
        ),
        f"{_BRIDGE}/models/conversion (AutoBridge); NVIDIA-NeMo/Megatron-Bridge pull request 286",
        since="Megatron-Bridge",
    ),
    ErrorKind(
        "no-bridge-config",
        (
            r"Legacy checkpoint missing 'args' field in state_dict",
            r"Unable to load (?:config|train state) file (?P<file>\S+)",
            r"Checkpoint at (?P<file>\S+) is not in a supported format",
            r"No such file or directory: '(?P<file>[^']*/train_state\.pt)'",
        ),
        "RuntimeError: Legacy checkpoint missing 'args' field in state_dict",
        "the iteration has neither a readable run_config.yaml, as Megatron-Bridge writes it, nor "
        "`args` in the common state, as Megatron-LM writes them",
        (
            Cause(
                "the save of Megatron-Bridge did not finish, or its files were not copied",
                "restore run_config.yaml and train_state.pt from a copy, or load an earlier "
                "iteration",
                test="no-args",
            ),
        ),
        f"{_BRIDGE}/training (checkpointing, model_load_save, checkpoint_utils)",
        since="Megatron-Bridge",
    ),
)
