"""Limits of what is read from a checkpoint, and the errors for what exceeds them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ckptmigrate.errors import DamagedError, DestinationError
from ckptmigrate.places import Place
from ckptmigrate.text.commands import shell

# Maximum bytes held in memory at once. A `.metadata` with a million keys has 432 MB.
LARGEST_PART: Final = 4 * 1024**3
LARGEST_JSON: Final = 32 * 1024**2  # a hash in integrity.json takes about 100 bytes
_LARGEST_TRAIN_STATE: Final = 1024**2  # of Megatron-Bridge: a few numbers
DEEPEST: Final = 100  # maximum depth of directories; releases write one level
# Maximum directories below a checkpoint that are searched for nested ones: in a store, each is a
# request. Releases write one.
MOST_SEARCHED: Final = 200


def largest(name: str) -> int:
    """Return the maximum bytes that are read at once from a file of this name."""
    if name.endswith("train_state.pt"):
        return _LARGEST_TRAIN_STATE
    return LARGEST_JSON if name.endswith(".json") else LARGEST_PART


def too_large(path: Place, most: int) -> DamagedError:
    return DamagedError(
        f"is larger than {most} bytes, the most that is read at once",
        path=path,
        fix="restore it from a copy",
    )


def too_deep(folder: Path) -> DestinationError:
    """Return the error for a checkpoint with more than DEEPEST nested directories."""
    top = folder.parents[DEEPEST - 1]
    return DestinationError(
        f"contains more than {DEEPEST} nested directories, and cannot be copied",
        path=top,
        fix=f"to move it out of the checkpoint, run `{shell('mv', top, top.parents[1])}`",
    )
