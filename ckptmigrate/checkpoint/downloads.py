"""Downloads: checkpoints that a tool downloaded, perhaps without all their files.

Patterns such as `*.distcp` leave out `.metadata`, and an interrupted download leaves out anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ckptmigrate.places import Place
from ckptmigrate.text.commands import shell

_ABOVE: Final = 4  # directories above a checkpoint that may be the root of a download


@dataclass(frozen=True)
class Download:
    """A download that a checkpoint is part of.

    Attributes:
        site: the site that it is from.
        command: the command that downloads all files of the checkpoint.
    """

    site: str
    command: str


def find(checkpoint: Place) -> Download | None:
    """Return the download that a checkpoint is part of, or None if there are no traces of one."""
    if not isinstance(checkpoint, Path):
        return None
    above = (checkpoint, *checkpoint.parents)[: _ABOVE + 1]
    for root in above:
        inside = checkpoint.relative_to(root).as_posix()
        files = "*" if inside == "." else f"{inside}/*"
        found = next(_traces(root, files), None)
        if found is not None:
            return found
    return None


def _traces(root: Path, files: str) -> Iterator[Download]:
    """Yield the downloads whose files a tool placed in a directory.

    Sources: huggingface_hub v0.34.0 to v1.28.0 src/huggingface_hub/_local_folder.py,
    file_download.py repo_folder_name, cli/download.py; modelscope
    modelscope/hub/utils/caching.py FileSystemCache, modelscope/cli/download.py.

    Args:
        files: a pattern of the files of the checkpoint.
    """
    if os.path.isdir(root / ".cache" / "huggingface" / "download"):
        place = ("--local-dir", str(root))
        yield Download("Hugging Face", shell("hf", "download", "REPO", "--include", files, *place))
    kind, *names = root.parent.parent.name.split("--")
    if root.parent.name == "snapshots" and kind in ("models", "datasets") and names:
        words = ("--include", files, "--revision", root.name, "--repo-type", kind[:-1])
        yield Download("Hugging Face", shell("hf", "download", "/".join(names), *words))
    if os.path.isfile(root / ".msc"):
        words = ("--model", "REPO", "--include", files, "--local_dir", str(root))
        yield Download("ModelScope", shell("modelscope", "download", *words))


def missing(checkpoint: Place, name: str) -> str:
    """Return that a file is missing, and whether a download left it out."""
    found = find(checkpoint)
    if found is None:
        return f"{name} is missing"
    why = "a dot file, which many patterns leave out" if name.startswith(".") else "it is missing"
    return f"{name} was not downloaded from {found.site} ({why})"


def fix(checkpoint: Place, other: str) -> str:
    """Return the fix for a missing file: the command that downloads it, or the fix `other`."""
    found = find(checkpoint)
    if found is None:
        return other
    return f"to download all files of the checkpoint, also dot files, run `{found.command}`"
