"""Adapters (LoRA and other PEFT methods): checkpoints without the weights of the base model.

A framework that trains adapters saves only them. A job then needs the base checkpoint, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.text.printable import counted


@dataclass(frozen=True)
class AdapterForm:
    """How frameworks name the tensors of adapters, and which option names the base checkpoint.

    Attributes:
        frameworks: the frameworks that write such keys.
        keys: a part of each key.
        base: where a job takes the path of the base checkpoint from.
        source: the files of this fact.
    """

    frameworks: str
    keys: re.Pattern[str]
    base: str
    source: str


FORMS: Final = (
    AdapterForm(
        "Megatron-Bridge or NeMo 2",
        re.compile(r"\.adapters?(?:\.|$)", re.ASCII),
        "checkpoint.pretrained_checkpoint of Megatron-Bridge (see run_config.yaml), or "
        "model_ckpt_path of NeMo 2 (see adapter_metadata.json)",
        "Megatron-Bridge v0.6.0 src/megatron/bridge/peft/base.py adapter_key_filter, multi_lora "
        "layers of main of 2026-08-22, src/megatron/bridge/training/setup.py; NeMo v2.4.0 "
        "nemo/lightning/pytorch/callbacks/peft.py adapter_key_filter, WrappedAdapterIO",
    ),
    AdapterForm(
        "ms-swift",
        re.compile(r"\.(?:lora_[AB]|modules_to_save)\.", re.ASCII),
        "--mcore_model of ms-swift, beside --mcore_adapter",
        "ms-swift main of 2026-08-22 swift/megatron/utils/megatron_lm_utils.py "
        "_filter_adapter_state_dict, load_mcore_checkpoint",
    ),
)
# A part of the keys of every form.
KEYS: Final = re.compile("|".join(form.keys.pattern for form in FORMS), re.ASCII)
# A weight that adapters are added to. Every Megatron model has some.
_BASE: Final = re.compile(
    r"(?:^|\.)(?:linear_\w+|in_proj|out_proj|query_key_value|dense\w*)\."
    r"(?:base_layer\.)?weight\d*",
    re.ASCII,
)
_NO_MODEL: Final = ("optimizer.", "chained_")  # the starts of the keys of optimizers
_OBJECT: Final = "/shard_"  # a part of the keys of sharded objects


@dataclass(frozen=True)
class AdapterSummary:
    """The adapters of a checkpoint that has no weights of the layers that they adapt.

    Attributes:
        form: how the keys are named.
        tensors: number of tensors of adapters.
        others: number of other tensors, which were trained with the adapters.
    """

    form: AdapterForm
    tensors: int
    others: int

    @property
    def text(self) -> str:
        """Return what the checkpoint contains, in words."""
        more = f" and {counted(self.others, 'other tensor')}" if self.others else ""
        return (
            f"{counted(self.tensors, 'tensor')} of adapters{more}, without the base model "
            f"({self.form.frameworks})"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the documented JSON form (docs/json.md, `inspect --json`)."""
        return {
            "frameworks": self.form.frameworks,
            "tensors": self.tensors,
            "others": self.others,
            "needs": self.need,
        }

    @property
    def need(self) -> str:
        """Return what a job needs beside the checkpoint, as a sentence."""
        return (
            "the checkpoint contains adapters alone, so the job has to load the base checkpoint, "
            f"too, from {self.form.base}"
        )


def find(keys: Iterable[str]) -> AdapterSummary | None:
    """Return the adapters of a checkpoint without a base model; None for other checkpoints.

    Args:
        keys: the keys of the checkpoint.
    """
    form, tensors, others = None, 0, 0
    for key in keys:
        if key.startswith(_NO_MODEL) or _OBJECT in key:
            continue
        named = next((each for each in FORMS if each.keys.search(key)), None)
        if named is not None:
            form = form or named
            tensors += 1
        elif _BASE.search(key):
            return None
        else:
            others += 1
    return None if form is None else AdapterSummary(form, tensors, others)


def needs(found: Manifest) -> tuple[str, ...]:
    """Return what a job needs and a checkpoint does not contain."""
    summary = find(found.metadata.entries)
    return () if summary is None else (summary.need,)
