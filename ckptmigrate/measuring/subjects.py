"""The checkpoints that are measured: samples of the matrix, and the roots of any folder."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ckptmigrate.checkpoint import locate
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.checkpoint.trackers import TRACKER_FILE
from ckptmigrate.compat.cells import OPTIMIZER
from ckptmigrate.errors import RefusedError
from ckptmigrate.measuring import jobs
from ckptmigrate.releases.facts import compat, matches
from ckptmigrate.storage import local_files
from ckptmigrate.text.commands import command
from ckptmigrate.verbs.inspect import inspect
from ckptmigrate.verbs.verify import VerifyRequest

SAVED: Final = "saved/"
# The sizes in names of saved checkpoints, and their names in jobs.
_SIZES: Final = {
    "tp": "tensor_parallel",
    "pp": "pipeline_parallel",
    "cp": "context_parallel",
    "dp": "data_parallel",
}
# The fields of a job with an optimizer that index.json has, besides the sizes.
_MODEL: Final = (
    "expert_parallel", "experts", "bucket_size", "bf16", "swiglu", "tied_embedding",
)  # fmt: skip

# A job has one process per rank, all on this machine.
_MOST_RANKS: Final = 64
_DEEPEST: Final = 4  # directories between a folder and a root in it


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that releases load.

    Attributes:
        name: its name in the matrix, or the path of its root in the folder.
        key: a name for directories.
        root: its root, which may not exist yet.
        writers: the releases that may have written it.
        scenario: the name of a ScenarioRow, or `corrupt`.
        optimizer: whether it has a distributed optimizer, which TRAINING does not build.
        job: the fields of its job: the parallel sizes, and for OPTIMIZER those of the model.
        saved: whether the release saves it during the measurement.
        program: the program that loads it. With OPTIMIZER, the migration converts the optimizer.
        trained: the sample whose results of training are also its own.
    """

    name: str
    key: str
    root: Path
    writers: tuple[str, ...]
    scenario: str
    optimizer: bool
    job: tuple[tuple[str, Any], ...]
    saved: bool = False
    program: str = jobs.TRAINING
    trained: str = ""

    @property
    def folder(self) -> Path:
        """Return the directory of its iteration; a saved checkpoint has iteration 5."""
        if not self.root.is_dir():
            return self.root / "iter_0000005"
        found = locate.locate(self.root).checkpoints[0]
        assert isinstance(found, Path)
        return found


def of_matrix(writer: str, scenario: str, name: str, samples: Path, saves: Path) -> Checkpoint:
    """Return the checkpoint with a name of the matrix.

    Args:
        samples: the directory of the samples, with index.json; those of the scenario `optimizer`
            are in the directory of this name beside it.
        saves: the directory of saved checkpoints.

    Raises:
        RefusedError: there is no such sample.
    """
    suffix, saved = name.removeprefix(SAVED), name.startswith(SAVED)
    key = f"{writer}-{scenario}-{suffix}"
    optimizer = scenario == OPTIMIZER
    fields = (*_SIZES.values(), *(_MODEL if optimizer else ()))
    if saved:
        root = saves / key
        found = dict(re.findall(r"(tp|pp|cp|dp)(\d+)", suffix))
        job: dict[str, Any] = {_SIZES[part]: int(size) for part, size in found.items()}
    else:
        folder = _folder(scenario, samples)
        root = folder / name
        index = json.loads(local_files.read_text(folder / "index.json"))
        if name not in index:
            raise RefusedError(f"there is no sample {name!r} in {folder}", fix="see its index.json")
        job = {field: index[name][field] for field in fields if field in index[name]}
    program, trained = (jobs.TRAINING, name)
    if optimizer:
        program, trained = (jobs.OPTIMIZER, f"{writer}-optim-dp2")
    of_job = tuple(job.items())
    return Checkpoint(
        name, key, root, (writer,), scenario, optimizer, of_job, saved, program, trained
    )


def is_present(scenario: str, name: str, samples: Path) -> bool:
    """Return whether a checkpoint of the matrix is saved by a release or in the samples."""
    return name.startswith(SAVED) or (_folder(scenario, samples) / name).is_dir()


def _folder(scenario: str, samples: Path) -> Path:
    return samples.parent / OPTIMIZER if scenario == OPTIMIZER else samples


