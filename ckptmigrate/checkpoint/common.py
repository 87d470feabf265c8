"""The common state: args, iteration, optimizer groups and other data that is not sharded.

It is stored in `common.pt` as a dict or, from 0.19, in the sharded object KEY as a list of that one
dict. If both exist, every release reads `common.pt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from ckptmigrate.errors import DamagedError
from ckptmigrate.pickles import torch_file as torchfile
from ckptmigrate.pickles.torch_file import TorchFile
from ckptmigrate.pickles.tree import Global, Object, symbols, with_state

FILE: Final = "common.pt"
KEY: Final = "common_state/shard_0_1"
_FILE_ARCHIVE: Final = "common"  # torch names the folder in the zip after the file
_BLOB_ARCHIVE: Final = "archive"


@dataclass(frozen=True)
class CommonState:
    """The common state of one checkpoint.

    Attributes:
        values: the dict itself, inert.
        in_file: True if stored in `common.pt`, False if in the sharded object.
        torch_file: the archive it was read from, which contains its tensors.
    """

    values: dict[str, Any]
    in_file: bool
    torch_file: TorchFile

    @cached_property
    def symbols(self) -> tuple[Global, ...]:
        """Return each global of the dict once, in the order of the pickle."""
        return tuple(symbols(self.values))

    @property
    def arguments(self) -> Mapping[str, Any] | None:
        """Return the attributes of the pickled `args`; None if the framework writes none."""
        args = self.values.get("args")
        if isinstance(args, Object):
            return args.attributes
        return args if isinstance(args, dict) else None

    def argument(self, name: str) -> Any:
        """Return one attribute of `args`, or None."""
        arguments = self.arguments
        return arguments.get(name) if arguments is not None else None

    @property
    def content(self) -> Mapping[str, Any] | None:
        """Return `content_metadata` (0.13 and later), or None.

        It describes what was saved in addition, and how.
        """
        content = self.values.get("content_metadata")
        return content if isinstance(content, dict) else None

    @property
    def iteration(self) -> int | None:
        """Return the iteration stored in the common state, or None if it is not a valid number."""
        value = self.values.get("iteration")
        return value if type(value) is int and 0 <= value < 10**12 else None

    def with_value(self, key: str, value: Any) -> CommonState:
        """Return a copy with one key set."""
        return replace(self, values={**self.values, key: value})

    def with_argument(self, name: str, value: Any) -> CommonState:
        """Return a copy with one attribute of `args` set; self if there are no `args`."""
        args = self.values.get("args")
        if self.arguments is None:
            return self
        changed = {**self.arguments, name: value}
        return self.with_value(
            "args", with_state(args, changed) if isinstance(args, Object) else changed
        )

    def without(self, key: str) -> CommonState:
        """Return a copy without one key."""
        if key not in self.values:
            return self
        return replace(self, values={k: v for k, v in self.values.items() if k != key})

    def placed(self, *, in_file: bool) -> CommonState:
        """Return a copy that is stored in `common.pt` (`in_file`) or in the sharded object."""
        return self if in_file == self.in_file else replace(self, in_file=in_file)

    def dump(self) -> bytes:
        """Return the bytes of `common.pt` or of the sharded object KEY."""
        tree = self.values if self.in_file else [self.values]
        archive = _FILE_ARCHIVE if self.in_file else _BLOB_ARCHIVE
        return torchfile.dump(self.torch_file.with_tree(tree, archive))


def load(data: bytes, *, in_file: bool) -> CommonState:
    """Read `common.pt` or the sharded object KEY.

    Raises:
        PickleError: the data is not a torch zip, or its pickle is refused.
        DamagedError: the data is readable, but is not a dict of common state.
    """
    file = torchfile.load(data)
    values = file.tree
    if not in_file and isinstance(values, list) and len(values) == 1:
        values = values[0]
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise DamagedError("does not contain a common state (a dict)")
    return CommonState(values, in_file, file)
