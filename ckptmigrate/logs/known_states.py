"""The table of load errors, part 8: rerun state and RNG states."""

from __future__ import annotations

from typing import Final

from ckptmigrate.logs.kinds import CHECK, VERIFY, Cause, ErrorKind, Sure

_RERUN: Final = "megatron/core/rerun_state_machine.py"
_LOAD: Final = "core_v0.9.0 to core_v0.19.0 megatron/training/checkpointing.py load_checkpoint"
_NO_RNG: Final = "run the job with --no-load-rng"
_RERUN_FRAMES: Final = r"rerun_state_machine\.py:"
_REPLAY_FRAMES: Final = rf"{_RERUN_FRAMES}(?:_restore_state|should_run_forward_backward)$"

ROWS: Final = (
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
                "a job with FP8 saves the experts of a grouped layer, whose `_extra_state` is "
                "empty: Transformer Engine 2.16.1 and later have none for recipes without a state",
                "run the job with Transformer Engine 2.16.0 or 2.17.0, or update Megatron-Core",
                tell="the last frame is _split_extra_state in transformer_engine.py",
                frames=r":_split_extra_state$",
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
        "NVIDIA/Megatron-LM issue 3884, pull requests 3981, 6509; alibaba/ChatLearn issue 198",
        since=">=0.10",
        sure=Sure.POSSIBLE,
        frames=rf"{_REPLAY_FRAMES}|:load_checkpoint$|:_split_extra_state$",
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
