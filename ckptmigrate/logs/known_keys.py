"""The table of load errors, part 6: keys and shapes that differ between checkpoint and model."""

from __future__ import annotations

from typing import Final

from ckptmigrate.logs.kinds import (
    ANY_KEY,
    CHECK,
    OPTIMIZER_KEY,
    STRICT_SOURCE,
    Cause,
    ErrorKind,
    first_differs,
    missing,
    other_dimensions,
    shape,
)

_CORE: Final = "megatron/core/dist_checkpointing"
_PLANNER: Final = (
    "torch 2.13.0 torch/distributed/checkpoint/default_planner.py create_default_local_load_plan"
)
_SHAPES: Final = (
    f"core_v0.9.0 to core_v0.19.0 {_CORE}/strategies/torch.py _validate_global_shapes; "
    "torch 2.13.0 torch/nn/modules/module.py load_state_dict"
)
_NO_OPTIMIZER: Final = "run the job with --no-load-optim"
_MODEL: Final = "give the job the model arguments that the checkpoint was saved with"
# Parameters with one row per token or per position.
_VOCABULARY: Final = (
    rf"(?:{ANY_KEY}\.)?(?:word_embeddings|output_layer|lm_head|embed_tokens)\.(?:weight|bias)"
)
_POSITIONS: Final = rf"(?:{ANY_KEY}\.)?(?:position_embeddings|embed_positions)\.weight"
# Parameters that only models of Megatron have, as nn.Module prints them.
_IN_GPT: Final = r"(?:[\w.]+\.)?"
_STACKED: Final = rf"(?:{ANY_KEY}\.)?(?:decoder|encoder)\.layers\.(?!\d){ANY_KEY}"

