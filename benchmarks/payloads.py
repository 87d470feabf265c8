"""The roots that are measured, each created once per task."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from benchmarks.measure import PROGRAMS, measure

REPOSITORY: Final = Path(__file__).parent.parent
SAMPLE: Final = REPOSITORY / "tests" / "samples" / "0.19.0-idle-tp2"
READERS: Final = REPOSITORY / ".readers"
MEGATRON: Final = {"PYTHONPATH": str(READERS / "0.16.1")}
_TRACKER: Final = "latest_checkpointed_iteration.txt"
_PAYLOAD: Final = "*.distcp"


class Payload(Protocol):
    """A root that can be created."""

    def make(self, root: Path) -> None:
        """Create the root at a path that does not exist."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint with `size` bytes of tensors that real megatron-core saves."""

    size: int

    def make(self, root: Path) -> None:
        checkpoint = root / "iter_0000001"
        checkpoint.mkdir(parents=True)
        program = str(PROGRAMS / "megatron_save.py")
        measure([sys.executable, program, str(checkpoint), str(self.size)], MEGATRON)
        (root / _TRACKER).write_text("1")


@dataclass(frozen=True)
class SavedOptimizer:
    """A checkpoint with `size` bytes of optimizer states that real megatron-core saves."""

    size: int
    release: str
    sharding_type: str

    def make(self, root: Path) -> None:
        root.mkdir()
        program = str(PROGRAMS / "megatron_optimizer.py")
        arguments = (str(root / "iter_0000005"), str(self.size), self.sharding_type)
        path = f"{READERS / self.release}{os.pathsep}{REPOSITORY / 'ckptmigrate' / 'measuring'}"
        measure([sys.executable, program, *arguments], {"PYTHONPATH": path})


@dataclass(frozen=True)
class Sample:
    """A sample whose first data file is extended to `size` bytes with a hole (sparse)."""

    size: int | None = None

    def make(self, root: Path) -> None:
        shutil.copytree(SAMPLE, root)
        if self.size is not None:
            os.truncate(min(root.glob(f"*/{_PAYLOAD}")), self.size)


@dataclass(frozen=True)
class Many:
    """A root with `count` copies of the checkpoint of a sample."""

    count: int

    def make(self, root: Path) -> None:
        [checkpoint] = SAMPLE.glob("iter_*")
        for number in range(1, self.count + 1):
            shutil.copytree(checkpoint, root / f"iter_{number:07d}")
        (root / _TRACKER).write_text(str(self.count))


@dataclass(frozen=True)
class Grown:
    """A sample with `entries` more keys, made with torch's own classes, and sparse data files."""

    entries: int

    def make(self, root: Path) -> None:
        program, row_bytes = str(Path(__file__).parent / "synthetic.py"), "8192"
        measure([sys.executable, program, str(root), str(self.entries), row_bytes, "plans"])


def working_copy(root: Path, copy: Path) -> None:
    """Copy a root so that a process can change the copy.

    Data files are hard links, because no process writes to them.
    """

    def carry(source: str, target: str) -> None:
        if Path(source).match(_PAYLOAD):
            os.link(source, target)
        else:
            shutil.copy2(source, target)

    shutil.copytree(root, copy, copy_function=carry)


def cool(root: Path) -> None:
    """Drop the data files of a root, which are on disk, from the page cache."""
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(root: Path) -> None:
    """Read a root into the page cache, as far as it fits, without sparse files."""
    piece = bytearray(16 * 1024**2)
    for path in root.rglob("*"):
        # Reading a hole takes as long as reading data, and does not fill the page cache.
        if path.is_file() and path.stat().st_blocks * 512 >= path.stat().st_size:
            with path.open("rb", buffering=0) as file:
                while file.readinto(piece):
                    pass
