"""The table of load errors, part 7: the optimizer, the arguments and the shards of the job."""

from __future__ import annotations

from typing import Final

from ckptmigrate.logs.kinds import CHECK, Cause, ErrorKind, Sure

_TRAINING: Final = "core_v0.9.0 to core_v0.19.0 megatron/training/checkpointing.py"
_LOAD: Final = f"{_TRAINING} load_checkpoint"
_OPTIMIZER: Final = "megatron/core/optimizer"
_NO_OPTIMIZER: Final = "run the job with --no-load-optim"
_RESHARDABLE: Final = (
    "run `ckptmigrate migrate PATH --optimizer-type T`: fully_sharded_model_space up to 0.14, "
    "fully_reshardable from 0.15 on"
)
_MEGATRON_FRAMES: Final = r"megatron|checkpointing\.py:|dist_checkpointing/"
_NUMPY_RELEASES: Final = (
    "numpy.product in core_v0.9.0 to core_v0.15.3 megatron/core/dist_checkpointing/validation.py"
)

ROWS: Final = (
    # -- the optimizer
    ErrorKind(
        "unsaved-optimizer",
        (r"KeyError: '(?:optimizer|opt_param_scheduler|lr_scheduler)'",),
        "KeyError: 'optimizer'",
        "the checkpoint has no optimizer state, and the job looks for it",
        (
            Cause(
                "it was saved with --no-save-optim, migrated with --optimizer drop, or converted "
                "from another format",
                _NO_OPTIMIZER,
                test="no-optimizer-keys",
            ),
        ),
        f"{_LOAD}; NVIDIA-NeMo/Megatron-Bridge pull request 5706",
        sure=Sure.LIKELY,
        frames=_MEGATRON_FRAMES,
    ),
    ErrorKind(
        "optimizer-not-loaded",
        (r"Unable to load optimizer from checkpoint",),
        "Unable to load optimizer from checkpoint /ckpt/iter_0000100. Specify --no-load-optim",
        "a key is missing while the job restores its optimizer; the KeyError in the log names it",
        (
            Cause(
                "the checkpoint has no optimizer state (--no-save-optim)",
                _NO_OPTIMIZER,
                tell="the log has KeyError: 'optimizer'",
                test="no-optimizer-keys",
            ),
            Cause(
                "the optimizer of the job is of another kind, or has other parameter groups",
                f"{CHECK}; or {_NO_OPTIMIZER}",
                tell="the KeyError names another key",
                test="optimizer-keys",
            ),
        ),
        f"{_LOAD}; NVIDIA/Megatron-LM issue 3885",
        announces=True,
    ),
    ErrorKind(
        "unknown-sharding-type",
        (
            r"Unknown sharding_type: (?P<key>\w+)",
            r"sharding_type (?P<key>\w+) is not supported with Megatron FSDP",
        ),
        "NotImplementedError: Unknown sharding_type: dp_reshardable",
        "the release does not know the sharding type of the distributed optimizer",
        (
            Cause(
                "another release, or a job with other optimizer flags, wrote it",
                CHECK,
            ),
        ),
        "core_v0.13.1 to core_v0.16.1 megatron/core/optimizer/distrib_optimizer.py "
        "sharded_state_dict; sample 0.17.1-idle-dopt",
    ),
    ErrorKind(
        "no-flattened-ranges",
        (r"flattened_range is not supported",),
        "CheckpointingException: ShardedTensor.flattened_range is not supported.",
        "the optimizer is stored in flattened ranges, which 0.16 and later no longer read",
        (
            Cause(
                "a release up to 0.14 wrote it (fully_sharded_model_space)",
                CHECK,
            ),
        ),
        "core_v0.16.1 megatron/core/dist_checkpointing/mapping.py "
        "ShardedTensor.validate_metadata_integrity",
        since=">=0.16",
    ),
    ErrorKind(
        "no-mcore-data",
        (r"'Metadata' object has no attribute 'mcore_data'",),
        "AttributeError: 'Metadata' object has no attribute 'mcore_data'",
        "the release (0.8 to 0.15) looks for the shapes of flattened optimizer states in the "
        "attribute mcore_data of .metadata, and there is none",
        (
            Cause(
                "torch 2.9 lost the attribute when the checkpoint was saved (pytorch issue 178001)",
                "run `ckptmigrate repair {path}`",
                tell="a release up to 0.15 wrote the checkpoint",
                test="mcore-data-lost",
            ),
            Cause(
                "0.16 or later wrote the checkpoint: those releases do not write the attribute",
                f"{CHECK}; or {_NO_OPTIMIZER}",
                tell="`ckptmigrate inspect` names 0.16 or later as the writer",
                test="mcore-data-not-written",
            ),
        ),
        "core_v0.9.0 to core_v0.15.3 megatron/core/dist_checkpointing/strategies/torch.py "
        "get_reformulation_metadata; NVIDIA/Megatron-LM issue 2345",
        since=">=0.8,<0.16",
    ),
    ErrorKind(
        "no-shape-metadata",
        (
            r"Cannot find global shape metadata for N-D flattened tensor",
            r"Missing reformulation metadata for tensor",
        ),
        "CheckpointingException: Cannot find global shape metadata for N-D flattened tensor "
        "ShardedTensor(key='chained_0.optimizer.state.exp_avg.weight'",
        "the job asks for flattened optimizer states of which the checkpoint has none under this "
        "key",
        (
            Cause(
                "the optimizer was saved in another form: another sharding type, or without the "
                "chained_N prefix (MoE)",
                f"{CHECK}; or {_NO_OPTIMIZER}",
            ),
        ),
        "core_v0.9.0 to core_v0.15.3 megatron/core/dist_checkpointing/strategies/torch.py "
        "get_reformulation_metadata",
        since="<0.16",
    ),
    ErrorKind(
        "optimizer-pieces",
        (r"shape '\[\d+\]' is invalid for input of size \d+",),
        "RuntimeError: shape '[64]' is invalid for input of size 32",
        "the release reads flattened optimizer states of one dimension only where no data "
        "parallel rank has a part of a parameter alone",
        (Cause("a release up to 0.10 wrote the checkpoint", f"{CHECK}; or {_NO_OPTIMIZER}"),),
        "core_v0.11.0 to core_v0.15.3 megatron/core/dist_checkpointing/strategies/torch.py "
        "load_legacy_1d_flatten_tensors",
        since=">=0.11,<0.16",
        frames=r"dist_checkpointing/strategies/",
        needs_frames=True,
    ),
    ErrorKind(
        "param-group-keys",
        (r"Key (?P<key>\w+) \(or pre_\w+\) not found in param_group",),
        "ValueError: Key lr_mult (or pre_lr_mult) not found in param_group {...}",
        "a parameter group of the optimizer lacks a key that the release uses to match the groups "
        "of the job with those of the checkpoint",
        (
            Cause(
                "another release or framework wrote the param_groups of the checkpoint, with other "
                "keys",
                _NO_OPTIMIZER,
                tell="the param_groups in the common state do not have the key",
                test="param-groups-without",
            ),
            Cause(
                "the framework of the job removes the key from its own groups, as ms-swift did",
                "update the framework",
                tell="the param_groups in the common state have the key",
                test="param-groups-with",
            ),
        ),
        f"core_v0.14.0 to core_v0.16.1 {_OPTIMIZER}/distrib_optimizer.py load_state_dict; "
        "modelscope/ms-swift pull request 9517",
        since=">=0.14",
    ),
    ErrorKind(
        "param-group-mismatch",
        (
            r"Could not find parameter group with key (?P<key>\([^)]*\)) in loaded checkpoint",
            r"KeyError: (?P<key>\((?:\d+\.\d+, ){2}(?:True|False), (?:True|False)\))",
            r"not found in param_to_group_meta mapping",
            r"Please check that whether the checkpoint and current param_groups match",
        ),
        "ValueError: Could not find parameter group with key (1.0, 1.0, False, False) in loaded "
        "checkpoint.",
        "the optimizer of the job has a parameter group that the checkpoint does not have: the "
        "numbers are its weight decay and learning rate multipliers, then whether it holds "
        "experts and has its own learning rate",
        (
            Cause(
                "the job groups its parameters in another way: other weight decay conditions, "
                "--decoupled-lr, expert parallelism or another optimizer",
                f"run the job with the optimizer arguments of the checkpoint; or {_NO_OPTIMIZER}",
            ),
        ),
        f"core_v0.13.1 to core_v0.16.1 {_OPTIMIZER}/optimizer.py _filter_and_reorder_param_groups; "
        f"core_v0.14.0 {_OPTIMIZER}/distrib_optimizer.py load_state_dict",
        since=">=0.13",
    ),
    ErrorKind(
        "optimizer-count",
        (
            r"Expected (?P<wanted>\d+) entries in state dict, but got (?P<saved>\d+)",
            r"Cannot merge two lists with different lengths \((?P<saved>\d+) and (?P<wanted>\d+), "
            r"encountered at (?:level|key) \(.*'(?:optimizer|param_groups)'",
        ),
        "RuntimeError: Expected 2 entries in state dict, but got 1.",
        "the job has another number of optimizers or parameter groups than the checkpoint",
        (
            Cause(
                "a model with experts (MoE) has an optimizer of its own for them, and a dense "
                "model has one; or the parameters are grouped in another way",
                f"run the job with the model and optimizer arguments of the checkpoint; or "
                f"{_NO_OPTIMIZER}",
            ),
        ),
        f"core_v0.12.3 to core_v0.16.1 {_OPTIMIZER}/optimizer.py ChainedOptimizer.load_state_dict; "
        "core_v0.9.0 to core_v0.16.1 megatron/core/dist_checkpointing/dict_utils.py merge",
    ),
    ErrorKind(
        "optimizer-group-size",
        (
            r"contains a parameter group that doesn't match the size of optimizer's group",
            r"loaded state dict has a different number of parameter groups",
        ),
        "ValueError: loaded state dict contains a parameter group that doesn't match the size of "
        "optimizer's group",
        "the optimizer of the job has other parameter groups than the checkpoint",
        (
            Cause(
                "the model of the job has other parameters, or groups them in another way",
                f"run the job with the model and optimizer arguments of the checkpoint; or "
                f"{_NO_OPTIMIZER}",
            ),
        ),
        "torch 2.13.0 torch/optim/optimizer.py load_state_dict",
        frames=r"megatron/core/optimizer/|checkpointing\.py:load_checkpoint$",
        needs_frames=True,
    ),
    ErrorKind(
        "tp-pp-change",
        (r"\(TP, PP\) mismatch after resume .*not supported for DistributedOptimizer",),
        "RuntimeError: (TP, PP) mismatch after resume ((1, 1) vs (2, 1) from checkpoint): not "
        "supported for DistributedOptimizer with sharding type dp_zero_gather_scatter.",
        "the job has another TP or PP than the checkpoint, and the optimizer was saved in a form "
        "that cannot be resharded",
        (
            Cause(
                "the checkpoint was saved without --ckpt-fully-parallel-save or "
                "--dist-ckpt-optim-fully-reshardable",
                f"{_RESHARDABLE}; or run the job with the TP and PP of the checkpoint; or "
                f"{_NO_OPTIMIZER}",
            ),
        ),
        _LOAD,
        since=">=0.12",
    ),
    ErrorKind(
        "optimizer-buffer-size",
        (
            r"Number of unpadded elements (?:must be|in each bucket need to be the) same in "
            r"current run \((?P<wanted>[^)]*)\) and checkpoint \((?P<saved>[^)]*)\)",
        ),
        "AssertionError: Number of unpadded elements must be same in current run (4736) and "
        "checkpoint (4704)",
        "the gradient buffer of the job has another size than that of the checkpoint, and the "
        "optimizer is stored as a copy of the buffer",
        (
            Cause(
                "the job has another TP, PP, bucket size (--ddp-bucket-size, "
                "--overlap-grad-reduce) or model",
                f"{_RESHARDABLE}; or run the job with the sizes of the checkpoint; or "
                f"{_NO_OPTIMIZER}",
            ),
        ),
        f"core_v0.10.0 to core_v0.16.1 {_OPTIMIZER}/distrib_optimizer.py "
        "load_parameter_state_from_dp_zero",
    ),
    # -- arguments
    ErrorKind(
        "argument-mismatch",
        (
            r"\b(?P<key>\w+) value from checkpoint \((?P<saved>[^)]*)\) is not equal to the input "
            r"argument value \((?P<wanted>[^)]*)\)",
        ),
        "AssertionError: num_layers value from checkpoint (24) is not equal to the input argument "
        "value (12).",
        "the job has another value of a model argument than the checkpoint; the line names both",
        (
            Cause(
                "the argument of the job is wrong, or --load names another model",
                "run the job with the value of the checkpoint, or with --use-checkpoint-args",
            ),
        ),
        f"{_TRAINING} check_checkpoint_args",
    ),
    ErrorKind(
        "scheduler-mismatch",
        (
            r"OptimizerParamScheduler: class input value (?P<wanted>\S+) and checkpoint ?value "
            r"(?P<saved>\S+) for (?P<key>.+?) do not match",
        ),
        "AssertionError: OptimizerParamScheduler: class input value 1e-05 and checkpointvalue "
        "0.0003 for learning rate do not match",
        "the job has another value of the learning rate schedule than the checkpoint; the line "
        "names both",
        (
            Cause(
                "the schedule was changed on purpose",
                "run the job with --override-opt_param-scheduler",
                tell="you want the value of the job",
            ),
            Cause(
                "the arguments of the job are wrong",
                "run the job with --use-checkpoint-opt_param-scheduler",
                tell="you want the value of the checkpoint",
            ),
        ),
        "core_v0.9.0 to core_v0.16.1 megatron/core/optimizer_param_scheduler.py _check_and_set",
    ),
    ErrorKind(
        "model-family",
        (
            r"The checkpoint was saved by a hybrid model run",
            r"Loading a GPT checkpoint into a hybrid model requires",
            r"Cannot load a GPT checkpoint into this hybrid model",
            r"Hybrid layer pattern .* pairs with a GPT checkpoint of",
        ),
        "RuntimeError: The checkpoint was saved by a hybrid model run (hybrid layer pattern 'M*') "
        "but the current run builds a non-hybrid model.",
        "the checkpoint is of a GPT model and the job builds a hybrid (Mamba) model, or the "
        "reverse",
        (
            Cause(
                "the entry point or --hybrid-layer-pattern of the job differs",
                "run the entry point that trained the checkpoint",
            ),
        ),
        "core_v0.19.0 megatron/training/checkpointing.py _maybe_setup_gpt_to_hybrid_load",
        since=">=0.19",
    ),
    # -- shards of the job
    ErrorKind(
        "job-shards-incomplete",
        (
            r"Invalid access pattern: (?P<count>\d+) ShardedObject are missing",
            r"Invalid access pattern for ShardedTensor",
            r"Invalid sharding pattern validation\. Errors",
            r"Duplicate ShardedObject keys",
            r"Flattened ranges dont cover the whole shard",
        ),
        "CheckpointingException: Invalid access pattern: 60 ShardedObject are missing.",
        "the ranks of the running job do not have every shard of a key exactly once; the check "
        "looks at the model of the job, before any file is read or written",
        (
            Cause(
                "a conversion or an export runs with fewer ranks than its PP, TP or EP sizes need",
                "set the parallel sizes to the number of ranks that the conversion has",
                tell="the job converts or exports, and `Existing shards:` lacks whole ranges of "
                "layers",
            ),
            Cause(
                "the model gives a key one shard per layer, and some layers do not have the module "
                "(dense layers of a MoE model, hybrid models)",
                "update Megatron-Core and the framework of the job, or report it there",
                tell="`Existing shards:` lacks single layers",
            ),
        ),
        "core_v0.9.0 to core_v0.16.1 megatron/core/dist_checkpointing/validation.py "
        "_validate_objects_for_key, _validate_sharding_for_key; NVIDIA-NeMo/RL issues 1053, 1128; "
        "NVIDIA-NeMo/Megatron-Bridge issue 1210",
    ),
    ErrorKind(
        "numpy-product",
        (r"module 'numpy' has no attribute 'product'",),
        "AttributeError: module 'numpy' has no attribute 'product'",
        "Megatron-Core up to 0.15 calls numpy.product, which NumPy 2 does not have; this is not "
        "a problem of the checkpoint",
        (
            Cause(
                "an old Megatron-Core runs with NumPy 2",
                "install numpy<2, or run the job with Megatron-Core 0.16 or later",
            ),
        ),
        f"{_NUMPY_RELEASES}; NVIDIA/Megatron-LM issue 1563",
        since="<0.16",
    ),
)
