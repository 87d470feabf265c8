"""The table of load errors, part 7: FP8 state, rerun state and RNG states."""

from __future__ import annotations

from typing import Final

from ckptmigrate.logs.kinds import CHECK, EXTRA_FRAMES, VERIFY, Cause, ErrorKind, Sure

_CORE: Final = "megatron/core/dist_checkpointing"
_RERUN: Final = "megatron/core/rerun_state_machine.py"
_LOAD: Final = "core_v0.9.0 to core_v0.19.0 megatron/training/checkpointing.py load_checkpoint"
_TE: Final = "NVIDIA/TransformerEngine"
_NO_RNG: Final = "run the job with --no-load-rng"
_RERUN_FRAMES: Final = r"rerun_state_machine\.py:"
_REPLAY_FRAMES: Final = rf"{_RERUN_FRAMES}(?:_restore_state|should_run_forward_backward)$"

ROWS: Final = (
    # -- the extra state of Transformer Engine
    ErrorKind(
        "extra-state-recipe",
        (r"KeyError: 'recipe'",),
        "KeyError: 'recipe'",
        "Transformer Engine 2.0 to 2.4 reads an FP8 `_extra_state` that Transformer Engine 1 saved "
        "without a recipe",
        (
            Cause(
                "the checkpoint was saved with Transformer Engine 1",
                "run the job with Transformer Engine 2.5 or later, which reads it, or with the "
                "version that wrote it",
            ),
        ),
        f"{_TE} pull request 1724 (in v2.5), issue 1553; ArcInstitute/evo2 issue 35",
        sure=Sure.LIKELY,
        frames=EXTRA_FRAMES,
    ),
    ErrorKind(
        "extra-state-bytes",
        (r"(?:object of type )?'(?:_io\.)?BytesIO' (?:object )?has no len\(\)",),
        "TypeError: object of type '_io.BytesIO' has no len()",
        "Megatron-Core loads an object as a bare io.BytesIO, where it expects a list with one "
        "value per shard",
        (
            Cause(
                "the checkpoint stores an `_extra_state` of Transformer Engine as io.BytesIO (FP8, "
                "Transformer Engine 1)",
                "load it with the versions of Megatron-Core and Transformer Engine that "
                "wrote it, and save it again with Transformer Engine 2",
            ),
        ),
        f"core_v0.16.1 {_CORE}/strategies/torch.py _replace_sharded_keys_with_state_dict_keys; "
        "radixark/miles issue 1293",
        sure=Sure.LIKELY,
        frames=r"dist_checkpointing/|:_replace_sharded_keys_with_state_dict_keys$",
    ),
    ErrorKind(
        "extra-state-refused",
        (r"Refusing to load pickled Transformer Engine extra state",),
        "RuntimeError: Refusing to load pickled Transformer Engine extra state for Linear.",
        "Transformer Engine refuses to unpickle an FP8 `_extra_state`, since a pickle can execute "
        "code",
        (
            Cause(
                "the checkpoint holds the state of FP8 delayed scaling",
                f"if you trust the checkpoint ({VERIFY} to list the globals it names), set "
                "NVTE_ALLOW_UNSAFE_PICKLE_EXTRA_STATE=1",
            ),
        ),
        f"{_TE} pull request 3123 (after v2.17)",
    ),
    ErrorKind(
        "extra-state-type",
        (r"RuntimeError: Unsupported checkpoint format\.",),
        "RuntimeError: Unsupported checkpoint format.",
        "Transformer Engine finds an `_extra_state` that is neither a tensor nor io.BytesIO",
        (
            Cause(
                "another program wrote or converted the checkpoint",
                "convert it again with the version of Transformer Engine that the job runs",
            ),
        ),
        f"{_TE} v2.5 (set_extra_state of pytorch/module/base)",
        frames=EXTRA_FRAMES,
        needs_frames=True,
    ),
    # -- the rerun state and the RNG states
    ErrorKind(
        "no-last-loss",
        (
            r"KeyError: 'last_loss'",
            r"Unable to restore RerunMachine from checkpoint: 'last_loss'",
        ),
        "Unable to restore RerunMachine from checkpoint: 'last_loss'",
        "the rerun shards have the fields of another release, and the job exits with status 0",
        (Cause("0.12 or 0.13 wrote the checkpoint, and the job runs 0.10 or 0.11", CHECK),),
        f"samples/raw_matrix.json; core_v0.10.0 {_RERUN} RerunStateMachine.load_state_dict; "
        "core_v0.10.0 megatron/training/checkpointing.py load_checkpoint",
        since=">=0.10,<0.12",
    ),
    ErrorKind(
        "lone-rerun-mode",
        (r"KeyError: 'sharded'", r"Unable to restore RerunMachine from checkpoint: 'sharded'"),
        "KeyError: 'sharded'",
        "the job loads the rerun mode from the common state without the rerun shards that belong "
        "to it, and exits with status 0",
        (
            Cause(
                "the job runs with another TP or PP, or with --finetune, so that 0.12 and 0.13 do "
                "not ask for the shards",
                "run `ckptmigrate check {path} --reader RELEASE` with --job-tp, --job-pp or "
                "--finetune as the job has them: it prints the fix",
            ),
        ),
        f"core_v0.12.0, core_v0.13.1 {_RERUN} RerunStateMachine.load_state_dict",
        since=">=0.12,<0.14",
        sure=Sure.LIKELY,
        frames=_RERUN_FRAMES,
    ),
    ErrorKind(
        "rerun-not-restored",
        (r"Unable to restore RerunMachine from checkpoint: (?P<key>.+)",),
        "Unable to restore RerunMachine from checkpoint: 'state'",
        "the job cannot restore the rerun state of the checkpoint, which has fields of another "
        "release",
        (Cause("another release wrote the checkpoint", CHECK),),
        _LOAD,
        since=">=0.10",
    ),
    ErrorKind(
        "none-not-subscriptable",
        (r"'NoneType' object is not subscriptable",),
        "TypeError: 'NoneType' object is not subscriptable",
        "a value that the job reads is None; which one, the traceback shows",
        (
            Cause(
                "the checkpoint was saved in the rerun state RERUNNING_IN_PLACE, by a job that "
                "exited with status 17: no release can resume from it",
                "run `ckptmigrate repair {path} --drop-rerun`",
                tell="the last frame of the traceback is _restore_state in rerun_state_machine.py, "
                "at the first training step",
                frames=_REPLAY_FRAMES,
                test="rerunning-in-place",
            ),
            Cause(
                "no checkpoint was loaded, because --load names no root with a tracker file",
                VERIFY,
                tell="the last frame is load_checkpoint, at state_dict['iteration']",
                frames=r":load_checkpoint$",
                test="no-tracker",
            ),
            Cause(
                "it is an error of the program, and not of the checkpoint",
                "read the last frame of the traceback",
                tell="the traceback passes through neither",
            ),
        ),
        "core_v0.10.0 to core_v0.16.1 megatron/core/rerun_state_machine.py _restore_state; "
        "NVIDIA/Megatron-LM issue 3884, pull request 3981; alibaba/ChatLearn issue 198",
        since=">=0.10",
        sure=Sure.POSSIBLE,
        frames=rf"{_REPLAY_FRAMES}|:load_checkpoint$",
    ),
    ErrorKind(
        "unloaded-rng",
        (r"Unable to load rng state from checkpoint",),
        "Unable to load rng state from checkpoint /ckpt/iter_0000100. Specify --no-load-rng",
        "the job did not load RNG states, and stops because --no-load-rng is not set",
        (
            Cause(
                "TP or PP of the job differ from the checkpoint: then it does not ask for them",
                _NO_RNG,
                tell="`ckptmigrate inspect` shows other parallel sizes than those of the job",
            ),
            Cause(
                "the checkpoint was saved with --no-save-rng",
                _NO_RNG,
                tell="the checkpoint has no rng_state key",
                test="no-rng-keys",
            ),
        ),
        _LOAD,
    ),
)
