"""The checkpoints that the matrix is measured with: samples, and checkpoints of real releases."""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ckptmigrate.checkpoint import locate
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.errors import RefusedError
from ckptmigrate.storage import local_files

SAVED: Final = "saved/"
# The sizes in names of saved checkpoints, and their names in jobs.
_SIZES: Final = {
    "tp": "tensor_parallel",
    "pp": "pipeline_parallel",
    "cp": "context_parallel",
    "dp": "data_parallel",
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that represents a writer and a scenario.

    Attributes:
        writer: the release that wrote it.
        scenario: the name of a ScenarioRow.
        name: its name in the matrix.
        root: its root, which may not exist yet.
        sizes: the job's tensor_parallel, pipeline_parallel, context_parallel and data_parallel.
    """

    writer: str
    scenario: str
    name: str
    root: Path
    sizes: tuple[tuple[str, int], ...]

    @property
    def saved(self) -> bool:
        """Return whether the release saves it during the measurement."""
        return self.name.startswith(SAVED)

    @property
    def key(self) -> str:
        """Return a name for directories."""
        return f"{self.writer}-{self.scenario}-{self.name.removeprefix(SAVED)}"

    @property
    def folder(self) -> Path:
        """Return the directory of its iteration; a saved checkpoint has iteration 5."""
        if not self.root.is_dir():
            return self.root / "iter_0000005"
        found = locate.locate(self.root).checkpoints[0]
        assert isinstance(found, Path)
        return found


def checkpoint(writer: str, scenario: str, name: str, samples: Path, saves: Path) -> Checkpoint:
    """Return the checkpoint with a name of the matrix.

    Args:
        samples: the directory of the samples, with index.json.
        saves: the directory of saved checkpoints.

    Raises:
        RefusedError: there is no such sample.
    """
    if name.startswith(SAVED):
        suffix = name.removeprefix(SAVED)
        root = saves / f"{writer}-{scenario}-{suffix}"
        found = dict(re.findall(r"(tp|pp|cp|dp)(\d+)", suffix))
        sizes = {_SIZES[part]: int(size) for part, size in found.items()}
        return Checkpoint(writer, scenario, name, root, tuple(sizes.items()))
    index = json.loads(local_files.read_text(samples / "index.json"))
    if name not in index:
        raise RefusedError(f"there is no sample {name!r} in {samples}", fix="see its index.json")
    of_job = ((size, int(index[name][size])) for size in _SIZES.values())
    return Checkpoint(writer, scenario, name, samples / name, tuple(of_job))


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
