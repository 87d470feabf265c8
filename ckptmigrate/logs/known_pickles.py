"""The table of load errors, part 4: pickled classes and modules that the job does not have."""

from __future__ import annotations

from typing import Final

from ckptmigrate.logs.kinds import (
    ANY_KEY,
    CHECK,
    COMMON_FRAMES,
    DATA_FRAMES,
    LOAD_FRAMES,
    METADATA_FRAMES,
    Cause,
    ErrorKind,
    Sure,
)

_TORCH_LOAD: Final = "torch 2.13.0 torch/serialization.py load"
_READ_FRAMES: Final = rf"{METADATA_FRAMES}|{DATA_FRAMES}|{COMMON_FRAMES}"
# A tool can call torch.load on a file of a checkpoint without Megatron.
_UNPICKLE_FRAMES: Final = rf"{LOAD_FRAMES}|torch/serialization\.py:"

# Globals in checkpoints of Megatron, which other programs do not load.
_MEGATRON_GLOBAL: Final = (
    r"megatron\.[\w.]+|signal\.Signals|"
    r"transformer_engine\.[\w.]+|nemo\.[\w.]+|modelopt\.[\w.]+|swift\.megatron[\w.]*"
)
_FRAMEWORK: Final = (
    r"swift|nemo|nemo_rl|verl|slime|miles|mbridge|mindspeed|modelopt|megatron_patch|megatron_bridge"
)

