"""`explain` of error lines and of logs: never another cause than the real one.

cases/explain.txt has real log lines with their causes, cases/unrelated.txt lines that no checkpoint
causes. Real torch and real releases are asked for the texts that they raise.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch_side
from conftest import CLI, INDEX, MAIN, SAMPLES, Run, checkpoint_of, refused, tree_hash
from real_releases import READERS, run_parts
from test_schemas import validator
from test_sources import PATH, TAG, looks

from ckptmigrate.compat.cells import matrix
from ckptmigrate.logs import log_reader
from ckptmigrate.logs.cause_tests import CAUSE_TESTS
from ckptmigrate.logs.examined import Seen
from ckptmigrate.logs.kinds import ErrorKind, Sure
from ckptmigrate.logs.log_reader import parse_log, read_log
from ckptmigrate.logs.recognition import kinds, recognise
from ckptmigrate.releases.facts import compat
from ckptmigrate.verbs import explain

CASES = Path(__file__).parent / "cases"
LINES = dict(
    line.split("\t") for line in (CASES / "explain.txt").read_text(encoding="utf-8").splitlines()
)
UNRELATED = (CASES / "unrelated.txt").read_text(encoding="utf-8").splitlines()
KINDS = {kind.error: kind for kind in kinds()}
IDLE = "0.17.1-idle-w1"

# The cause of each line of explain.txt, found by a part of its description, as a kind of error.
KIND_OF = {
    "the root has no tracker file": "no-tracker-file",
    "looks for mcore_data in .metadata": "no-mcore-data",
    ".metadata names a class that this reader does not have": "no-save-plan-class",
    "pickles a class of ms-swift": "foreign-class",
    "an old Megatron with NumPy 2": "numpy-product",
    "Megatron-Bridge expects run_config.yaml": "no-run-config",
    ".metadata is missing": "no-metadata-file",
    "the checkpoint has no optimizer": "unsaved-optimizer",
    "pickled under NumPy 2": "numpy-2-pickle",
    "pickled on Python 3.13": "python-3.13-path",
    "asks for optimizer state": "no-optimizer-state",
    "expects the common state as a sharded object": "no-common-object",
    "asks for Transformer Engine state": "no-extra-state",
    "another grid of RNG states": "no-rng-shards",
    "truncated or not a zip": "truncated-torch-file",
    "unrelated to the format unless": None,
    "possibly a checkpoint saved in RERUNNING_IN_PLACE": "none-not-subscriptable",
    "zarr checkpoint": "zarr-array",
    "param_groups of another release": "param-group-keys",
    "without Megatron's allow-list": "no-allow-list",
    "metadata.json is missing": "not-distributed",
}

# How launchers, schedulers, loggers and terminals print a line of rank 7.
DRESSES = {
    "plain": "{}",
    "torchrun": "[rank7]: {}",
    "torchrun --tee": "[default7]:[rank7]: {}",
    "srun --label": " 7: {}",
    "srun and torchrun": "7: [rank7]: {}",
    "pdsh": "192.168.11.3: [rank7]: {}",
    "NeMo-Run": "finetune/0 [default7]:[rank7]: {}",
    "mpirun": "[1,7]<stderr>:{}",
    "Ray": "(MegatronActor pid=7) {}",
    "time": "2026-01-01 12:00:01,123 [rank7]: {}",
    "logger": "[2026-01-01 12:00:01,123][ERROR] [rank7]: {}",
    "colour": "\x1b[31m[rank7]: {}\x1b[0m",
    "kubectl": "2026-01-01T12:00:01.123456Z [rank7]: {}",
}


def kind_of(cause: str) -> str | None:
    [found] = {kind for part, kind in KIND_OF.items() if part in cause}
    return found


def found(text: str) -> list[str]:
    return [each.recognised.kind.error for each in parse_log(text).found]


def explain_log(log: str | bytes, tmp_path: Path, *words: object) -> tuple[int, str]:
    """The exit status and the output of `explain WORDS -` with a log as standard input."""
    data = log.encode() if isinstance(log, str) else log
    (tmp_path / "job.log").write_bytes(data)
    with open(tmp_path / "job.log", "rb") as stdin, open(tmp_path / "out", "wb") as out:
        descriptors = [stdin.fileno(), out.fileno(), out.fileno()]
        arguments = ["explain", *map(str, words), "-"]
        status = CLI.call(arguments, descriptors, main=MAIN, cwd=tmp_path)
    return status, (tmp_path / "out").read_text(encoding="utf-8")


# -- the table


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.error)
def test_an_example_is_of_its_own_kind(kind: ErrorKind) -> None:
    frames = ["x/torch/distributed/checkpoint/filesystem.py:read_metadata", "a:set_extra_state"]
    frames.append("megatron/core/dist_checkpointing/strategies/torch.py:load")
    frames += ["megatron/core/optimizer/optimizer.py:load_state_dict", "core.py:maybe_load_config"]
    recognised = recognise(kind.example, tuple(frames) if kind.needs_frames else None)
    assert recognised is not None
    assert recognised.kind is kind
    assert kind.needs_frames or recognised.causes == kind.causes


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.error)
def test_a_row_is_complete(kind: ErrorKind) -> None:
    assert kind.what
    assert kind.source
    assert kind.since
    for cause in kind.causes:
        assert cause.why
        assert cause.fix.format(path="PATH")
        assert not cause.test or cause.test in CAUSE_TESTS
        assert bool(cause.tell) or len(kind.causes) == 1
    assert kind.sure is not Sure.POSSIBLE or len(kind.causes) > 1
    assert kind.frames or not kind.needs_frames
    # A log is searched for a few words first.
    assert log_reader._can_matter(kind.example)


def test_every_look_decides_a_cause() -> None:
    assert {cause.test for kind in kinds() for cause in kind.causes} - {""} == set(CAUSE_TESTS)


def test_a_name_means_one_thing() -> None:
    names = [name for of in explain.words().values() for name in of]
    assert sorted(names) == sorted(set(names))


def test_every_failure_of_the_matrix_is_in_the_table() -> None:
    assert {row.failure for row in matrix().failures} <= set(KINDS)


def test_the_enums_are_those_of_the_facts() -> None:
    """What `is not a valid` can be about: every enum of Megatron that a checkpoint pickles."""
    for row in compat().symbols:
        name = row.symbol.rpartition(".")[2]
        if row.members and row.symbol.startswith("megatron."):
            assert found(f"ValueError: 9 is not a valid {name}") == ["unknown-member"]


def test_every_known_symbol_that_a_release_lacks_is_explained() -> None:
    for row in compat().symbols:
        module, _, name = row.symbol.rpartition(".")
        if module.startswith("megatron."):
            [error] = found(f"AttributeError: Can't get attribute '{name}' on <module '{module}'")
            assert error in ("missing-global", "unknown-metadata-class", "no-save-plan-class")


# -- the lines that people met


@pytest.mark.parametrize("dress", DRESSES.values(), ids=DRESSES)
@pytest.mark.parametrize(("line", "cause"), LINES.items())
def test_a_real_line_has_its_cause(line: str, cause: str, dress: str) -> None:
    kind = kind_of(cause)
    assert found(dress.format(line)) == ([] if kind is None else [kind])


@pytest.mark.parametrize(("line", "cause"), LINES.items())
def test_the_command_says_it(line: str, cause: str, run: Run) -> None:
    result, kind = run("explain", "--", line), kind_of(cause)
    if kind is None:
        refused(result, "is not a topic", "`ckptmigrate explain`")
        return
    assert result.returncode == 0
    assert result.stdout.startswith(f"{kind}: {KINDS[kind].what}")


CORE = "megatron.core.dist_checkpointing.core.CheckpointingException: "
# Other forms of the same kinds, as reports, other releases and other keys have them.
FORMS = {
    f"{CORE}Global shape mismatch for loaded (torch.Size([128256, 4096])) and expected "
    "((128512, 4096)) tensor for key embedding.word_embeddings.weight": "vocabulary-shape",
    f"{CORE}Global shape mismatch for loaded ((1024, 768)) and expected ((512, 768)) tensor for "
    "key model.embedding.position_embeddings.weight": "position-shape",
    f"{CORE}Global shape mismatch for loaded ((4096, 68)) and expected ((4096, 72)) tensor for key "
    "module.x_embedder.proj.1.weight": "tensor-shape",
    f"{CORE}Global shape mismatch for loaded (torch.Size([24, 64])) and expected ((24, 32)) tensor "
    "for key decoder.layers.self_attention.core_attention.softmax_offset": "tensor-shape",
    f"{CORE}Global shape mismatch for loaded (torch.Size([36, 4096])) and expected ((32, 4096)) "
    "tensor for key decoder.layers.mlp.linear_fc2.bias": "layer-count",
    f"{CORE}Global shape mismatch for loaded (torch.Size([50304, 8])) and expected ((50432, 8)) "
    "tensor for key optimizer.state.exp_avg.embedding.word_embeddings.weight": "vocabulary-shape",
    f"{CORE}Global shape mismatch for loaded (torch.Size([1, 1, 16])) and expected ((16,)) tensor "
    "for key optimizer.state.exp_avg.decoder.final_layernorm.bias": "other-optimizer-shape",
    f"{CORE}Global shape mismatch for loaded (torch.Size([4096])) and expected ((2048,)) tensor "
    "for key optimizer.distributed.dp_group_idx_0.gbuf_idx_0.exp_avg": "bucket-shape",
    "\tsize mismatch for embedding.word_embeddings.weight: copying a param with shape "
    "torch.Size([32000, 4096]) from checkpoint, the shape in current model is "
    "torch.Size([32064, 4096]).": "vocabulary-shape",
    "\tsize mismatch for module.decoder.layers.0.self_attention.linear_qkv.weight: copying a param "
    "with shape torch.Size([6144, 4096]) from checkpoint, the shape in current model is "
    "torch.Size([3072, 4096]).": "tensor-shape",
    "ValueError: Size mismatch between saved torch.Size([8]) and current: torch.Size([4]) for "
    "decoder.final_layernorm.weight": "tensor-shape",
    "ERROR:megatron.core.dist_checkpointing.validation:Invalid access pattern: 24 ShardedObject "
    "are missing. Existing shards: ['a/shard_0_80']": "job-shards-incomplete",
    "TypeError: object of type 'BytesIO' has no len()": "extra-state-bytes",
    "'BytesIO' has no len()": "extra-state-bytes",
    "KeyError: \"decoder.layers.mlp.router.weight from model not in state dict: ['a', 'b']\"":
        "no-model-key",
    "KeyError: \"optimizer.state.exp_avg.x from model not in state dict: ['a']\"":
        "no-optimizer-state",
    "RuntimeError: Missing key in checkpoint state_dict: "
    "language_model.decoder.layers.self_attention.core_attention._extra_state/shard_0_48.":
        "no-extra-state",
    "RuntimeError: Missing key in checkpoint state_dict: "
    "decoder.layers.linear_qkv.adapter.linear_in.weight.": "no-adapter-weights",
    "RuntimeError: Missing key in checkpoint state_dict: iteration.": "taken-for-torch-dcp",
    'Unexpected key(s) in state_dict: "decoder.layers.0.self_attention._extra_state"':
        "no-extra-state",
    'Unexpected key(s) in state_dict: "decoder.layers.0.self_attention.core_attention.'
    '_extra_state"': "no-extra-state",
    '\tMissing key(s) in state_dict: "decoder.layers.0.self_attention.linear_proj._extra_state", '
    '"decoder.layers.0.self_attention.linear_qkv._extra_state"': "no-extra-state",
    '\tMissing key(s) in state_dict: "0._extra_state".': "no-extra-state",
    "RuntimeError: Missing key in checkpoint state_dict: module.decoder.layers.self_attention."
    "q_layernorm._extra_state/shard_0_16.": "no-extra-state",
    "RuntimeError: Missing key in checkpoint state_dict: model.decoder.layers.self_attention."
    "core_attention._extra_state/shard_0_32.": "no-extra-state",
    f"{CORE}Object shard /ckpt/model_weights/model.decoder.layers.self_attention.core_attention."
    "_extra_state/shard_0_80.pt not found": "no-extra-state",
    "ValueError: Size mismatch between saved torch.Size([2322]) and current: torch.Size([4]) for "
    "model.diffusion_transformer.layers.0.feed_forward.ffn._extra_state": "extra-state-shape",
    "Missing keys (for all ranks): {'decoder.layers.self_attention.core_attention._extra_state', "
    "'decoder.final_layernorm._extra_state'}.": "strict-extra-state",
    "Unexpected keys (for this rank): {'decoder.final_layernorm._extra_state', "
    "'decoder.final_layernorm.weight'}.": "strict-keys",
    "ValueError: Key wd_mult (or pre_wd_mult) not found in param_group {'lr': 1}.":
        "param-group-keys",
    "KeyError: (1.0, 1.0, False, True)": "param-group-mismatch",
    "AssertionError: hidden_size value from checkpoint (4096) is not equal to the input argument "
    "value (2048).": "argument-mismatch",
    "RuntimeError: PytorchStreamReader failed locating file data.pkl: file not found":
        "truncated-torch-file",
    "_pickle.UnpicklingError: invalid load key, '<'.": "not-a-torch-file",
    "FileNotFoundError: [Errno 2] No such file or directory: '/c/iter_0000100/common.pt'":
        "no-common-state",
    "FileNotFoundError: [Errno 2] No such file or directory: '/c/iter_0000100/metadata.json'":
        "not-distributed",
    "FileNotFoundError: [Errno 2] No such file or directory: '/c/iter_0000100/run_config.yaml'":
        "no-run-config",
    "FileNotFoundError: [Errno 2] No such file or directory: '/c/iter_0000100'":
        "no-checkpoint-directory",
    "FileNotFoundError: [Errno 2] No such file or directory: '/latest_checkpointed_iteration.txt'":
        "no-tracker-file",
    "ModuleNotFoundError: No module named 'numpy._core.multiarray'": "numpy-2-pickle",
    "AttributeError: Can't get attribute '_StoragePrefix' on <module "
    "'torch.distributed.checkpoint.filesystem' from '/usr/lib'>": "newer-torch",
    'ValueError: NOT_FOUND: Error opening "zarr" driver: Metadata at local file "/x/.zarray" does '
    "not exist": "zarr-array",
    "Unable to restore RerunMachine from checkpoint: 'NoneType' object is not subscriptable. "
    "Skipping.": "rerun-not-restored",
    ">> '--exit-on-missing-checkpoint' is set but no checkpoint was found under load directory":
        "no-tracker-file",
}  # fmt: skip


@pytest.mark.parametrize(("line", "kind"), FORMS.items(), ids=lambda text: text[-50:])
def test_another_form_of_a_kind(line: str, kind: str) -> None:
    assert found(line) == [kind]
    assert found(f"105: [rank105]: {line}") == [kind]


@pytest.mark.parametrize("line", UNRELATED)
def test_an_unrelated_line_is_not_explained(line: str) -> None:
    assert found(line) == []
    assert found(f"[rank3]: {line}") == []


def test_a_log_of_unrelated_lines_is_not_explained(tmp_path: Path) -> None:
    status, text = explain_log("\n".join(UNRELATED), tmp_path)
    assert status == 1
    assert text.startswith(f"not explained: no known load error in {len(UNRELATED)} lines")
    assert "line 1: not explained: torch.OutOfMemoryError: CUDA out of memory." in text
    status, text = explain_log("\n".join(UNRELATED), tmp_path, "--json")
    shown = json.loads(text)
    validator("explain").validate(shown)
    assert (status, shown["explained"], shown["errors"]) == (1, False, [])
    assert shown["unexplained"][0]["line"] == 1


def test_the_errors_that_were_measured() -> None:
    """Every text of a real release in the matrix is of the kind that the matrix says."""
    measured = json.loads((SAMPLES / "raw_matrix.json").read_text())
    texts = {row["error"] for row in measured if row["error"]}
    assert len(texts) > 5
    for text in texts:
        row = matrix().failure(text)
        assert row is not None
        # A reader that misses mcore_data names no sharding type.
        expected = "no-mcore-data" if "mcore_data" in text else row.failure
        assert found(text)[:1] == [expected] or "sys.exit called" in text, text


# -- texts that mean several things

TRACEBACK = """Traceback (most recent call last):
  File "/opt/Megatron-LM/pretrain_gpt.py", line 233, in <module>
    pretrain(
  File "{file}", line 1007, in {function}
    value = f({{'a': 1}})
            ^^^^^^^^^^^^^
{error}
"""
EXTRA = ("/usr/lib/transformer_engine/pytorch/module/base.py", "set_extra_state")
METADATA = ("/usr/lib/torch/distributed/checkpoint/filesystem.py", "read_metadata")
COMMON = ("/opt/megatron/core/dist_checkpointing/strategies/common.py", "load_common")
RERUN = ("/opt/Megatron-LM/megatron/core/rerun_state_machine.py", "_restore_state")
ELSEWHERE = ("/home/me/dataset.py", "load_index")
EOF = "EOFError: Ran out of input"
NONE = "TypeError: 'NoneType' object is not subscriptable"
SEVERAL = [
    (EOF, EXTRA, "empty-pickle", "Transformer Engine: 2.4 and later"),
    (EOF, METADATA, "empty-pickle", "a file of the checkpoint is empty"),
    (EOF, COMMON, "empty-pickle", "a file of the checkpoint is empty"),
    (EOF, ELSEWHERE, None, ""),
    (NONE, RERUN, "none-not-subscriptable", "RERUNNING_IN_PLACE"),
    (
        NONE,
        ("/opt/megatron/training/checkpointing.py", "load_checkpoint"),
        "none-not-subscriptable",
        "no checkpoint was loaded",
    ),
    (
        NONE,
        ("/opt/megatron/core/extensions/transformer_engine.py", "_split_extra_state"),
        "none-not-subscriptable",
        "Transformer Engine 2.16.1 and later",
    ),
    (NONE, ELSEWHERE, None, ""),
    ("KeyError: 'recipe'", EXTRA, "extra-state-recipe", "Transformer Engine 1"),
    ("KeyError: 'recipe'", ELSEWHERE, None, ""),
    (
        "KeyError: 'optimizer'",
        ("/opt/megatron/training/checkpointing.py", "load_checkpoint"),
        "unsaved-optimizer",
        "--no-save-optim",
    ),
    ("KeyError: 'optimizer'", ELSEWHERE, None, ""),
    ("KeyError: 'sharded'", RERUN, "lone-rerun-mode", "--finetune"),
    ("KeyError: 'sharded'", ELSEWHERE, None, ""),
    (
        "ModuleNotFoundError: No module named 'swift.megatron.model.gpt_bridge'",
        COMMON,
        "foreign-module",
        "another version",
    ),
    ("ModuleNotFoundError: No module named 'my_project'", ELSEWHERE, None, ""),
    ("ModuleNotFoundError: No module named 'numpy._core'", COMMON, "numpy-2-pickle", "NumPy 2"),
    ("ModuleNotFoundError: No module named 'numpy._core'", ELSEWHERE, None, ""),
    ("AttributeError: Can't get attribute 'f' on <module 'swift.x'>", COMMON, "foreign-class", ""),
    ("AttributeError: Can't get attribute 'f' on <module 'swift.x'>", ELSEWHERE, None, ""),
    ("AttributeError: Can't get attribute 'C' on <module 'm' from", COMMON, "foreign-class-unknown",
     "other code wrote"),
    ("_pickle.UnpicklingError: pickle data was truncated", ELSEWHERE, None, ""),
    ("_pickle.UnpicklingError: pickle data was truncated", METADATA, "truncated-torch-file", ""),
    ("OSError: [Errno 22] Invalid argument", COMMON, "truncated-archive", "did not finish"),
    ("OSError: [Errno 22] Invalid argument", ELSEWHERE, None, ""),
    ("_pickle.UnpicklingError: Weights only load failed.", COMMON, "weights-only", "common state"),
    ("_pickle.UnpicklingError: Weights only load failed.", ELSEWHERE, None, ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "frame", "kind", "cause"), SEVERAL, ids=lambda value: str(value)[:40]
)
def test_a_traceback_decides(
    error: str, frame: tuple[str, str], kind: str | None, cause: str
) -> None:
    file, function = frame
    log = TRACEBACK.format(file=file, function=function, error=error)
    for text in (log, re.sub("^", "[rank3]: ", log, flags=re.MULTILINE)):
        answers = parse_log(text).found
        assert [each.recognised.kind.error for each in answers] == ([kind] if kind else [])
        for each in answers:
            assert each.recognised.sure is Sure.CERTAIN
            [only] = each.recognised.causes
            assert cause in only.why


def test_a_checkpoint_decides_what_a_traceback_does_not(tmp_path: Path) -> None:
    log = TRACEBACK.format(
        file=EXTRA[0], function=EXTRA[1], error="RuntimeError: Unsupported checkpoint format."
    )
    [answer] = parse_log(log).found
    assert answer.recognised.kind.error == "extra-state-type"
    assert [each.tell for each in answer.recognised.causes] == [
        "the job runs Transformer Engine 2.4", "the job runs another version",
    ]  # fmt: skip
    root = SAMPLES / "0.17.1-idle-w1"
    status, text = explain_log(log, tmp_path, "--checkpoint", root)
    assert status == 0
    assert "found: decoder.layers.self_attention.linear_proj._extra_state/shard_0_2 is None" in text
    assert f"ckptmigrate migrate {root} --extra-state add --transformer-engine 2.4" in text
    elsewhere = TRACEBACK.format(
        file=ELSEWHERE[0],
        function=ELSEWHERE[1],
        error="RuntimeError: Unsupported checkpoint format.",
    )
    assert not parse_log(elsewhere).found


def test_without_a_traceback_the_causes_are_listed(run: Run) -> None:
    text = run("explain", NONE).stdout
    assert text.startswith("none-not-subscriptable: a value that the job reads is None")
    assert "RERUNNING_IN_PLACE" in text
    assert "how to tell: the last frame of the traceback is _restore_state" in text
    assert "possible: this text has several meanings" in text
    assert "cause 4      it is an error of the program" in text


def test_what_another_line_shows_is_withdrawn() -> None:
    first = "_pickle.UnpicklingError: Weights only load failed. This file can still be loaded"
    then = "\tWeightsUnpickler error: Unsupported global: GLOBAL {} was not an allowed global"
    assert found(first) == ["weights-only"]
    assert found(f"{first}\n{then.format('signal.Signals')}") == ["not-allowed-symbol"]
    assert found(f"{first}\n{then.format('ultralytics.nn.Model')}") == []


def test_what_only_announces_gives_way_to_the_error() -> None:
    announced = "Unable to load optimizer from checkpoint /ckpt. Specify --no-load-optim"
    assert found(announced) == ["optimizer-not-loaded"]
    assert found(f"{announced}\nKeyError: 'optimizer'") == ["unsaved-optimizer"]


# -- logs


def many_ranks(ranks: int, prefix: str, error: str) -> str:
    """The tracebacks of many ranks, line by line in turn, between lines of training."""
    blocks = [[prefix.format(rank) + line for line in traceback(error)] for rank in range(ranks)]
    rows = [line for lines in zip(*blocks, strict=True) for line in lines]
    before = [f" iteration {n}/ 1000 | lm loss: 2.3E+00 | grad norm: 0.3 |" for n in range(50)]
    after = ["torch.distributed.DistBackendError: NCCL error", "srun: error: node1: task 3: Killed"]
    return "\n".join([*before, *rows, *after]) + "\n"


def traceback(error: str) -> list[str]:
    file, function = EXTRA
    return TRACEBACK.format(file=file, function=function, error=error).splitlines()


@pytest.mark.parametrize("prefix", ["[rank{}]: ", "{}: ", "[default{0}]:[rank{0}]: ", "[1,{}]: "])
def test_a_log_of_many_ranks(prefix: str, tmp_path: Path) -> None:
    log = many_ranks(64, prefix, EOF)
    status, text = explain_log(log, tmp_path)
    assert status == 0
    assert text.startswith("empty-pickle: an `_extra_state` of Transformer Engine: 2.4 and later")
    assert "\n  fix          run the job with Transformer Engine 2.4 or later\n" in text
    assert f"  line         {EOF}\n" in text
    first = 1 + next(n for n, line in enumerate(log.splitlines()) if EOF in line)
    assert (
        f"(line {first}, 64 lines of this kind, by 64 ranks: 0, 1, 2, 3, 4, 5, 6, 7 and 56" in text
    )
    assert "sure         certain: the traceback shows it" in text
    assert f"\nread {len(log.splitlines())} lines of 64 ranks\n" in text
    assert "not explained: torch.distributed.DistBackendError: NCCL error" in text


def test_ranks_without_prefixes_are_not_certain() -> None:
    """Interleaved tracebacks of several errors can lend each other their frames."""
    [only] = parse_log(many_ranks(8, "", EOF)).found
    assert (only.recognised.kind.error, only.count, only.ranks) == ("empty-pickle", 8, frozenset())
    assert only.recognised.sure is Sure.POSSIBLE


def test_two_errors_in_one_log() -> None:
    log = "WARNING: could not find the metadata file /ckpt/latest_checkpointed_iteration.txt\n"
    log += "[rank1]: AttributeError: 'Metadata' object has no attribute 'mcore_data'\n"
    log += "[rank0]: AssertionError: num_layers value from checkpoint (24) is not equal to the "
    log += "input argument value (12).\n"
    # What a job goes on after comes last.
    assert found(log) == ["no-mcore-data", "argument-mismatch", "no-tracker-file"]


def test_the_failures_that_torch_gathers_from_the_ranks() -> None:
    """torch prints on every rank what each of them raised."""
    nested = 'Traceback (most recent call last): (RANK {})\n  File "/x/planner.py", line 1, in f\n'
    nested += '    raise RuntimeError(f"Missing key in checkpoint state_dict: {{fqn}}.")\n'
    nested += "RuntimeError: Missing key in checkpoint state_dict: rng_state/shard_0_1.\n"
    log = "torch.distributed.checkpoint.api.CheckpointException: CheckpointException "
    log += "ranks:dict_keys([0, 1])\n" + nested.format(0) + nested.format(1)
    log = re.sub("^", "[rank5]: ", log, flags=re.MULTILINE)
    answer = parse_log(log)
    [only] = answer.found
    assert only.recognised.kind.error == "no-rng-shards"
    assert only.recognised.values["key"] == "rng_state/shard_0_1"
    assert (only.count, only.ranks) == (2, frozenset({"0", "1"}))
    assert answer.others == ()


def test_a_traceback_of_rich() -> None:
    log = """╭───────────── Traceback (most recent call last) ─────────────╮
│ /opt/megatron/core/dist_checkpointing/strategies/common.py:89 in load_common │
│                                                               │
│    88 │   │   try:                                            │
│ ❱  89 │   │   │   return torch.load(load_path)                │
╰───────────────────────────────────────────────────────────────╯
EOFError: Ran out of input
"""
    [only] = parse_log(log).found
    assert "a file of the checkpoint is empty" in only.recognised.causes[0].why
    assert only.recognised.sure is Sure.CERTAIN


def test_a_message_that_a_terminal_broke() -> None:
    text = "RuntimeError: Missing key in checkpoint state_dict:\nrng_state/shard_0_1.\n"
    assert found(text) == ["no-rng-shards"]


def test_a_log_of_containers() -> None:
    line = "[rank2]: RuntimeError: Missing key in checkpoint state_dict: rng_state/shard_0_1.\n"
    answer = parse_log(json.dumps({"log": line, "stream": "stderr"}) + "\n")
    [only] = answer.found
    assert (only.recognised.kind.error, only.ranks) == ("no-rng-shards", frozenset({"2"}))


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"]
)
def test_any_encoding(encoding: str) -> None:
    text = "Über 1 Zeile\n[rank2]: KeyError: 'recipe'\r\n"
    answer = read_log(io.BytesIO(text.encode(encoding)))
    [only] = answer.found
    assert (only.recognised.kind.error, only.line, answer.lines) == ("extra-state-recipe", 2, 2)


def test_quotes_of_a_web_page() -> None:
    assert found("KeyError: \u2018recipe\u2019") == ["extra-state-recipe"]


def test_what_is_no_text_is_read_to_its_end() -> None:
    data = os.urandom(300_000) + b"\0" * 300_000 + b"\nKeyError: 'recipe'\n"
    [only] = read_log(io.BytesIO(data)).found
    assert only.recognised.kind.error == "extra-state-recipe"


def test_a_long_line_and_a_long_log_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "KeyError: 'recipe' " + "x" * 3_000_000
    answer = read_log(io.BytesIO(f"{line}\n{line}\n".encode()))
    assert (answer.lines, answer.whole) == (2, True)
    assert len(answer.found[0].text) < 100_000
    assert answer.found[0].count == 2
    monkeypatch.setattr(log_reader, "_LONGEST_LOG", 1000)
    answer = read_log(io.BytesIO(b"nothing here\n" * 10_000))
    assert not answer.whole
    assert answer.lines < 100


LONG = 60_000
AGAINST = [
    "x" * LONG, "a." * (LONG // 2), "1" * LONG, "a1" * (LONG // 2), "'" * LONG, " " * LONG,
    '("' * (LONG // 2), "_extra_state." * (LONG // 13), "/a" * (LONG // 2), "[1, " * (LONG // 4),
    "Missing key in checkpoint state_dict: " * (LONG // 38), "KeyError: (" * (LONG // 11),
    "shape mismatch for loaded ((" * (LONG // 28), "size mismatch for a." * (LONG // 20),
    'Error opening "zarr" driver: "' * (LONG // 30), "(TP, PP) mismatch after resume " * 2000,
]  # fmt: skip


@pytest.mark.parametrize("text", AGAINST, ids=lambda text: text[:12])
def test_no_line_takes_long(text: str) -> None:
    """Every pattern is at most linear in a line, but for a factor."""
    begun = time.process_time()
    parse_log(text)
    assert time.process_time() - begun < 5


DIGITS = "9" * 5000  # more than Python converts to an integer


@pytest.mark.parametrize(
    "line",
    [
        '{"log": ' + "[" * 30_000 + "KeyError: ",
        '{"log": ' + DIGITS + ', "message": "KeyError: "}',
        '{"log": "KeyError: \\ud800"}',
        f"[rank{DIGITS}]: KeyError: 'recipe'",
        f"[{DIGITS}]: KeyError: 'recipe'",
        f"[1,{DIGITS}]<stderr>: KeyError: 'recipe'",
        f"KeyError: 'recipe' (RANK {DIGITS})",
        f"Traceback (most recent call last): (RANK {DIGITS})\nKeyError: 'recipe'",
        f"shape mismatch for loaded ({DIGITS}, 1) and expected (2, 1) tensor for key a.weight",
        f"size mismatch for a.weight: copying a param with shape torch.Size([{DIGITS}]) from "
        "checkpoint, the shape in current model is torch.Size([2]).",
    ],
    ids=lambda line: line[:24],
)
def test_no_line_hides_the_next(line: str, tmp_path: Path, run: Run) -> None:
    log = f"{line}\n[rank3]: KeyError: 'recipe'\n"
    for words in ((), ("--json",), ("--checkpoint", SAMPLES / IDLE)):
        status, text = explain_log(log, tmp_path, *words)
        assert (status, "internal error" in text) == (0, False), text[-300:]
        assert "extra-state-recipe" in text


def test_many_ranks_take_no_longer() -> None:
    """A line of a known error takes the same time, whoever printed it."""

    def seconds(ranks: int) -> float:
        lines = (f"[rank{n % ranks}]: KeyError: 'recipe'" for n in range(20_000))
        log = "\n".join(lines).encode()
        begun = time.process_time()
        [only] = read_log(io.BytesIO(log)).found
        assert (only.count, len(only.ranks)) == (20_000, ranks)
        return time.process_time() - begun

    assert seconds(20_000) < 10 * seconds(1)


def test_a_line_that_is_repeated_is_recognised_once() -> None:
    def seconds(lines: list[str]) -> float:
        begun = time.process_time()
        assert read_log(io.BytesIO("\n".join(lines).encode())).lines == len(lines)
        return time.process_time() - begun

    different = [f"[rank{n % 64}]: KeyError: 'x{n}'" for n in range(10_000)]
    same = [f"[rank{n % 64}]: KeyError: 'recipe'" for n in range(10_000)]
    assert seconds(same) < seconds(different) / 4


def test_the_memory_does_not_grow_with_the_log() -> None:
    long = "x" * 20_000
    log = "".join(
        f'[rank{n}]:   File "{long}{n}.py", line 1, in f\n[rank{n}]: A{long}Error: {long}{n}\n'
        f"[rank{n}]: OddError: {long}{n}\n[a{long}{n}]: KeyError: 'recipe'\n"
        for n in range(60)
    ).encode()
    tracemalloc.start()
    try:
        read_log(io.BytesIO(log))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(log) / 8


def test_a_large_log_is_read_with_progress() -> None:
    lines = b"x" * 999 + b"\n"
    for size in (1000, 20_000):
        reported: list[int] = []
        read_log(io.BytesIO(lines * size), reported.append)
        read = len(lines) * size
        assert sum(reported) <= read < sum(reported) + 5 * 2**20
        assert len(reported) == (4 if size == 20_000 else 0)


def test_a_terminal_shows_that_a_large_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes((b"x" * 999 + b"\n") * 6000)
    at_once = "from ckptmigrate.cli import console\nconsole._WITHOUT_BAR = -1\n"
    code = f"{at_once}from ckptmigrate.__main__ import main\nmain()"
    words = [sys.executable, "-c", code, "explain", "-"]
    ours, theirs = pty.openpty()
    with (
        log.open("rb") as stdin,
        subprocess.Popen(words, stdin=stdin, stdout=subprocess.PIPE, stderr=theirs) as command,
    ):
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the command ended
            while part := os.read(ours, 65536):
                shown += part
        assert command.stdout is not None
        assert b"no known load error in 6000 lines" in command.stdout.read()
    os.close(ours)
    assert b"reading the log" in shown


class Endless(io.RawIOBase):
    """Bytes without an end or a line."""

    def __init__(self) -> None:
        self.read_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        buffer[:] = b"x" * len(buffer)
        self.read_bytes += len(buffer)
        return len(buffer)


def test_a_line_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reader, "_LONGEST_LOG", 10_000_000)
    file = Endless()
    assert not read_log(file).whole  # type: ignore[arg-type]
    assert file.read_bytes < 20_000_000


def test_an_empty_log(tmp_path: Path) -> None:
    status, text = explain_log(b"", tmp_path)
    assert (status, text.splitlines()[0]) == (1, "not explained: no known load error in 0 lines")


def test_a_closed_standard_input(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m ckptmigrate explain - <&-', sys.executable],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "standard input is closed" in done.stderr


def test_what_a_log_holds_is_fit_to_print(tmp_path: Path) -> None:
    status, text = explain_log("KeyError: 'recipe' \x1b]0;title\x07\x1b[2J \u202e\n", tmp_path)
    assert status == 0
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_the_json_of_a_log(tmp_path: Path) -> None:
    status, text = explain_log(many_ranks(8, "[rank{}]: ", EOF), tmp_path, "--json")
    shown = json.loads(text)
    validator("explain").validate(shown)
    assert (status, shown["explained"], shown["ranks"], shown["whole"]) == (0, True, 8, True)
    assert shown["checkpoint"] is None
    [error] = shown["errors"]
    assert (error["word"], error["kind"], error["sure"]) == ("empty-pickle", "failure", "certain")
    assert error["log"]["ranks"] == [str(rank) for rank in range(8)]
    assert error["log"]["text"] == EOF
    [cause] = error["causes"]
    assert cause["holds"] is None
    assert "Transformer Engine" in cause["cause"]


# -- with a checkpoint


def edited(copy: Callable[[str], Path], name: str, change: Callable[[Path], object]) -> Path:
    root = copy(name)
    change(checkpoint_of(root))
    return root


def in_place(checkpoint: Path) -> None:
    """Set the rerun state RERUNNING_IN_PLACE."""
    state = torch_side.RerunState.RERUNNING_IN_PLACE
    torch_side.edit_common(
        checkpoint.parent, lambda common: common["rerun_state_machine"].update(state=state)
    )


def without_lr_mult(checkpoint: Path) -> None:
    """Remove a key from every parameter group."""

    def change(common: dict[str, Any]) -> None:
        for group in common["optimizer"]["optimizer"]["param_groups"]:
            del group["lr_mult"]

    torch_side.edit_common(checkpoint.parent, change)


def unlink(name: str) -> Callable[[Path], object]:
    return lambda checkpoint: (checkpoint / name).unlink()


def pointer(checkpoint: Path) -> None:
    (checkpoint / "common.pt").write_text("version https://git-lfs.github.com/spec/v1\nsize 1\n")


def empty(checkpoint: Path) -> None:
    (checkpoint / "common.pt").write_bytes(b"")


def cut(checkpoint: Path) -> None:
    data = (checkpoint / "common.pt").read_bytes()
    (checkpoint / "common.pt").write_bytes(data[: len(data) // 2])


def downloaded(checkpoint: Path) -> None:
    (checkpoint / ".metadata").unlink()
    (checkpoint.parent / ".cache" / "huggingface" / "download").mkdir(parents=True)


def without_tracker(checkpoint: Path) -> None:
    (checkpoint.parent / "latest_checkpointed_iteration.txt").unlink()


def dangling(checkpoint: Path) -> None:
    (checkpoint.parent / "latest_checkpointed_iteration.txt").write_text("99")


def same(_: Path) -> None:
    """Change nothing."""


MISSING = "RuntimeError: Missing key in checkpoint state_dict: "
GLOBAL = "CheckpointingException: Global shape mismatch for loaded (torch.Size({})) and expected "
NO_COMMON = "CheckpointingException: Common file /x/common.pt does not exist"
NO_METADATA = "FileNotFoundError: [Errno 2] No such file or directory: '/x/.metadata'"
# Sample, what is changed, the line -> the cause that holds, a part of the fix ({} is the root).
DECIDED = {
    "a fault that no release can resume": (
        "0.17.1-fault-w1", in_place, NONE,
        "RERUNNING_IN_PLACE", "`ckptmigrate repair {} --drop-rerun`",
    ),
    "common state in an object": (
        "0.19.0-idle-w1", same, "AttributeError: 'str' object has no attribute 'iterdir'",
        "0.19 or later wrote", "for 0.16.1: run `ckptmigrate downgrade {} --to 0.16.1`",
    ),
    "the same in other words": (
        "0.19.0-idle-w1", same, NO_COMMON,
        "0.19 or later wrote", "for 0.18.2: run `ckptmigrate downgrade {} --to 0.18.2`",
    ),
    "common.pt lost": (
        IDLE, unlink("common.pt"), NO_COMMON,
        "common.pt was lost", "restore common.pt",
    ),
    "common.pt lost, in words of 0.19": (
        IDLE, unlink("common.pt"), f"{MISSING}common_state/shard_0_1.",
        "its common.pt is lost", "restore common.pt",
    ),
    "common.pt there": (
        IDLE, same, f"{MISSING}common_state/shard_0_1.",
        "does not look for the file", "`ckptmigrate check {}`",
    ),
    "a marker lost": (
        IDLE, unlink("metadata.json"), "CheckpointingException: /x is not a distributed checkpoint",
        "metadata.json is one of the last files", "`ckptmigrate verify {}`",
    ),
    "a marker on one node": (
        IDLE, same, "CheckpointingException: /x is not a distributed checkpoint",
        "every node has its own disk", "shared file system",
    ),
    "a save that did not finish": (
        IDLE, unlink(".metadata"), NO_METADATA,
        "the save did not finish", "load an earlier iteration",
    ),
    "a download without dot files": (
        IDLE, downloaded, NO_METADATA,
        "left out files", "dot files",
    ),
    "a pointer of Git LFS": (
        IDLE, pointer, "_pickle.UnpicklingError: invalid load key, 'v'.",
        "pointer file of Git LFS", "git lfs pull",
    ),
    "an empty file": (IDLE, empty, EOF, "a file of the checkpoint is empty", "verify {}`"),
    "a cut file": (
        IDLE, cut, "RuntimeError: PytorchStreamReader failed reading zip archive: failed",
        "did not finish", "`ckptmigrate verify {}`",
    ),
    "no tracker file": (
        IDLE, without_tracker, "WARNING: could not find the metadata file /x/latest",
        "the root lost its tracker file", "`ckptmigrate repair {}`",
    ),
    "a tracker file": (
        IDLE, same, "WARNING: could not find the metadata file /x/latest",
        "--load names another directory", "as --load",
    ),
    "a dangling tracker": (
        IDLE, dangling, "CheckpointingException: Checkpoint directory /x/iter_9 does not exist",
        "an iteration that was deleted", "`ckptmigrate repair {}`",
    ),
    "rerun shards": (
        IDLE, same, f"{MISSING}rerun_state_machine_state/shard_0.0_1.1.",
        "another release wrote", "for 0.11.0: run `ckptmigrate downgrade {} --to 0.11.0`",
    ),
    "a class of another release": (
        "0.12.3-idle-w1", same,
        "AttributeError: Can't get attribute 'AttnBackend' on <module 'megatron.core.transformer",
        "a newer release wrote", "for 0.10.0: run `ckptmigrate downgrade {} --to 0.10.0`",
    ),
    "a class that is not allowed": (
        "0.16.1-idle-w1", same,
        "WeightsUnpickler error: Unsupported global: GLOBAL signal.Signals was not an allowed",
        "another release wrote", "for 0.15.3: run `ckptmigrate downgrade {} --to 0.15.3`",
    ),
    "a sharding type": (
        "0.17.1-idle-dopt", same, "NotImplementedError: Unknown sharding_type: dp_reshardable",
        "another release", "--allow-loss optimizer-state`, then run the job with --no-load-optim",
    ),
    "strict keys": (
        "0.18.2-idle-w1", same, "Missing keys (for all ranks): {{'rerun_state_machine_state'}}.",
        "0.18 and later save rerun shards", "--strict`",
    ),
    "parameter groups with the key": (
        "0.13.1-idle-dopt", same, "Key lr_mult (or pre_lr_mult) not found in param_group",
        "the framework of the job removes", "update the framework",
    ),
    "parameter groups without the key": (
        "0.13.1-idle-dopt", without_lr_mult,
        "Key lr_mult (or pre_lr_mult) not found in param_group",
        "another release or framework wrote", "run the job with --no-load-optim",
    ),
    "NumPy 2": (
        IDLE, same, "ModuleNotFoundError: No module named 'numpy._core'",
        "a job with NumPy 2 saved", "--to RELEASE --numpy VERSION`",
    ),
    "layers": (
        "0.13.1-idle-w1", same, GLOBAL.format([2, 16]) + "((7, 16)) tensor for key "
        "decoder.layers.mlp.linear_fc1.layer_norm_weight",
        "--num-layers differs", "the number of layers of the checkpoint",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("sample", "change", "line", "cause", "fix"), DECIDED.values(), ids=DECIDED
)
def test_a_checkpoint_decides(
    sample: str,
    change: Callable[[Path], object],
    line: str,
    cause: str,
    fix: str,
    copy: Callable[[str], Path],
    tmp_path: Path,
    run: Run,
) -> None:
    root = edited(copy, sample, change)
    line = line.replace("{{", "{").replace("}}", "}")
    status, text = explain_log(f"[rank0]: {line}\n", tmp_path, "--checkpoint", root, "--json")
    shown = json.loads(text)
    validator("explain").validate(shown)
    assert (status, shown["checkpoint"]) == (0, str(root))
    [error] = shown["errors"]
    first = error["causes"][0]
    assert cause in first["cause"]
    assert first["holds"] is not False
    assert len(error["causes"]) == 1 or first["holds"], error["causes"]
    assert any(fix.replace("{}", str(root)) in each for each in error["remedy"]), error["remedy"]
    printed = run("explain", "--checkpoint", root, line)
    assert printed.returncode == 0
    assert printed.stdout.startswith(f"{error['word']}: ")
    assert fix.replace("{}", str(root)) in printed.stdout


def test_a_log_of_another_checkpoint(run: Run) -> None:
    key = "embedding.word_embeddings.weight"
    text = run("explain", "--checkpoint", SAMPLES / IDLE, f"{MISSING}{key}.").stdout
    assert (
        f"note         the checkpoint has the key {key}: the log may be about another one" in text
    )


@pytest.mark.parametrize(
    ("saved", "key", "evidence"),
    [
        ([9, 16], "decoder.layers.mlp.linear_fc2.bias", "it stores [2, 16] under this key"),
        ([9, 16], "embedding.position_embeddings.weight", "the checkpoint has no key embedding"),
    ],
)
def test_a_shape_of_another_checkpoint(saved: list[int], key: str, evidence: str, run: Run) -> None:
    line = GLOBAL.format(saved) + f"((7, 16)) tensor for key {key}"
    [shown] = json.loads(run("explain", "--checkpoint", SAMPLES / IDLE, line, "--json").stdout)
    [cause] = shown["causes"]
    assert cause["holds"] is None
    assert evidence in cause["evidence"]
    assert "another checkpoint" in cause["evidence"]


def test_a_checkpoint_that_is_not_there(tmp_path: Path, run: Run) -> None:
    refused(run("explain", "--checkpoint", tmp_path / "no", EOF), "does not exist")
    status, text = explain_log(EOF, tmp_path, "--checkpoint", tmp_path / "no")
    assert (status, "does not exist" in text) == (1, True)


def test_a_checkpoint_needs_an_error(run: Run) -> None:
    result = run("explain", "--checkpoint", SAMPLES / IDLE)
    assert result.returncode == 2
    assert "--checkpoint requires an error message" in result.stderr


def test_looking_writes_nothing(copy: Callable[[str], Path]) -> None:
    root = copy(IDLE)
    before, seen = tree_hash(root), Seen(root)
    for kind in kinds():
        [only] = explain.explain(kind.error, seen)
        assert only.as_json()["causes"]
    assert tree_hash(root) == before


# -- real texts


def raised(call: Callable[[], object]) -> str:
    with pytest.raises((Exception, dcp.api.CheckpointException)) as caught:
        call()
    error = caught.value
    if isinstance(error, dcp.api.CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return f"{type(error).__module__}.{type(error).__name__}: {error}"


def loaded(data: bytes, **options: Any) -> Callable[[], object]:
    """Load bytes from a file, as jobs do."""

    def load() -> object:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            return torch.load(file.name, **options)

    return load


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


# Of a larger file torch 2.13 says `[Errno 22] Invalid argument`, which any program can raise.
WHOLE = saved({"a": torch.arange(10)})
POINTER = b"version https://git-lfs.github.com/spec/v1\n"
OF_TORCH = {
    "half a file": (loaded(WHOLE[: len(WHOLE) // 2]), "truncated-torch-file"),
    "a file without its end": (loaded(WHOLE[:-10]), "truncated-torch-file"),
    "half a pickle": (lambda: pickle.loads(pickle.dumps([0] * 1000)[:500]), "truncated-torch-file"),
    "an empty file": (loaded(b"", weights_only=False), "empty-pickle"),
    "a pointer of Git LFS": (loaded(POINTER, weights_only=False), "git-lfs-pointer"),
    "the same, weights_only": (loaded(POINTER, weights_only=True), "git-lfs-pointer"),
    "zeros": (lambda: pickle.loads(b"\0" * 10), "not-a-torch-file"),
    "zeros in torch": (loaded(b"\0" * 1000, weights_only=False), "not-a-torch-file"),
    "a path of Python 3.13": (
        lambda: pickle.loads(b"cpathlib._local\nPosixPath\n(V/x\ntR."), "python-3.13-path",
    ),
    "a class of 0.18": (
        lambda: pickle.loads(b"cjson.decoder\nInferenceCudaGraphScope\n."), None,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "kind"), OF_TORCH.values(), ids=OF_TORCH)
def test_a_text_of_torch(call: Callable[[], object], kind: str | None) -> None:
    assert found(raised(call)) == ([kind] if kind else [])


def test_the_texts_of_a_load_of_torch(tmp_path: Path) -> None:
    state = {"weight": torch.zeros(4, 4), "ffn._extra_state": torch.zeros(8)}
    dcp.save(state, checkpoint_id=tmp_path / "saved", no_dist=True)

    def load(state: dict[str, Any], folder: str = "saved") -> str:
        return raised(lambda: dcp.load(state, checkpoint_id=tmp_path / folder, no_dist=True))

    key = "decoder.layers.0.weight"
    assert found(load({key: torch.zeros(4)})) == ["no-model-key"]
    assert found(load({"args": None})) == ["taken-for-torch-dcp"]
    assert found(load({"weight": torch.zeros(8, 4)})) == ["tensor-shape"]
    assert found(load({"weight": "an object"})) == ["tensor-for-object"]
    assert found(load({"ffn._extra_state": torch.zeros(4)})) == ["extra-state-shape"]
    shutil.copytree(tmp_path / "saved", tmp_path / "without")
    (tmp_path / "without" / ".metadata").unlink()
    assert found(load({"weight": torch.zeros(4, 4)}, "without")) == ["no-metadata-file"]


def shape_of(checkpoint: Path, key: str) -> list[int]:
    return list(torch_side.read(checkpoint).metadata.state_dict_metadata[key].size)


@pytest.mark.costly("it starts two real releases")
def test_the_texts_of_real_releases(copy: Callable[[str], Path]) -> None:
    """What 0.13.1 and 0.16.1 say, asked for what a checkpoint does not have."""
    root = checkpoint_of(copy("0.13.1-idle-w1"))
    words, layers = "embedding.word_embeddings.weight", "decoder.layers.mlp.linear_fc2.bias"
    vocabulary, hidden = shape_of(root, words)
    asked: dict[str, Any] = {
        "no-extra-state": {"objects": [["decoder.layers.x._extra_state", [2], [0]]]},
        "no-rng-shards": {"objects": [["rng_state", [7, 7], [0, 0]]]},
        "no-rerun-shards": {"objects": [["rerun_state_machine_state", [7, 7], [0, 0]]]},
        "no-common-object": {"objects": [["common_state", [1], [0]]]},
        "no-model-key": {"tensors": {"decoder.layers.mlp.router.expert_bias": [4]}},
        "no-optimizer-state": {"tensors": {"optimizer.state.exp_avg.x": [4]}},
        "no-adapter-weights": {"tensors": {"decoder.linear_qkv.adapter.linear_in.weight": [4]}},
        "vocabulary-shape": {"tensors": {words: [vocabulary + 128, hidden]}},
        "tensor-shape": {"tensors": {words: [vocabulary, 2 * hidden]}},
        "layer-count": {"tensors": {layers: [7, hidden]}},
        "strict-rerun-shards": {"strict": ["raise_all", {words: [vocabulary, hidden]}]},
        "strict-keys": {"strict": ["raise_unexpected", {"new": [1]}]},
    }  # fmt: skip
    jobs = [{"checkpoint": str(root), **job} for job in asked.values()]
    for release in ("0.13.1", "0.16.1"):
        for kind, told in zip(asked, run_parts(release, *jobs), strict=True):
            # The title of the strict ones is a line of its own.
            assert found(told["error"]) == [kind], told


def test_the_texts_of_a_real_release_about_files(
    copy: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = checkpoint_of(copy("0.13.1-idle-w1"))
    damages = {
        "not-distributed": unlink("metadata.json"),
        "no-metadata-file": unlink(".metadata"),
        "no-data-file": lambda checkpoint: [f.unlink() for f in checkpoint.glob("*.distcp")],
    }
    jobs = []
    for kind, damage in damages.items():
        place = Path(shutil.copytree(whole, tmp_path / kind / whole.name))
        damage(place)
        rng = ["rng_state", [1, 1], [0, 0]]
        jobs.append({"checkpoint": str(place), "objects": [rng]})
    jobs.append({"checkpoint": str(tmp_path / "nothing"), "objects": []})
    for kind, told in zip(
        [*damages, "no-checkpoint-directory"], run_parts("0.13.1", *jobs), strict=True
    ):
        assert found(told["error"]) == [kind], told


# A part of the text of a kind, as the code of a release has it: (file in megatron/core, text).
IN_THE_CODE = {
    "job-shards-incomplete": ("dist_checkpointing/validation.py", "ShardedObject are missing"),
    "not-distributed": ("dist_checkpointing/validation.py", "is not a distributed checkpoint"),
    "no-object-file": ("dist_checkpointing/strategies/common.py", "Object shard "),
    "no-shape-metadata": (
        "dist_checkpointing/strategies/torch.py", "Cannot find global shape metadata for N-D",
    ),
    "zarr-unsupported": ("dist_checkpointing/strategies/base.py", "Cannot find a default strategy"),
    "param-group-keys": ("optimizer/distrib_optimizer.py", "not found in param_group"),
    "param-group-mismatch": ("optimizer/optimizer.py", "Could not find parameter group with key"),
    "optimizer-count": ("optimizer/optimizer.py", " in state dict, but got "),
    "unknown-sharding-type": ("optimizer/distrib_optimizer.py", "Unknown sharding_type: "),
    "optimizer-buffer-size": (
        "optimizer/distrib_optimizer.py", "Number of unpadded elements must be same in current run",
    ),
    "no-flattened-ranges": ("dist_checkpointing/mapping.py", "flattened_range is not supported"),
    "scheduler-mismatch": ("optimizer_param_scheduler.py", "class input value"),
    "numpy-product": ("dist_checkpointing/validation.py", "np.product("),
    "none-not-subscriptable": ("rerun_state_machine.py", "self.saved_state["),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "where"), IN_THE_CODE.items(), ids=IN_THE_CODE)
def test_the_code_of_the_releases_has_the_text(kind: str, where: tuple[str, str]) -> None:
    """In one of the releases that the row names, and in none that its `since` leaves out."""
    file, text = where
    row = KINDS[kind]
    has = {
        release.name: text in code.read_text()
        for release in READERS.iterdir()
        if (code := release / "megatron" / "core" / file).is_file()
    }
    assert any(has.values())
    named = {look.release for look in looks(kind, row.source) if look.path.endswith(file)}
    assert named, row.source
    assert any(has[release] for release in named if release is not None)
    assert PATH.search(row.source)
    assert TAG.search(row.source)
    if row.since.startswith("<"):
        from ckptmigrate.releases.facts import matches

        assert not any(there for release, there in has.items() if not matches(release, row.since))


def test_the_samples_are_of_the_index() -> None:
    assert {row[0] for row in DECIDED.values()} <= set(INDEX)
