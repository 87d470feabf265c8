"""Files and byte objects that `torch.save` writes: a zip of one pickle and tensor storages.

`common.pt` is such a file, and so is each `BytesStorageMetadata` object in a data file. The zip
format is in torchzip.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ckptmigrate.pickles import reader, serializer, torch_zip
from ckptmigrate.pickles.torch_zip import PICKLE, STORAGES, TorchZip

PROTOCOL: Final = 2
TENSOR: Final = "torch._utils._rebuild_tensor_v2"  # pickled for a tensor


@dataclass(frozen=True)
class TorchFile:
    """One `torch.save` file with its pickle as an inert tree.

    Attributes:
        tree: the inert tree of `data.pkl`.
        zipped: the members; `data.pkl` has its bytes as read, and is written from `tree`.
        named: the globals that `data.pkl` named when it was read.
    """

    tree: Any
    zipped: TorchZip
    named: tuple[str, ...] = ()

    @property
    def storages(self) -> tuple[tuple[str, bytes], ...]:
        """Return the name and the bytes of each tensor storage."""
        return tuple(each for each in self.zipped.members if each[0].startswith(STORAGES))

    def with_tree(self, tree: Any, folder: str | None = None) -> TorchFile:
        """Return a copy with another tree and the same storages."""
        zipped = replace(self.zipped, folder=folder or self.zipped.folder)
        return replace(self, tree=tree, zipped=zipped)

    def with_storage(self, content: bytes) -> tuple[TorchFile, str]:
        """Return a copy with one more tensor storage, and its name without the folder."""
        taken = {name for name, _ in self.storages}
        number = next(str(n) for n in itertools.count() if f"data/{n}" not in taken)
        members = (*self.zipped.members, (f"data/{number}", content))
        return replace(self, zipped=replace(self.zipped, members=members)), number


def load(data: bytes) -> TorchFile:
    """Read a file without executing its pickle.

    Raises:
        PickleError: `torch.save` does not write such a file, or its pickle is refused.
    """
    zipped = torch_zip.read(data)
    tree, named = reader.load_with_symbols(dict(zipped.members)[PICKLE], storages=True)
    return TorchFile(tree, zipped, named)


def dump(file: TorchFile) -> bytes:
    """Return the bytes of a file; identical to those it was read from if its tree is unchanged."""
    return torch_zip.write(written(file))


def written(file: TorchFile) -> TorchZip:
    """Return the members of a file, with `data.pkl` as its tree is written."""
    pickled = serializer.dump(file.tree, PROTOCOL)
    members = ((n, pickled if n == PICKLE else body) for n, body in file.zipped.members)
    return replace(file.zipped, members=tuple(members))


def new(tree: Any, storages: Sequence[bytes] = ()) -> TorchFile:
    """Return a file for a tree, with the members that torch 2.4 and later write.

    Args:
        storages: the bytes of the tensor storages 0, 1, ... that the tree refers to.
    """
    # torch identifies a serialization by 40 digits; a hash of the content makes them reproducible.
    digest = hashlib.sha256(serializer.dump(tree, PROTOCOL)).digest()
    identity = f"{int.from_bytes(digest, 'big') % 10**40:040d}".encode()
    members = (
        (PICKLE, b""),
        ("byteorder", b"little"),
        *((f"{STORAGES}{number}", body) for number, body in enumerate(storages)),
        ("version", b"3\n"),
        (".data/serialization_id", identity),
    )
    return TorchFile(tree, TorchZip("archive", members))