def of_folder(folder: Path, *, known: Collection[str] = ()) -> list[Checkpoint]:
    """Return the checkpoints that the tracker files of all roots in a folder name.

    Real releases unpickle these checkpoints, so only known globals may be in their pickles.

    Args:
        known: other dotted names of globals to trust.

    Raises:
        CkptMigrateError: there is no root, or a root cannot be measured.
    """
    found = [_of_root(root, folder, n, known) for n, root in enumerate(_roots(folder))]
    if not found:
        raise RefusedError(
            f"contains no root, which has {TRACKER_FILE}",
            path=folder,
            fix="pass a directory of roots with --samples DIRECTORY",
        )
    return found


def _roots(folder: Path) -> Iterator[Path]:
    """Yield the roots in a folder, sorted by path; links to directories are not followed."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        if TRACKER_FILE in files:
            yield here
        if TRACKER_FILE in files or len(here.relative_to(folder).parts) == _DEEPEST:
            folders.clear()
        folders.sort()


def _of_root(root: Path, folder: Path, number: int, known: Collection[str]) -> Checkpoint:
    for each in VerifyRequest(known=tuple(known)).run(root).found.findings:
        if each.code == "unknown-symbol":
            raise RefusedError(
                f"{each.what}, and a job that loads the checkpoint may call it",
                path=root,
                fix=f"to list all, run `{command('verify', root)}`; pass those that you trust "
                "with --known NAME",
            )
    found = inspect(locate.locate(root).checkpoints[0])
    sizes = found.topology
    if sizes is None or sizes.data is None:
        raise RefusedError(
            "the parallelism of the job is not known, so no job can load it here",
            path=root,
            fix="use a checkpoint of Megatron-LM, whose args contain it",
        )
    pipeline, tensor = sizes.require_grid()
    of_job = (tensor, pipeline, sizes.context or 1, sizes.data)
    if (ranks := math.prod(of_job)) > _MOST_RANKS:
        raise RefusedError(
            f"the job has {ranks} ranks, and more than {_MOST_RANKS} are not started here",
            path=root,
            fix="use a checkpoint of a smaller job",
        )
    kind = found.rerun.kind.value
    writers = found.writer.releases
    if not writers:  # the signs contradict each other
        rows = [row for row in compat().layouts if row.layout in found.likely]
        known_releases = compat().known_releases
        writers = tuple(r for r in known_releases if any(matches(r, row.releases) for row in rows))
    return Checkpoint(
        root.relative_to(folder).as_posix(),
        f"root-{number}",
        root,
        writers,
        kind if kind in ("fault", "disabled", "corrupt") else "idle",
        found.optimizer is not None and found.optimizer.type is not None,
        tuple(zip(_SIZES.values(), of_job, strict=True)),
    )


def digests(manifest: Manifest) -> dict[str, list[str]]:
    """Return key -> [dtype, SHA-256 of the bits] of every tensor, read with real torch.

    The format is that of training_job/output.py; the shape is the stored one.
    """
    import torch

    pieces: dict[str, list[tuple[tuple[int, ...], Any]]] = {}
    for chunk in manifest.metadata.chunks:
        if chunk.offsets is not None:
            content = manifest.read_range(chunk.blob.file, chunk.blob.offset, chunk.blob.length)
            piece = torch.load(io.BytesIO(content), weights_only=True)
            pieces.setdefault(chunk.key, []).append((chunk.offsets, piece))
    return {key: _digest(_whole(found)) for key, found in pieces.items()}


def _whole(pieces: list[tuple[tuple[int, ...], Any]]) -> Any:
    """Return the tensor that consists of chunks, each with its offsets."""
    import torch

    ends = [
        [at + size for at, size in zip(offsets, piece.shape, strict=True)]
        for offsets, piece in pieces
    ]
    whole = torch.empty([max(sizes) for sizes in zip(*ends, strict=True)], dtype=pieces[0][1].dtype)
    for (offsets, piece), end in zip(pieces, ends, strict=True):
        whole[tuple(slice(a, b) for a, b in zip(offsets, end, strict=True))] = piece
    return whole


def _digest(tensor: Any) -> list[str]:
    import torch

    bits = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return [str(tensor.dtype), hashlib.sha256(bits).hexdigest()]
