"""The table of checkpoint formats other than torch_dist, and how a directory shows that it has one.

Each row says what the format is and which tool converts it, if there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ckptmigrate.checkpoint import metadata_file
from ckptmigrate.checkpoint.metadata import FILE, Metadata
from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles import torch_file
from ckptmigrate.pickles.tree import Object
from ckptmigrate.storage import directories
from ckptmigrate.storage.directories import Directory
from ckptmigrate.text.commands import shell

_MOST_LEVELS: Final = 3  # of local checkpoints: node, session and rank
_RANK: Final = re.compile(r"mp_rank_(\d{2,9})(?:_(\d{3,9}))?(?:_(\d{3,9}))?", re.ASCII)
_RANK_FILES: Final = frozenset({"model_optim_rng.pt", "distrib_optim.pt"})
_DEEPSPEED: Final = re.compile(
    r"(?:bf16_|fp16_)?zero_pp_rank_\d+_mp_rank_\d+_(?:model|optim)_states\.pt"
    r"|mp_rank_\d+_model_states\.pt|layer_\d+-model_\d+-model_states\.pt",
    re.ASCII,
)
_LOCAL: Final = re.compile(r"iter_\d{7,64}_\d{1,18}_local(?:\.dirty)?\.pt", re.ASCII)
_SHARD: Final = re.compile(r".*/shard_[\d.]+_[\d.]+", re.ASCII | re.DOTALL)
# Keys of a DCP checkpoint of Megatron, and the starts of those that only fsdp_dtensor has.
_MEGATRON: Final = frozenset({"args", "checkpoint_version", "iteration"})
_FSDP: Final = ("model.module.", "rng_state.(")

ZARR: Final = "zarr"
LEGACY: Final = "torch"
DEEPSPEED: Final = "deepspeed"
LOCAL: Final = "local"
TORCH_DCP: Final = "torch_dcp"
FSDP_DTENSOR: Final = "fsdp_dtensor"
EITHER: Final = "torch_dcp or fsdp_dtensor"
DCP: Final = "dcp"
BACKENDS: Final = (ZARR, TORCH_DCP, FSDP_DTENSOR)  # also as the sharded_backend of metadata.json


@dataclass(frozen=True)
class OtherFormat:
    """A checkpoint format that is not torch_dist.

    Attributes:
        what: what a checkpoint of the format is, as the end of a sentence; `{found}` stands for
            what shows it.
        fix: what to do; `{root}` stands for the directory that a job gets as --load.
        source: the files of these facts.
    """

    what: str
    fix: str
    source: str


_CONVERT: Final = "--ckpt-convert-format torch_dist --ckpt-convert-save DIR"
_HF: Final = (
    "export it to Hugging Face with examples/conversion/mfsdp/convert_checkpoints_fsdp.py of "
    "Megatron-Bridge, and import that as torch_dist"
)
_FSDP2: Final = (
    f"run a job of Megatron-LM with --load {{root}} --use-torch-fsdp2 --ckpt-format torch_dcp "
    f"{_CONVERT} (from source, not run)"
)
_DETECTED: Final = "core_v0.14.0 to core_v0.19.0 megatron/training/checkpointing.py"

FORMATS: Final[Mapping[str, OtherFormat]] = {
    ZARR: OtherFormat(
        "is a zarr checkpoint, which only releases up to 0.15 read; its tensors would have to be "
        "rewritten",
        f"run a job of a release up to 0.15 with --load {{root}} {_CONVERT}; for NeMo 1, use "
        "scripts/checkpoint_converters/convert_zarr_to_torch_dist.py of NeMo",
        "core_v0.12.0 to core_v0.15.3 megatron/training/arguments.py --ckpt-convert-format; "
        "core_v0.15.3 megatron/core/dist_checkpointing/strategies/zarr.py; NeMo v2.4.0 "
        "scripts/checkpoint_converters/convert_zarr_to_torch_dist.py",
    ),
    LEGACY: OtherFormat(
        "is a legacy torch checkpoint ({found}), not torch_dist: it has a file for each rank, and "
        "only a job with the same parallel sizes loads it",
        "run a job of Megatron-LM with the same parallel sizes and --load {root} "
        f"--ckpt-format torch {_CONVERT}",
        "core_v0.9.0 to core_v0.19.0 megatron/training/checkpointing.py get_checkpoint_name, "
        "get_distributed_optimizer_checkpoint_name; megatron/training/training.py "
        "setup_model_and_optimizer",
    ),
    DEEPSPEED: OtherFormat(
        "is a DeepSpeed checkpoint ({found}), not torch_dist: Megatron-LM does not load it",
        "convert it to the legacy torch format with "
        "tools/convert_checkpoint/deepspeed_to_megatron.py of Megatron-DeepSpeed",
        "microsoft/Megatron-DeepSpeed tools/convert_checkpoint/deepspeed_to_megatron.py; DeepSpeed "
        "deepspeed/runtime/engine.py _get_ckpt_name, _get_zero_ckpt_name",
    ),
    LOCAL: OtherFormat(
        "is a local checkpoint of nvidia-resiliency-ext ({found}): each rank keeps its own file, "
        "and only a job with the same ranks on the same nodes loads it, with "
        "--non-persistent-ckpt-type local",
        "use the global checkpoint, in the --save directory of that job; to write one, run the job "
        "again on the same nodes",
        "nvidia-resiliency-ext v0.5.0 src/nvidia_resiliency_ext/checkpointing/local/ckpt_managers/"
        "local_manager.py _filename_from_template; core_v0.11.0 to core_v0.19.0 "
        "megatron/training/training.py local_checkpoint_manager",
    ),
    TORCH_DCP: OtherFormat(
        "is a torch_dcp checkpoint ({found}), not torch_dist: a job with --use-torch-fsdp2 and "
        "--ckpt-format torch_dcp writes it",
        _FSDP2,
        f"{_DETECTED} _get_checkpoint_format; core_v0.12.0 megatron/training/arguments.py "
        "--ckpt-convert-format",
    ),
    FSDP_DTENSOR: OtherFormat(
        "is a fsdp_dtensor checkpoint ({found}), not torch_dist: only a job with "
        "--use-megatron-fsdp loads it, and tools/checkpoint/checkpoint_inspector.py of Megatron-LM "
        "converts torch_dist to it, not back",
        _HF,
        f"{_DETECTED} _get_checkpoint_format; core_v0.14.0 to main of 2026-08-22 "
        "tools/checkpoint/checkpoint_inspector.py convert_torch_dist_to_fsdp_dtensor; "
        "Megatron-Bridge v0.6.0 examples/conversion/mfsdp/convert_checkpoints_fsdp.py export",
    ),
    EITHER: OtherFormat(
        "is a torch_dcp or fsdp_dtensor checkpoint ({found}), not torch_dist",
        f"for fsdp_dtensor, {_HF}; for torch_dcp, {_FSDP2}",
        f"{_DETECTED} _get_checkpoint_format",
    ),
    DCP: OtherFormat(
        "is a checkpoint of PyTorch Distributed Checkpoint ({found}) that Megatron did not write, "
        "not torch_dist: it may be torch_dcp of another program",
        "load it with the program that wrote it; to write its tensors to one torch file, run "
        "`{dcp}`",
        "torch 2.13.0 torch/distributed/checkpoint/format_utils.py dcp_to_torch_save",
    ),
}


@dataclass(frozen=True)
class Recognized:
    """The format of a directory, and what shows it.

    Attributes:
        name: a key of FORMATS.
        found: the files or keys that show it.
    """

    name: str
    found: str

    @property
    def what(self) -> str:
        """Return what the checkpoint is."""
        return FORMATS[self.name].what.format(found=self.found)

    def fix(self, directory: Directory) -> str:
        """Return what to do."""
        path = directory.path
        root = path.parent.parent if _RANK.fullmatch(path.name) else path.parent
        module = "torch.distributed.checkpoint.format_utils"
        dcp = shell("python", "-m", module, "dcp_to_torch", path, "model.pt")
        return FORMATS[self.name].fix.format(root=shell(root), dcp=dcp)


def by_files(directory: Directory) -> Recognized | None:
    """Return the format that the names of files and folders show, or None.

    The releases take a directory with an `mp_rank_0*` for a legacy checkpoint.
    """
    deepspeed = _first(directory.files(), _DEEPSPEED)
    if deepspeed is not None:
        return Recognized(DEEPSPEED, deepspeed)
    if any(name.startswith("mp_rank_0") for name in (*directory.folders(), *directory.files())):
        return Recognized(LEGACY, _ranks(directory.folders()))
    own = next((name for name in _RANK_FILES if name in directory.files()), None)
    if own is not None:
        return Recognized(LEGACY, f"{own} of one rank")
    local = next(_local(directory), None)
    return None if local is None else Recognized(LOCAL, local)


def _first(names: Iterable[str], pattern: re.Pattern[str]) -> str | None:
    return next(filter(pattern.fullmatch, names), None)


def _ranks(folders: Iterable[str]) -> str:
    """Return the parallel sizes that the names of the folders of a legacy checkpoint show."""
    sizes: dict[int, int] = {}
    for match in filter(None, map(_RANK.fullmatch, folders)):
        for number, rank in enumerate(match.groups()):
            if rank is not None:
                sizes[number] = max(sizes.get(number, 0), int(rank) + 1)
    names = ("TP", "PP", "EP") if 2 in sizes else ("TP", "PP or EP")
    shown = " x ".join(f"{name} {sizes[n]}" for n, name in enumerate(names) if n in sizes)
    return f"mp_rank_*/model_optim_rng.pt{f', {shown}' if shown else ''}"


def _local(directory: Directory) -> Iterator[str]:
    """Yield the first local checkpoint in a directory, or in the first of its directories.

    They are in ROOT/SESSION/RANK, and in a directory for each node if the disk is shared.
    """
    inside: list[str] = []
    for _ in range(_MOST_LEVELS + 1):
        name = _first(directory.files(), _LOCAL)
        if name is not None:
            yield "/".join((*inside, name))
            return
        path = directory.path
        if not isinstance(path, Path) or not directory.folders() or directory.files():
            return
        inside.append(next(iter(directory.folders())))
        directory = directories.directory(path / inside[-1])


def is_of_megatron_core(found: Metadata) -> bool:
    """Return whether a `.metadata` has sharded objects, which only torch_dist has."""
    return any(map(_SHARD.fullmatch, found.entries))


def of_metadata(directory: Directory) -> Recognized:
    """Return the format of a directory with `.metadata` and without metadata.json."""
    without = ".metadata without metadata.json"
    try:
        found = metadata_file.read(directory.read(FILE))
    except DamagedError as error:
        return Recognized(EITHER, f"{without}; .metadata {error.reason}")
    named = _stored_name(directory, found)
    if named is not None:
        return Recognized(named, without)
    if any(key.startswith(_FSDP) for key in found.entries):
        return Recognized(FSDP_DTENSOR, without)
    return Recognized(EITHER if _MEGATRON & found.entries.keys() else DCP, without)


def _stored_name(directory: Directory, found: Metadata) -> str | None:
    """Return the format that the stored args name, or None."""
    try:
        blob = found.blobs.get("args")
        if blob is None or blob.file not in directory.files():
            return None
        tree = torch_file.load(directory.read_range(blob.file, blob.offset, blob.length)).tree
    except DamagedError:
        return None
    named = tree.attributes.get("ckpt_format") if isinstance(tree, Object) else None
    return named if named in (TORCH_DCP, FSDP_DTENSOR) else None
