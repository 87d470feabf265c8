"""The table of the frameworks that lay out checkpoints around those of Megatron-Core.

A framework saves several *saves* below a *root*, one for each step. A save contains one or several
checkpoints, at fixed paths. Every command reads the rows of this table, and nothing else names a
framework: a row says how a root is recognised, which files name the latest save, where the parallel
sizes are, and how a job loads a result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ckptmigrate.checkpoint.manifest import RELEASE
from ckptmigrate.checkpoint.trackers import LATEST_TRAIN_STATE, TRACKER_FILE, TRAIN_STATE
from ckptmigrate.errors import StoreError
from ckptmigrate.places import Place
from ckptmigrate.storage import directories
from ckptmigrate.storage.store_errors import says_denied

_LONGEST: Final = 64  # characters of an iteration in a tracker file or a name


@dataclass(frozen=True)
class SizesFile:
    """The file of a framework that states the parallel sizes, in YAML or JSON.

    Attributes:
        path: its path relative to the checkpoint.
        section: the keys that lead to the mapping with `tensor_model_parallel_size` and the others.
        data_parallel: the keys that lead to the data parallel size, or none.
        pipeline_before_data: the keys that lead to the rank order, or none.
        required: whether the framework fails without it if the common state has no `args`.
    """

    path: str
    section: tuple[str, ...] = ()
    data_parallel: tuple[str, ...] = ()
    pipeline_before_data: tuple[str, ...] = ()
    required: bool = False


@dataclass(frozen=True)
class RootKind:
    """How a framework lays out its checkpoints.

    Attributes:
        framework: its name; None if the layout is that of Megatron-LM, which several have.
        source: release or commit, and file, of these facts.
        saves: pattern of the name of a save, whose group is the iteration; None for any name.
        numbered: the name of the save of an iteration.
        released: the name of a save without iteration, or None.
        inside: the paths of the checkpoints in a save; empty for the save itself.
        trackers: the files of a root that name its latest save, in the order in which the framework
            reads them.
        root_signs, save_signs: names that only this framework writes in a root or in a save, one of
            which must be there if other kinds have the same names; a `/` follows a directory, and a
            pattern of files in it can follow.
        modules: the first parts of the names of its Python modules in a common state.
        sizes: the file with the parallel sizes, or None.
        unfinished: what follows the name of a save in the name of the file that marks it as not
            finished, or None.
        latest: what the name of the save ends with from which a job resumes, without a tracker.
        own_loader: whether it loads checkpoints with code of its own, not with load_checkpoint of
            Megatron-LM.
        resume: the options of a job that loads a result. `{root}` and `{save}` stand for its paths.
    """

    framework: str | None
    source: str
    saves: re.Pattern[str] | None = None
    numbered: str = ""
    released: str | None = None
    inside: tuple[str, ...] = ("",)
    trackers: tuple[str, ...] = ()
    root_signs: tuple[str, ...] = ()
    save_signs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    sizes: SizesFile | None = None
    unfinished: str | None = None
    latest: str | None = None
    own_loader: bool = False
    resume: tuple[str, ...] = ()

    def directory_of(self, text: str) -> str:
        """Return the name of the save that the text of a tracker file names."""
        return text if text == self.released else self.numbered.format(int(text))

    def tracker_of(self, name: str) -> str | None:
        """Return the text of a tracker file that names a save; None if no text does."""
        if self.saves is None or name == self.released:
            return None if self.saves is None else name
        match = self.saves.fullmatch(name)
        # No text names a directory with more leading zeros than the framework writes.
        return str(int(match[1])) if match and self.directory_of(match[1]) == name else None

    @property
    def prefix(self) -> str:
        """Return what the names of saves start with, if they contain the iteration."""
        return self.numbered.partition("{")[0]

    @property
    def is_signed(self) -> bool:
        """Return whether the names of its saves are not sign enough."""
        return bool(self.root_signs or self.save_signs)

    def is_save(self, name: str) -> bool:
        """Return whether a save can have this name."""
        return self.saves is None or self.tracker_of(name) is not None

    def leads(self, text: str) -> bool:
        """Return whether the text of a tracker file names a save."""
        numbered = text.isascii() and text.isdigit() and len(text) <= _LONGEST
        return numbered or (self.released is not None and text == self.released)

    def checkpoints(self, save: Place) -> tuple[Place, ...]:
        """Return the checkpoints in a save; if there is none, where the first would be."""
        if self.inside == ("",):
            return (save,)
        places = tuple(at(save, path) for path in self.inside)
        return tuple(each for each in places if directories.is_dir(each)) or places[:1]

    def is_marked(self, save: Place) -> bool:
        """Return whether a file beside a save marks it as not finished."""
        return self.unfinished is not None and _exists(self.marker(save))

    def marker(self, save: Place) -> Place:
        """Return the file that marks a save as not finished."""
        return save.with_name(f"{save.name}{self.unfinished or ''}")


_ITERATION: Final = re.compile(rf"iter_(\d{{7,{_LONGEST}}})", re.ASCII)
MEGATRON: Final = RootKind(
    None,
    "core_v0.9.0 to core_v0.19.0 megatron/training/checkpointing.py get_checkpoint_name",
    saves=_ITERATION,
    numbered="iter_{:07d}",
    released=RELEASE,
    trackers=(TRACKER_FILE,),
    resume=("--load", "{root}"),
)
# A checkpoint in no save of a root. Its framework passes its path to dist_checkpointing.load.
FLAT: Final = RootKind(None, "megatron/core/dist_checkpointing/serialization.py load")

# In the order in which they are tried; those without signs come last.
KINDS: tuple[RootKind, ...] = (
    RootKind(
        "Megatron-Bridge",
        "Megatron-Bridge 067f987d src/megatron/bridge/training/checkpointing.py save_checkpoint, "
        "_resolve_checkpoint_iteration, _extract_megatron_lm_args_from_state_dict; "
        "training/utils/checkpoint_utils.py; training/config.py; training/comm_overlap.py",
        saves=_ITERATION,
        numbered=MEGATRON.numbered,
        released=RELEASE,
        trackers=(LATEST_TRAIN_STATE, TRACKER_FILE),
        root_signs=(LATEST_TRAIN_STATE,),
        save_signs=("run_config.yaml", TRAIN_STATE),
        sizes=SizesFile(
            "run_config.yaml",
            ("model",),
            data_parallel=("comm_overlap", "data_parallel_size"),
            pipeline_before_data=("dist", "use_tp_pp_dp_mapping"),
            required=True,
        ),
        own_loader=True,
        resume=("checkpoint.load={root}",),
    ),
    RootKind(
        "slime",
        "slime 624b824a slime/rollout/data_source.py save; "
        "slime/backends/megatron_utils/checkpoint.py",
        saves=_ITERATION,
        numbered=MEGATRON.numbered,
        released=RELEASE,
        trackers=MEGATRON.trackers,
        root_signs=("rollout/global_dataset_state_dict_*.pt",),
        modules=("slime", "slime_plugins"),
        resume=MEGATRON.resume,
    ),
    RootKind(
        "ms-swift",
        "ms-swift 3602360a (4.6.0.dev0) swift/megatron/utils/megatron_lm_utils.py "
        "save_mcore_checkpoint; swift/megatron/trainers/base.py save_checkpoint",
        saves=_ITERATION,
        numbered=MEGATRON.numbered,
        released=RELEASE,
        trackers=MEGATRON.trackers,
        root_signs=("args.json",),
        modules=("swift",),
        own_loader=True,
        resume=("--mcore_model", "{root}"),
    ),
    RootKind(
        "verl",
        "verl b178a3cd (0.8.0.dev) verl/utils/checkpoint/checkpoint_manager.py "
        "find_latest_ckpt_path; verl/trainer/ppo/ray_trainer.py _save_checkpoint; "
        "verl/utils/megatron_utils.py get_dist_checkpoint_path",
        saves=re.compile(rf"global_step_(\d{{1,{_LONGEST}}})", re.ASCII),
        numbered="global_step_{:d}",
        inside=("actor/dist_ckpt", "critic/dist_ckpt"),
        trackers=(TRACKER_FILE,),
        modules=("verl",),
        sizes=SizesFile("../transformer_config.json"),
        own_loader=True,
        resume=("trainer.resume_mode=resume_path", "trainer.resume_from_path={save}"),
    ),
    RootKind(
        "NeMo 2",
        "NeMo 8cfedd72 (2.6.0rc0) nemo/lightning/ckpt_utils.py; nemo/lightning/io/pl.py "
        "ckpt_to_weights_subdir; nemo/lightning/resume.py AutoResume; "
        "nemo/lightning/pytorch/callbacks/model_checkpoint.py",
        inside=("weights",),
        save_signs=("context/",),
        modules=("nemo",),
        sizes=SizesFile("../context/model.yaml", ("config",)),
        unfinished="-unfinished",
        latest="last",
        own_loader=True,
        resume=("resume.resume_from_path={save}",),
    ),
    RootKind(
        "NeMo 1",
        "NeMo 8cfedd72 nemo/core/connectors/save_restore_connector.py; "
        "nemo/collections/nlp/parts/nlp_overrides.py",
        inside=("model_weights",),
        save_signs=("model_config.yaml",),
        sizes=SizesFile("../model_config.yaml"),
        own_loader=True,
        resume=("restore_from_path={save}",),
    ),
    MEGATRON,
)


def at(save: Place, path: str) -> Place:
    """Return the place at a path relative to a save."""
    return save / path if path else save


def of_modules(names: Iterable[str]) -> RootKind | None:
    """Return the kind whose Python modules the globals of a common state belong to, or None."""
    first = {name.partition(".")[0] for name in names}
    return next((kind for kind in KINDS if first & set(kind.modules)), None)


def _exists(place: Place) -> bool:
    try:
        return directories.is_file(place)
    except (StoreError, OSError) as error:
        if isinstance(error, StoreError) and not says_denied(error.__cause__):
            raise
        return False  # the user may be allowed to read only a part of it
