"""The table of load errors, part 5: the `_extra_state` of Transformer Engine."""

from __future__ import annotations

from typing import Final

from ckptmigrate.logs.kinds import (
    EXTRA_FRAMES,
    EXTRA_STATE,
    STRICT_SOURCE,
    VERIFY,
    Cause,
    ErrorKind,
    Sure,
    missing,
    shape,
)

_CORE: Final = "megatron/core/dist_checkpointing"
_TE: Final = "NVIDIA/TransformerEngine"
_CHECK: Final = (
    "run `ckptmigrate check {path} --reader RELEASE --transformer-engine V` with the versions of "
    "the job: it prints the fix"
)
_SKIP: Final = (
    f"{_CHECK}; or run the job with --dist-ckpt-strictness log_unexpected (0.13 and later): it "
    "skips the keys that the checkpoint does not have and logs them; continue only if it logs no "
    "other key"
)
# A set of keys that are all of this kind, as Megatron-Core prints it.
_ALL: Final = rf"\{{'{EXTRA_STATE}'(?:, '{EXTRA_STATE}'){{0,9999}}\}}"

ROWS: Final = (
    ErrorKind(
        "no-extra-state",
        (
            *missing(EXTRA_STATE),
            rf"(?:Missing|Unexpected) key\(s\) in state_dict: \"(?P<key>{EXTRA_STATE})\"",
            rf"Object shard \S*?(?P<key>{EXTRA_STATE})\.pt not found",
        ),
        "RuntimeError: Missing key in checkpoint state_dict: "
        "decoder.layers.pre_mlp_layernorm._extra_state/shard_0_24.",
        "the job and the checkpoint differ in the `_extra_state` of Transformer Engine, which "
        "contains FP8 state and is empty without FP8",
        (
            Cause(
                "another version of Transformer Engine or of Megatron-Core wrote the checkpoint, "
                "in which other modules have an _extra_state: the attention since Transformer "
                "Engine 1.6 (up to Megatron-Core 0.14), norms since 1.13",
                _SKIP,
                tell="the checkpoint has _extra_state keys of other modules",
                test="some-extra-state",
            ),
            Cause(
                "a converter or another framework wrote the checkpoint without it",
                _SKIP,
                tell="the checkpoint has no _extra_state key at all",
                test="no-extra-state",
            ),
        ),
        "torch 2.13.0 torch/distributed/checkpoint/default_planner.py "
        "create_default_local_load_plan; core_v0.9.0 to core_v0.19.0 megatron/core/transformer/"
        "utils.py make_sharded_tensors_for_checkpoint; NVIDIA/Megatron-LM issue 900, pull request "
        f"6270; NVIDIA/cosmos issue 69; {_TE} issue 199; NVIDIA-NeMo/Speech issues 10386, 12298; "
        "modelscope/ms-swift issue 6637; alibaba/Pai-Megatron-Patch issue 303",
    ),
    ErrorKind(
        "strict-extra-state",
        (
            rf"(?P<which>Missing) keys \(for all ranks\): {_ALL}",
            rf"(?P<which>Unexpected) keys \(for this rank\): {_ALL}",
        ),
        "Unexpected keys (for this rank): {'decoder.final_layernorm._extra_state'}.",
        "the job checks that it and the checkpoint have the same keys (--dist-ckpt-strictness), "
        "and they differ in the `_extra_state` of Transformer Engine alone",
        (
            Cause(
                "the checkpoint has it for modules for which the job does not request it "
                "(`missing`)",
                f"{_CHECK}; or run the job with --dist-ckpt-strictness assume_ok_unexpected",
                tell="the line contains `Missing keys (for all ranks)`",
            ),
            Cause(
                "the job requests it for modules for which the checkpoint does not have it "
                "(`unexpected`)",
                _SKIP,
                tell="the line contains `Unexpected keys (for this rank)`",
            ),
        ),
        STRICT_SOURCE,
    ),
    ErrorKind(
        "extra-state-shape",
        shape(EXTRA_STATE),
        "ValueError: Size mismatch between saved torch.Size([2322]) and current: torch.Size([4]) "
        "for model.layers.0.feed_forward._extra_state",
        "the checkpoint stores an `_extra_state` of Transformer Engine as a tensor, and that of "
        "the job has another size: its size depends on the FP8 state",
        (
            Cause(
                "torch saved the state dict of the model without Megatron-Core, for example with "
                "FSDP2, and the model of the job has no FP8 state yet",
                "leave the _extra_state keys out of the state dict that the job loads; with FP8, "
                "the job starts with new scaling factors",
            ),
        ),
        f"torch 2.13.0 torch/distributed/checkpoint/default_planner.py "
        f"create_default_local_load_plan; {_TE} issue 1860",
    ),
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
        f"{_TE} pull request 1724 (in v2.5), issues 1553, 1623; ArcInstitute/evo2 issue 35",
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
                "the _extra_state is None, as layers of Megatron-Core (--transformer-impl local) "
                "write it, and the job runs Transformer Engine 2.4, which alone refuses that",
                "run the job with Transformer Engine 2.5 or later; or run `ckptmigrate migrate "
                "{path} --extra-state add --transformer-engine 2.4`",
                tell="the job runs Transformer Engine 2.4",
                test="extra-state-none",
            ),
            Cause(
                "another program wrote or converted the checkpoint",
                "convert it again with the version of Transformer Engine that the job runs",
                tell="the job runs another version",
            ),
        ),
        f"{_TE} v2.4, v2.5 (set_extra_state of pytorch/module/base)",
        frames=EXTRA_FRAMES,
        needs_frames=True,
    ),
)