ROWS: Final = (
    # -- keys that the job requests
    ErrorKind(
        "no-rerun-shards",
        missing(rf"rerun_state_machine_state(?:/{ANY_KEY})?"),
        "RuntimeError: Missing key in checkpoint state_dict: "
        "rerun_state_machine_state/shard_0.0_1.1.",
        "the job asks for rerun shards that the checkpoint does not have in the layout of its "
        "release",
        (Cause("another release wrote the checkpoint, or shards of a fault are lost", CHECK),),
        "samples/raw_matrix.json; core_v0.10.0 to core_v0.19.0 "
        "megatron/core/rerun_state_machine.py RerunStateMachine.state_dict",
        since=">=0.10",
    ),
    ErrorKind(
        "no-rng-shards",
        missing(rf"rng_state(?:/{ANY_KEY})?"),
        "RuntimeError: Missing key in checkpoint state_dict: rng_state/shard_0.0.1_1.1.4.",
        "the job asks for RNG states in another grid than the checkpoint has",
        (
            Cause(
                "the grids differ: (PP, TP), or the (PP, TP, DP x CP) of 0.16 and Megatron-Bridge "
                "with expert parallelism, and of Megatron-LM main since late August 2026",
                f"{CHECK}; or run the job with --no-load-rng",
                tell="the parallel sizes of the job are those of the checkpoint",
            ),
            Cause(
                "the job has another number of ranks than the job that wrote it, or it was saved "
                "with --no-save-rng",
                "run the job with --no-load-rng",
                tell="`ckptmigrate inspect` shows other parallel sizes than those of the job",
            ),
        ),
        "core_v0.16.1, core_v0.17.0 megatron/training/checkpointing.py get_rng_state; "
        "Megatron-LM pull request 6858",
    ),
    ErrorKind(
        "no-optimizer-state",
        missing(OPTIMIZER_KEY),
        "RuntimeError: Missing key in checkpoint state_dict: "
        "chained_0.optimizer.state.exp_avg.decoder.layers.mlp.experts.experts.linear_fc1.weight.",
        "the job asks for optimizer state that the checkpoint does not have",
        (
            Cause(
                "the checkpoint was saved without the optimizer (--no-save-optim), or converted",
                _NO_OPTIMIZER,
                tell="no key of the checkpoint begins with `optimizer.` or `chained_`",
                test="no-optimizer-keys",
            ),
            Cause(
                "the optimizer was saved in another form: another sharding type, another kind of "
                "optimizer, or with and without the chained_N prefix (MoE)",
                f"{CHECK}; or {_NO_OPTIMIZER}",
                tell="the parameter is in the checkpoint, and its optimizer state has another key",
                test="other-optimizer-keys",
            ),
            Cause(
                "the model of the job has a parameter with this name, and the model of the "
                "checkpoint does not",
                _MODEL,
                tell="the parameter itself is not in the checkpoint either",
                test="no-parameter",
            ),
        ),
        f"{_PLANNER}; core_v0.9.0 to core_v0.19.0 {_CORE}/optimizer.py "
        "optim_state_to_sharding_state",
    ),
    ErrorKind(
        "no-adapter-weights",
        missing(rf"{ANY_KEY}\.(?:adapter|lora_[AaBb]|lora_embedding_[AB]){ANY_KEY}"),
        "RuntimeError: Missing key in checkpoint state_dict: "
        "decoder.layers.self_attention.linear_qkv.adapter.linear_in.weight.",
        "the job asks for adapter (LoRA) weights that the checkpoint does not have",
        (
            Cause(
                "the checkpoint holds the base model, and the job adds the adapters before it "
                "loads",
                "load the base model first: in Megatron-Bridge as checkpoint.pretrained_checkpoint",
                tell="no key of the checkpoint has `adapter` or `lora` in it",
                test="no-adapter-keys",
            ),
            Cause(
                "it holds adapters of other modules",
                "give the job the same target modules",
                tell="other keys of the checkpoint have",
                test="adapter-keys",
            ),
        ),
        f"{_PLANNER}; NVIDIA-NeMo/Megatron-Bridge v0.6.0 (peft)",
    ),
    ErrorKind(
        "no-model-key",
        missing(ANY_KEY),
        "RuntimeError: Missing key in checkpoint state_dict: "
        "decoder.layers.mlp.router.expert_bias.",
        "the job asks for a key of its model that the checkpoint does not have",
        (
            Cause(
                "the checkpoint stores a key per layer, or gated layers in halves "
                "(singleton_local_shards, non-homogeneous layers), and the job asks for all "
                "layers in one key, or the reverse",
                "run `ckptmigrate check {path}`; releases up to 0.13 do not know the form with a "
                "key per layer",
                tell="the checkpoint has the same key with a layer number in it, or without it",
                test="per-layer-keys",
            ),
            Cause(
                "the keys of the checkpoint have another prefix, such as `module.` or "
                "`language_model.`",
                "load it with the framework that wrote it",
                tell="the checkpoint has a key with the same end",
                test="other-prefix",
            ),
            Cause(
                "the checkpoint holds adapters (LoRA) alone",
                "load the base model as well",
                tell="every key of the model in it has `adapter` or `lora` in it",
                test="adapters-only",
            ),
            Cause(
                "the model of the job has a parameter that the model of the checkpoint does not "
                "have",
                _MODEL,
                tell="no key of the checkpoint is similar",
                test="no-key-like-it",
            ),
        ),
        f"{_PLANNER}; core_v0.10.0 to core_v0.19.0 {_CORE}/strategies/torch.py "
        "_validate_global_shapes",
    ),
    ErrorKind(
        "tensor-for-object",
        (
            rf"Invalid checkpoint metadata for (?P<key>{ANY_KEY}), expected BytesStorageMetadata "
            r"but found",
        ),
        "ValueError: Invalid checkpoint metadata for decoder.layers.0._extra_state, expected "
        "BytesStorageMetadata but found <class 'TensorStorageMetadata'>",
        "the checkpoint stores a tensor under a key for which the job asks for an object",
        (
            Cause(
                "another version of the framework or of Transformer Engine wrote the checkpoint",
                "load it with the versions that wrote it",
            ),
        ),
        "torch 2.13.0 torch/distributed/checkpoint/planner_helpers.py _create_read_items",
    ),
    ErrorKind(
        "object-for-tensor",
        (r"'BytesStorageMetadata' object has no attribute 'size'",),
        "AttributeError: 'BytesStorageMetadata' object has no attribute 'size'",
        "the checkpoint stores an object under a key for which the job asks for a tensor",
        (
            Cause(
                "another version of the framework or of Transformer Engine wrote the checkpoint",
                "load it with the versions that wrote it",
            ),
        ),
        f"core_v0.10.0 to core_v0.19.0 {_CORE}/strategies/torch.py _validate_global_shapes",
    ),
    ErrorKind(
        "strict-rerun-shards",
        (r"Missing keys \(for all ranks\).*rerun_state_machine_state",),
        "Missing keys (for all ranks): {'rerun_state_machine_state'}.",
        "a job with --dist-ckpt-strictness raise_all refuses rerun shards that it does not ask for",
        (
            Cause(
                "0.18 and later save rerun shards while idle, and no release asks for them then",
                "run `ckptmigrate check {path} --strict`; with --reader RELEASE it prints the fix",
            ),
        ),
        STRICT_SOURCE,
    ),
    ErrorKind(
        "strict-keys",
        (r"Missing keys \(for all ranks\): \{", r"Unexpected keys \(for this rank\): \{"),
        "Unexpected keys (for this rank): {'decoder.layers.mlp.router.expert_bias'}.",
        "the job checks that it and the checkpoint have the same keys (--dist-ckpt-strictness), "
        "and they do not: `missing` keys are only in the checkpoint, `unexpected` ones only in "
        "the job",
        (
            Cause(
                "the checkpoint has keys that the job does not need (`missing`)",
                "run the job with --dist-ckpt-strictness assume_ok_unexpected",
                tell="the line starts with `Missing keys (for all ranks)`",
            ),
            Cause(
                "the model of the job has keys that the checkpoint does not have (`unexpected`)",
                _MODEL,
                tell="the line begins with `Unexpected keys (for this rank)`",
            ),
        ),
        STRICT_SOURCE,
    ),
    # -- shapes
    ErrorKind(
        "vocabulary-shape",
        shape(
            _VOCABULARY, rf"{_IN_GPT}(?:embedding\.word_embeddings|output_layer)\.(?:weight|bias)"
        ),
        "CheckpointingException: Global shape mismatch for loaded (torch.Size([50304, 1024])) and "
        "expected ((50432, 1024)) tensor for key embedding.word_embeddings.weight",
        "the vocabulary of the job has another size than that of the checkpoint",
        (
            Cause(
                "the padding differs: Megatron pads the vocabulary to a multiple of "
                "--make-vocab-size-divisible-by times TP",
                "give the job the padded size of the checkpoint: the same TP and "
                "--make-vocab-size-divisible-by, or --padded-vocab-size where the job has it",
                tell="both sizes are a little larger than the vocabulary of one tokenizer",
                test="vocabulary",
            ),
            Cause(
                "the tokenizer differs",
                "use the tokenizer that the checkpoint was trained with",
                tell="the sizes differ by more than the padding",
            ),
        ),
        f"{_SHAPES}; core_v0.9.0 to core_v0.19.0 megatron/training/tokenizer/tokenizer.py "
        "_vocab_size_with_padding",
        fits=first_differs,
    ),
    ErrorKind(
        "position-shape",
        shape(_POSITIONS, rf"{_IN_GPT}embedding\.position_embeddings\.weight"),
        "CheckpointingException: Global shape mismatch for loaded ((1024, 768)) and expected "
        "((512, 768)) tensor for key model.embedding.position_embeddings.weight",
        "the job has another number of position embeddings than the checkpoint, which is its "
        "largest sequence length",
        (
            Cause(
                "--max-position-embeddings (in NeMo also encoder_seq_length) differs",
                "run the job with the value of the checkpoint, the first number of the loaded "
                "shape",
                test="positions",
            ),
        ),
        f"{_SHAPES}; NVIDIA-NeMo/Speech issue 10715",
        fits=first_differs,
    ),
    ErrorKind(
        "layer-count",
        shape(_STACKED),
        "CheckpointingException: Global shape mismatch for loaded (torch.Size([24, 1024])) and "
        "expected ((12, 1024)) tensor for key decoder.layers.input_layernorm.weight",
        "the model of the job has another number of layers than the checkpoint: a key without a "
        "layer number holds all layers, along its first dimension",
        (
            Cause(
                "--num-layers differs",
                "run the job with the number of layers of the checkpoint, the first number of the "
                "loaded shape",
                test="layers",
            ),
        ),
        _SHAPES,
        fits=first_differs,
    ),
    ErrorKind(
        "other-optimizer-shape",
        shape(OPTIMIZER_KEY),
        "CheckpointingException: Global shape mismatch for loaded (torch.Size([1, 1, 64])) and "
        "expected ((64,)) tensor for key optimizer.state.exp_avg.decoder.final_layernorm.bias",
        "the checkpoint stores flattened optimizer states with another number of dimensions: "
        "those of one dimension are stored in another shape since 0.11",
        (Cause("0.11 or later wrote the checkpoint, and the job runs 0.10 or older", CHECK),),
        "core_v0.10.0, core_v0.11.0 megatron/core/dist_checkpointing/strategies/torch.py "
        "sharded_tensor_to_torch_sharded_tensor; 0.10.0 on samples/0.13.1-idle-dopt",
        since="<0.11",
        fits=other_dimensions,
    ),
    ErrorKind(
        "bucket-shape",
        shape(rf"(?:chained_\d+\.)?optimizer\.distributed\.{ANY_KEY}"),
        "CheckpointingException: Global shape mismatch for loaded (torch.Size([4096])) and "
        "expected ((2048,)) tensor for key optimizer.distributed.dp_group_idx_0.gbuf_idx_0.exp_avg",
        "the distributed optimizer is stored by its buffers, whose sizes depend on the parallel "
        "sizes, and those of the job differ",
        (
            Cause(
                "the job has other parallel sizes, or another bucket size, than the one that "
                "wrote it",
                f"run the job with the same sizes; or {_NO_OPTIMIZER}",
            ),
        ),
        f"{_SHAPES}; core_v0.9.0 to core_v0.19.0 megatron/core/optimizer/distrib_optimizer.py "
        "sharded_state_dict",
    ),
    ErrorKind(
        "tensor-shape",
        shape(
            ANY_KEY,
            rf"{_IN_GPT}(?:decoder|encoder)\.layers\.\d+\.(?:self_attention|mlp)\.[\w.]+",
        ),
        "CheckpointingException: Global shape mismatch for loaded (torch.Size([12, 2304, 768])) "
        "and expected ((12, 4608, 768)) tensor for key decoder.layers.self_attention.linear_qkv"
        ".weight",
        "the model of the job has another shape for this key than the checkpoint",
        (
            Cause(
                "a model argument differs: hidden size, feed-forward size, attention heads, "
                "query groups, experts or the number of layers",
                _MODEL,
                tell="the numbers that differ are such sizes; `ckptmigrate inspect` shows the "
                "checkpoint",
                test="model-arguments",
            ),
            Cause(
                "the shape of this key depends on the tensor parallel size (TP), and that of the "
                "job differs",
                "run the job with the TP of the checkpoint",
                tell="one number is a multiple of the other by the ratio of the two TP sizes",
                test="tensor-parallel",
            ),
        ),
        f"{_SHAPES}; NVIDIA-NeMo/Speech issue 14747; NVIDIA/cosmos issue 145",
    ),
)
