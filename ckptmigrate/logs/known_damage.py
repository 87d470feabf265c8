"""The table of load errors, part 3: damaged and empty files, and files of another kind."""

from __future__ import annotations

from typing import Final

from ckptmigrate.logs.kinds import (
    CHECK,
    COMMON_FRAMES,
    DATA_FRAMES,
    EXTRA_FRAMES,
    LOAD_FRAMES,
    METADATA_FRAMES,
    VERIFY,
    Cause,
    ErrorKind,
    Sure,
)

_TORCH_LOAD: Final = "torch 2.13.0 torch/serialization.py load"
_VALIDATION: Final = "core_v0.17.1 to core_v0.19.0 megatron/core/dist_checkpointing/validation.py"
_READ_FRAMES: Final = rf"{METADATA_FRAMES}|{DATA_FRAMES}|{COMMON_FRAMES}"

ROWS: Final = (
    ErrorKind(
        "git-lfs-pointer",
        (
            r"invalid load key, 'v'",
            r"Unsupported operand 118\b",
        ),
        "_pickle.UnpicklingError: invalid load key, 'v'.",
        "a file that is read as a pickle begins with the letter `v`",
        (
            Cause(
                "it is a pointer file of Git LFS (`version https://git-lfs...`): the repository "
                "was cloned without its large files",
                "run `git lfs pull` in the clone",
                test="lfs-pointer",
            ),
        ),
        f"{_TORCH_LOAD}; case lfs-pointer of tests/cases/explain.txt",
        sure=Sure.LIKELY,
    ),
    ErrorKind(
        "not-a-torch-file",
        (
            r"UnpicklingError: invalid load key, '(?P<key>[^']+)'",
            r"filename 'storages' not found",
            r"Invalid magic number; corrupt file\?",
        ),
        "_pickle.UnpicklingError: invalid load key, '\\x00'.",
        "a file that is read as a pickle is not one",
        (
            Cause(
                "the file is damaged or not completely written, for example filled with zeros",
                f"{VERIFY}: it reads every pickle and names the file",
                test="damaged-file",
            ),
        ),
        _TORCH_LOAD,
        sure=Sure.LIKELY,
        frames=LOAD_FRAMES,
    ),
    ErrorKind(
        "truncated-torch-file",
        (
            r"PytorchStreamReader failed (?:reading|locating) ",
            r"pickle data was truncated",
            r"Expected hasRecord\(\"version\"\) to be true",
        ),
        "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central "
        "directory",
        "a file that torch.load reads is truncated or not a torch file",
        (
            Cause(
                "the save or the copy of the file did not finish",
                f"{VERIFY}: it reads every pickle and names the file",
                test="damaged-file",
            ),
        ),
        _TORCH_LOAD,
        sure=Sure.LIKELY,
        frames=LOAD_FRAMES,
    ),
    ErrorKind(
        "truncated-archive",
        (r"\[Errno 22\] Invalid argument$", r"negative seek value -\d+"),
        "OSError: [Errno 22] Invalid argument",
        "a file or an object of the checkpoint is truncated: torch.load searches for the end of "
        "its archive before the beginning",
        (
            Cause(
                "the save or the copy of the file did not finish",
                f"{VERIFY}: it reads every pickle and names the file",
                test="damaged-file",
            ),
        ),
        _TORCH_LOAD,
        frames=_READ_FRAMES,
        needs_frames=True,
    ),
    ErrorKind(
        "empty-pickle",
        (r"EOFError: Ran out of input",),
        "EOFError: Ran out of input",
        "the job unpickles something that is empty",
        (
            Cause(
                "an `_extra_state` of Transformer Engine: 2.4 and later save an empty tensor "
                "where FP8 is not used, and releases up to 2.3 unpickle it",
                "run the job with Transformer Engine 2.4 or later",
                tell="the traceback passes through transformer_engine or set_extra_state",
                frames=EXTRA_FRAMES,
            ),
            Cause(
                "a file of the checkpoint is empty, because a save or a copy did not finish",
                f"{VERIFY}: it names the file",
                tell="the traceback passes through read_metadata (.metadata) or load_common "
                "(common.pt)",
                frames=_READ_FRAMES,
                test="empty-file",
            ),
            Cause(
                "a file that is not part of the checkpoint is empty, such as a data set cache",
                "delete that file, so that it is written again",
                tell="the traceback passes through neither",
            ),
        ),
        "NVIDIA/TransformerEngine v2.3, v2.4 (set_extra_state of pytorch/module/base); "
        "modelscope/ms-swift issue 6141",
        sure=Sure.POSSIBLE,
        frames=rf"{EXTRA_FRAMES}|{LOAD_FRAMES}",
    ),
    ErrorKind(
        "integrity-failed",
        (r"Checkpoint integrity verification failed for \d+ file",),
        "CheckpointingException: Checkpoint integrity verification failed for 1 file(s) in /ckpt",
        "files of the checkpoint differ from the SHA-256 hashes in integrity.json",
        (
            Cause(
                "a file is damaged, or was changed after the save",
                "run `ckptmigrate verify {path} --hash`",
            ),
        ),
        _VALIDATION,
        since=">=0.17.1",
    ),
    ErrorKind(
        "no-integrity-manifest",
        (r"Integrity manifest not found at (?P<file>\S+?)\.?(?=\s|$)",),
        "CheckpointingException: Integrity manifest not found at /ckpt/integrity.json.",
        "the job runs with --verify-integrity, and the checkpoint has no integrity.json",
        (Cause("it was saved without --verify-integrity", "run the job without that flag"),),
        _VALIDATION,
        since=">=0.17.1",
    ),
    ErrorKind(
        "unknown-marker-key",
        (r"CheckpointingConfig\.__init__\(\) got an unexpected keyword argument '(?P<key>\w+)'",),
        "TypeError: CheckpointingConfig.__init__() got an unexpected keyword argument 'note'",
        "metadata.json has a key that the release does not know",
        (Cause("somebody added it: no release writes other keys", CHECK),),
        "core_v0.9.0 to core_v0.18.2 megatron/core/dist_checkpointing/core.py maybe_load_config",
        since="<0.19",
    ),
    ErrorKind(
        "damaged-marker",
        (r"JSONDecodeError: ",),
        "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
        "metadata.json is not a JSON file",
        (
            Cause(
                "the save or the copy of the file did not finish",
                f"{VERIFY}: it names what repairs the checkpoint",
                test="damaged-file",
            ),
        ),
        "core_v0.9.0 to core_v0.16.1 megatron/core/dist_checkpointing/core.py maybe_load_config",
        frames=r":maybe_load_config$",
        needs_frames=True,
    ),
)
