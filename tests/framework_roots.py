"""Roots as frameworks lay them out, made of samples: what their users pass as PATH.

Sources: the rows of ckptmigrate/checkpoint/root_kinds.py name the files of each framework.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conftest import SAMPLES

TRACKER = "latest_checkpointed_iteration.txt"
STATE = "latest_train_state.pt"
BRIDGE = Path(__file__).parent / "cases" / "bridge-died" / "run"
LAST = "model--val_loss=2.31-step=5-consumed_samples=40.0-last"
UNFINISHED = "model--val_loss=2.31-step=10-consumed_samples=40.0"
MODEL_YAML = """\
_target_: nemo.collections.llm.gpt.model.llama.LlamaModel
config:
  tensor_model_parallel_size: 1
  pipeline_model_parallel_size: 1
  context_parallel_size: 1
"""


def checkpoint(sample: str, target: Path) -> Path:
    """Copy the checkpoint of a sample; its name is that of another directory then."""
    [source] = [each for each in (SAMPLES / sample).iterdir() if each.is_dir()]
    return Path(shutil.copytree(source, target))


def bridge(root: Path) -> Path:
    """Megatron-Bridge: run_config.yaml and train_state.pt in the iteration, no args."""
    shutil.copytree(BRIDGE / "iter_0000005", root / "iter_0000005")
    shutil.copy(root / "iter_0000005" / "train_state.pt", root / STATE)
    (root / TRACKER).write_text("5")
    return root


def nemo(root: Path) -> Path:
    """NeMo 2: named saves without a tracker file, one of which did not finish."""
    for name in (LAST, UNFINISHED):
        checkpoint("0.12.3-idle-w1", root / name / "weights")
        (root / name / "context").mkdir()
        (root / name / "context" / "model.yaml").write_text(MODEL_YAML)
        (root / name / "context" / "io.json").write_text("{}")
    (root / f"{UNFINISHED}-unfinished").touch()
    return root


def verl(root: Path) -> Path:
    """verl: actor and critic in one save, the state of the data loader beside them."""
    save = root / "global_step_10"
    for role in ("actor", "critic"):
        checkpoint("0.13.1-idle-w1", save / role / "dist_ckpt")
        (save / role / "transformer_config.json").write_text('{"tensor_model_parallel_size": 1}')
    (save / "actor" / "huggingface").mkdir()
    (save / "actor" / "huggingface" / "config.json").write_text("{}")
    (save / "data.pt").write_bytes(b"data loader")
    (root / TRACKER).write_text("10")
    return root


def slime(root: Path) -> Path:
    """slime: the state of the data source in rollout/, beside the iterations."""
    checkpoint("0.17.1-idle-w1", root / "iter_0000005")
    (root / "rollout").mkdir()
    (root / "rollout" / "global_dataset_state_dict_5.pt").write_bytes(b"offset")
    (root / TRACKER).write_text("5")
    return root


def swift(root: Path) -> Path:
    """ms-swift: args.json beside the tracker file of each checkpoint-N."""
    checkpoint("0.17.1-idle-w1", root / "iter_0000005")
    (root / "args.json").write_text("{}")
    (root / TRACKER).write_text("5")
    return root


def flat(root: Path) -> Path:
    """A checkpoint in no save of a root."""
    return checkpoint("0.13.1-idle-w1", root)


@dataclass(frozen=True)
class Case:
    """A root, and what is in it.

    Attributes:
        make: creates it at a path that does not exist.
        framework: its name in `inspect`, or None.
        checkpoints: the paths of the checkpoints that PATH selects.
        carried: files that a new root must have, too.
        use: how the options of a job start that loads a new root, or None.
    """

    make: Callable[[Path], Path]
    framework: str | None
    checkpoints: tuple[str, ...]
    carried: tuple[str, ...]
    use: str | None


CASES = {
    "bridge": Case(
        bridge,
        "Megatron-Bridge",
        ("iter_0000005",),
        (STATE, TRACKER, "iter_0000005/run_config.yaml", "iter_0000005/tokenizer/tokenizer.json"),
        "checkpoint.load={root}",
    ),
    "nemo": Case(
        nemo,
        "NeMo 2",
        (f"{LAST}/weights",),
        (f"{LAST}/context/io.json", f"{LAST}/context/model.yaml"),
        f"resume.resume_from_path={{root}}/{LAST}",
    ),
    "verl": Case(
        verl,
        "verl",
        ("global_step_10/actor/dist_ckpt", "global_step_10/critic/dist_ckpt"),
        (
            TRACKER,
            "global_step_10/data.pt",
            "global_step_10/actor/transformer_config.json",
            "global_step_10/actor/huggingface/config.json",
            "global_step_10/critic/transformer_config.json",
        ),
        "trainer.resume_mode=resume_path trainer.resume_from_path={root}/global_step_10",
    ),
    "slime": Case(
        slime,
        "slime",
        ("iter_0000005",),
        (TRACKER, "rollout/global_dataset_state_dict_5.pt"),
        "--load {root}",
    ),
    "swift": Case(
        swift, "ms-swift", ("iter_0000005",), (TRACKER, "args.json"), "--mcore_model {root}"
    ),
    "flat": Case(flat, None, ("",), (), None),
}