ROWS: Final = (
    ErrorKind(
        "no-save-plan-class",
        (
            r"Can't get attribute 'MCoreSavePlan'",
            r"cannot import name 'MCoreSavePlan' from 'megatron\.core",
        ),
        "AttributeError: Can't get attribute 'MCoreSavePlan' on <module "
        "'megatron.core.dist_checkpointing.strategies.torch'",
        ".metadata is a pickle that names the class MCoreSavePlan, and the installed "
        "Megatron-Core does not have it",
        (
            Cause(
                "the job runs a Megatron-Core before 0.8, or a fork that moved the class",
                "run the job with Megatron-Core 0.8 or later",
            ),
        ),
        "core_v0.9.0 to core_v0.16.1 megatron/core/dist_checkpointing/strategies/torch.py "
        "MCoreSavePlan",
        since="<0.8",
    ),
    ErrorKind(
        "unknown-metadata-class",
        (r"Can't get attribute 'MCoreMetadata'", r"cannot import name 'MCoreMetadata'"),
        "AttributeError: Can't get attribute 'MCoreMetadata' on <module "
        "'megatron.core.dist_checkpointing.strategies.torch'",
        ".metadata is an object of the class MCoreMetadata, which releases before 0.15 do not have",
        (Cause("0.15 wrote the checkpoint", CHECK),),
        "samples/raw_matrix.json; core_v0.15.3 "
        "megatron/core/dist_checkpointing/strategies/torch.py MCoreMetadata",
        since="<0.15",
    ),
    ErrorKind(
        "missing-global",
        (r"Can't get attribute '(?P<key>\w+)' on <module 'megatron\.(?P<module>core|training)",),
        "AttributeError: Can't get attribute 'AttnBackend' on <module "
        "'megatron.core.transformer.enums'",
        "the checkpoint pickles a class of Megatron that the release of the job does not have",
        (Cause("a newer release wrote the checkpoint", CHECK),),
        "samples/raw_matrix.json; AttnBackend is in args since 0.11, InferenceCudaGraphScope "
        "since 0.18",
    ),
    ErrorKind(
        "foreign-class",
        (rf"Can't get attribute '(?P<key>\w+)' on <module '(?P<module>(?:{_FRAMEWORK})[\w.]*)'",),
        "AttributeError: Can't get attribute 'MMGPTMegatronModelMeta' on <module "
        "'swift.megatron.model.mm_gpt_model'",
        "the checkpoint (usually the `args` in its common state) pickles a class of a framework, "
        "and the version of the framework in this environment does not have it",
        (
            Cause(
                "another version of the framework wrote the checkpoint",
                "install the version that wrote it, or run `ckptmigrate check {path}`: it names "
                "every global of another framework",
                test="foreign-global",
            ),
        ),
        "modelscope/ms-swift issue 6553",
        sure=Sure.LIKELY,
        frames=_UNPICKLE_FRAMES,
    ),
    ErrorKind(
        "foreign-class-unknown",
        (r"Can't get attribute '(?P<key>[\w.]+)' on <module '(?P<module>[\w.]+)'",),
        "AttributeError: Can't get attribute 'Config' on <module 'my_project.config'",
        "a pickle in the checkpoint names a class that the module in this environment does not "
        "have",
        (
            Cause(
                "other code wrote the checkpoint than the job has installed",
                "install the version that wrote it; `ckptmigrate verify {path}` names every "
                "global that Megatron does not write",
                test="foreign-global",
            ),
        ),
        _TORCH_LOAD,
        frames=_READ_FRAMES,
        needs_frames=True,
    ),
    ErrorKind(
        "numpy-2-pickle",
        (r"No module named 'numpy\._core(?:\.\w+)*'",),
        "ModuleNotFoundError: No module named 'numpy._core'",
        "a pickle that NumPy 2 wrote is read with a NumPy before 1.26.1, which has no module "
        "numpy._core",
        (
            Cause(
                "a job with NumPy 2 saved the checkpoint: its RNG states hold arrays of NumPy",
                "run `ckptmigrate migrate {path} --to RELEASE --numpy VERSION` for the release and "
                "the NumPy of the job, or run the job with NumPy 1.26.1 or later, or NumPy 2",
                test="numpy-2",
            ),
        ),
        "numpy 2.0.0 release notes (numpy.core became numpy._core); numpy pull request 24906",
        sure=Sure.LIKELY,
        frames=_UNPICKLE_FRAMES,
    ),
    ErrorKind(
        "python-3.13-path",
        (r"No module named 'pathlib\._local'",),
        "ModuleNotFoundError: No module named 'pathlib._local'; 'pathlib' is not a package",
        "a pickle that Python 3.13 wrote is read with Python 3.12 or older, which has no module "
        "pathlib._local",
        (
            Cause(
                "Python 3.13 saved the checkpoint, and .metadata holds a path",
                "run `ckptmigrate repair {path}`, or run the job with Python 3.13",
                test="python-3.13",
            ),
        ),
        "CPython 3.13 (the package Lib/pathlib); case python313-0.12.3",
        sure=Sure.LIKELY,
        frames=_UNPICKLE_FRAMES,
    ),
    ErrorKind(
        "foreign-module",
        (r"No module named '(?P<module>[\w.]+)'",),
        "ModuleNotFoundError: No module named 'swift.megatron.model.gpt_bridge'",
        "a pickle in the checkpoint names a module that this environment does not have",
        (
            Cause(
                "another version of a framework or of Megatron wrote the checkpoint",
                "install what wrote it; `ckptmigrate verify {path}` names every global that "
                "Megatron does not write",
                test="foreign-global",
            ),
        ),
        "modelscope/ms-swift issue 6553",
        frames=_READ_FRAMES,
        needs_frames=True,
    ),
    ErrorKind(
        "no-allow-list",
        (r"Unsupported (?:global: GLOBAL|class) (?P<key>argparse\.Namespace)\b",),
        "WeightsUnpickler error: Unsupported global: GLOBAL argparse.Namespace was not an allowed "
        "global by default.",
        "torch.load with weights_only (the default since torch 2.6) loads the common state without "
        "the allow-list of Megatron, which contains argparse.Namespace",
        (
            Cause(
                "the job runs a release up to 0.10 with torch 2.6 or later, or a script calls "
                "torch.load on common.pt",
                "set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1, if you trust the checkpoint, or run "
                "Megatron-Core 0.14 or later",
            ),
        ),
        "core_v0.14.0 to core_v0.19.0 megatron/core/safe_globals.py SAFE_GLOBALS; core_v0.10.0 "
        "megatron/core/dist_checkpointing/strategies/common.py load_common",
        since="<0.14",
        sure=Sure.LIKELY,
        frames=rf"{_READ_FRAMES}|megatron",
    ),
    ErrorKind(
        "not-allowed-symbol",
        (
            rf"Unsupported (?:global: GLOBAL|class) (?P<key>{_MEGATRON_GLOBAL})\b",
            r"Can only build Tensor, Parameter, OrderedDict or types allowlisted",
        ),
        "WeightsUnpickler error: Unsupported global: GLOBAL signal.Signals was not an allowed "
        "global by default.",
        "torch.load with weights_only (the default since torch 2.6) refuses a class that the "
        "checkpoint pickles, because the allow-list of the release does not contain it",
        (
            Cause(
                "another release wrote the checkpoint, or a framework put its own class into it",
                CHECK,
            ),
        ),
        "samples/raw_matrix.json; core_v0.14.0 to core_v0.19.0 megatron/core/safe_globals.py "
        "SAFE_GLOBALS",
    ),
    ErrorKind(
        "not-allowed-foreign",
        (rf"Unsupported (?:global: GLOBAL|class) (?P<key>{ANY_KEY})(?:$|\s)",),
        "WeightsUnpickler error: Unsupported global: GLOBAL my_project.Config was not an allowed "
        "global by default.",
        "torch.load with weights_only (the default since torch 2.6) refuses a class in the "
        "checkpoint that is not of Megatron",
        (
            Cause(
                "a framework put its own class into the common state",
                CHECK,
                test="foreign-global",
            ),
        ),
        _TORCH_LOAD,
        frames=_READ_FRAMES,
        needs_frames=True,
    ),
    ErrorKind(
        "weights-only",
        (r"Weights only load failed",),
        "_pickle.UnpicklingError: Weights only load failed. This file can still be loaded",
        "torch.load with weights_only (the default since torch 2.6) refuses a file; the line "
        "`Unsupported global: GLOBAL ...` that follows names the class",
        (
            Cause(
                "the common state of the checkpoint pickles a class that the release does not "
                "allow",
                CHECK,
                tell="the traceback passes through load_common or load_common_state_dict",
                frames=COMMON_FRAMES,
            ),
            Cause(
                "another file is refused, which is not part of the checkpoint",
                "find the torch.load call in the traceback",
                tell="the traceback does not pass through them",
            ),
        ),
        _TORCH_LOAD,
        sure=Sure.POSSIBLE,
        frames=LOAD_FRAMES,
        announces=True,
        unless=r"Unsupported (?:global: GLOBAL|class) ",
    ),
    ErrorKind(
        "unknown-member",
        (
            r"ValueError: (?P<value>\S+) is not a valid (?P<key>ModelType|AttnBackend|AttnMaskType|"
            r"CudaGraphScope|CudaGraphModule|InferenceCudaGraphScope|Rerun\w+)\b",
        ),
        "ValueError: 2 is not a valid ModelType",
        "the common state pickles a member of an enum that the release of the job does not have",
        (Cause("another release wrote the checkpoint", CHECK),),
        "core_v0.13.1, core_v0.14.0, core_v0.16.1 megatron/core/enums.py ModelType; "
        "core_v0.16.1 megatron/core/transformer/enums.py CudaGraphScope",
    ),
    ErrorKind(
        "newer-torch",
        (r"Can't get attribute '(?P<key>\w+)' on <module 'torch\.distributed\.checkpoint",),
        "AttributeError: Can't get attribute 'StorageMeta' on <module "
        "'torch.distributed.checkpoint.metadata'",
        ".metadata names a class of torch that the torch of the job does not have",
        (
            Cause(
                "a newer torch saved the checkpoint",
                "run the job with the torch that saved it, or a newer one; `ckptmigrate inspect "
                "{path}` shows its known version range",
            ),
        ),
        "torch 2.13.0 torch/distributed/checkpoint/metadata.py StorageMeta",
    ),
)
