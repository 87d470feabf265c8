"""The common state: what is not sharded (args, iteration, optimizer groups, the rerun entry).

It lies in `common.pt` as a dict, or, from 0.19 on, in the sharded object KEY as a
list of that one dict. Where both are there, every release reads `common.pt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ckptmigrate.errors import DamagedError
from ckptmigrate.inert import torchfile
from ckptmigrate.inert.torchfile import TorchFile
from ckptmigrate.inert.tree import Object

FILE: Final = "common.pt"
KEY: Final = "common_state/shard_0_1"
_FILE_ARCHIVE: Final = "common"  # torch names the folder in the zip after the file
_BLOB_ARCHIVE: Final = "archive"


@dataclass(frozen=True)
class CommonState:
    """The common state of one checkpoint.

    Attributes:
        values: the dict itself, inert.
        in_file: True in `common.pt`, False in the sharded object.
        torch_file: the archive it was read from, which holds its tensors.
    """

    values: dict[str, Any]
    in_file: bool
    torch_file: TorchFile

    @property
    def arguments(self) -> Mapping[str, Any] | None:
        """The attributes of the pickled `args`; None where a framework writes none."""
        args = self.values.get("args")
        if isinstance(args, Object):
            return args.attributes
        return args if isinstance(args, dict) else None

    def argument(self, name: str) -> Any:
        """One attribute of `args`, or None."""
        arguments = self.arguments
        return arguments.get(name) if arguments is not None else None

    @property
    def content(self) -> Mapping[str, Any] | None:
        """`content_metadata`, what else was saved and how (0.13 and later); None without one."""
        content = self.values.get("content_metadata")
        return content if isinstance(content, dict) else None

    @property
    def iteration(self) -> int | None:
        """The iteration that the checkpoint says it was saved at."""
        value = self.values.get("iteration")
        return value if type(value) is int and 0 <= value < 10**12 else None

    def with_value(self, key: str, value: Any) -> CommonState:
        """The same with one key set."""
        return replace(self, values={**self.values, key: value})

    def without(self, key: str) -> CommonState:
        """The same without one key."""
        if key not in self.values:
            return self
        return replace(self, values={k: v for k, v in self.values.items() if k != key})

    def placed(self, *, in_file: bool) -> CommonState:
        """The same in the other place."""
        return self if in_file == self.in_file else replace(self, in_file=in_file)

    def dump(self) -> bytes:
        """The bytes of `common.pt`, or of the blob behind KEY."""
        tree = self.values if self.in_file else [self.values]
        archive = _FILE_ARCHIVE if self.in_file else _BLOB_ARCHIVE
        return torchfile.dump(self.torch_file.with_tree(tree, archive))


def load(data: bytes, *, in_file: bool) -> CommonState:
    """Read `common.pt`, or the blob behind KEY.

    Raises:
        PickleError: not a torch zip, or its pickle is refused.
        DamagedError: readable, but no dict of common state.
    """
    file = torchfile.load(data)
    values = file.tree
    if not in_file and isinstance(values, list) and len(values) == 1:
        values = values[0]
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise DamagedError("holds no common state (a dict by name)")
    return CommonState(values, in_file, file)
