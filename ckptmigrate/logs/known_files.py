"""The table of load errors, part 2: the files of a checkpoint, and zarr."""

from __future__ import annotations

from typing import Final

from ckptmigrate.logs.kinds import CHECK, VERIFY, Cause, ErrorKind, missing

ROWS: Final = (
    # -- files of a checkpoint
    ErrorKind(
        "no-metadata-file",
        (r"No such file or directory: '(?P<file>[^']*/\.metadata)'(?! ->)",),
        "FileNotFoundError: [Errno 2] No such file or directory: '/ckpt/iter_0000100/.metadata'",
        ".metadata is missing, so no release can locate any tensor",
        (
            Cause(
                "the save did not finish: an asynchronous save writes .metadata at its end",
                "load an earlier iteration; `ckptmigrate verify {path}` names the state of each",
                tell="the last save in the log of the run that wrote it has no end",
                test="save-unfinished",
            ),
            Cause(
                "a copy or download left out files whose name begins with a dot",
                "copy it again with dot files, for example with rsync -a or cp -r DIR/.; "
                f"for a download, {VERIFY}: it prints the command",
                tell="the original has the file",
                test="no-dot-files",
            ),
        ),
        "torch 2.13.0 torch/distributed/checkpoint/filesystem.py FileSystemReader.read_metadata",
    ),
    ErrorKind(
        "no-data-file",
        (r"No such file or directory: '(?P<file>[^']*/__\d+_\d+\.distcp)'(?! ->)",),
        "FileNotFoundError: [Errno 2] No such file or directory: '/ckpt/iter_0000100/__3_0.distcp'",
        "a data file (__RANK_N.distcp) that .metadata refers to is missing",
        (
            Cause(
                "the copy is not complete, or every node has its own disk",
                f"{VERIFY}, and restore the files that it names from a copy",
            ),
        ),
        "torch 2.13.0 torch/distributed/checkpoint/filesystem.py FileSystemReader.read_data",
    ),
    ErrorKind(
        "no-common-state",
        (
            r"'str' object has no attribute 'iterdir'",
            r"Common file (?P<file>\S+) does not exist",
            r"CheckpointingException: Common file\b",
            r"No such file or directory: '(?P<file>[^']*/common\.pt)'",
            r"(?:^|\s)(?P<file>\S*common\.pt) does not exist",
        ),
        "CheckpointingException: Common file /ckpt/iter_0000100/common.pt does not exist",
        "the release looks for the common state in common.pt, and the file is not there",
        (
            Cause(
                "0.19 or later wrote the checkpoint, which stores the common state in a sharded "
                "object (common_state/shard_0_1); releases up to 0.18 do not read that",
                CHECK,
                tell=".metadata has the key common_state/shard_0_1",
                test="common-in-object",
            ),
            Cause(
                "common.pt was lost or not copied",
                "restore common.pt from a copy; it cannot be rebuilt",
                tell=".metadata does not have that key",
                test="common-lost",
            ),
        ),
        "samples/raw_matrix.json; core_v0.9.0 to core_v0.16.1 megatron/core/dist_checkpointing/"
        "strategies/common.py load_common",
        since="<0.19",
    ),
    ErrorKind(
        "no-common-object",
        missing(r"common_state(?:/shard_0_1)?"),
        "RuntimeError: Missing key in checkpoint state_dict: common_state/shard_0_1.",
        "the release (0.19 or later) looks for the common state in the sharded object "
        "common_state/shard_0_1, and the checkpoint does not have that key",
        (
            Cause(
                "a release up to 0.18 wrote the checkpoint, and its common.pt is lost or the job "
                "cannot see it: 0.19 reads common.pt where it exists",
                "restore common.pt from a copy",
                tell="there is no common.pt in the directory that the job sees",
                test="common-lost",
            ),
            Cause(
                "a release up to 0.18 wrote the checkpoint with common.pt, and the job loads it "
                "with code that does not look for the file",
                CHECK,
                tell="common.pt is in the directory",
                test="common-in-file",
            ),
        ),
        "core_v0.19.0 megatron/core/dist_checkpointing/serialization.py load_common_state_dict",
        since=">=0.19",
    ),
    ErrorKind(
        "no-object-file",
        (r"Object shard (?P<file>(?:(?!_extra_state/)\S)+) not found",),
        "CheckpointingException: Object shard /ckpt/iter_0000100/rng_state/shard_0_1.pt not found",
        "a sharded object that is stored in a file of its own, as in zarr checkpoints, is missing",
        (Cause("the copy is not complete, or the save did not finish", VERIFY),),
        "core_v0.9.0 to core_v0.16.1 megatron/core/dist_checkpointing/strategies/common.py "
        "load_sharded_objects",
        since="<0.17",
    ),
    # -- zarr
    ErrorKind(
        "zarr-unsupported",
        (
            r"Cannot (?:find|import) a default strategy for: \([^)]*'zarr'",
            r"(?:zarr|tensorstore) is required, please install it",
        ),
        "CheckpointingException: Cannot find a default strategy for: ('load_sharded', 'zarr', 1)",
        "the checkpoint is in the zarr format, and the job cannot read that",
        (
            Cause(
                "Megatron-Core 0.16 and later do not read zarr; older releases need the packages "
                "zarr and tensorstore",
                "load it with a release up to 0.15 and save it with --ckpt-format torch_dist",
            ),
        ),
        "core_v0.9.0 to core_v0.15.3 megatron/core/dist_checkpointing/strategies/zarr.py; "
        "core_v0.9.0 to core_v0.15.3 megatron/core/dist_checkpointing/strategies/base.py "
        "get_default_strategy",
    ),
    ErrorKind(
        "zarr-array",
        (
            r"Error opening \"zarr\" driver: [^\"]{0,400}\"(?P<file>[^\"]+)/\.zarray\"",
            r"Error opening \"zarr\" driver",
            r"CheckpointingException: Array (?P<file>\S+) (?:could not be loaded|not found)",
        ),
        'ValueError: Error opening "zarr" driver: Error reading local file '
        '"model.embedding.word_embeddings.weight/.zarray": Invalid key',
        "an array of a zarr checkpoint cannot be opened",
        (
            Cause(
                "the checkpoint is not complete: a directory NAME/.zarray is missing",
                "copy or unpack it again",
                tell="the original has the directory",
            ),
            Cause(
                "the job asks for a key that the checkpoint does not have, or the path is wrong",
                "compare the names of the directories with the keys of the model",
                tell="no directory has that name, or it has another prefix such as `model.`",
            ),
        ),
        "core_v0.9.0 to core_v0.15.3 megatron/core/dist_checkpointing/strategies/tensorstore.py "
        "open_ts_array; NVIDIA-NeMo/Speech issues 10386, 10884",
        since="<0.16",
    ),
)
