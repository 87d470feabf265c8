"""Symbols that no known writer puts into a checkpoint are told by name; the samples have none."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch_side
from conftest import NAMES, SAMPLES, Run, checkpoint_of

from ckptmigrate import inspect
from ckptmigrate.checkpoint import metadata
from ckptmigrate.pickles import reader, torch_file
from ckptmigrate.releases import known_globals

Copy = Callable[[str], Path]


@pytest.mark.parametrize("name", NAMES)
def test_samples_name_none(name: str) -> None:
    """`.metadata`, common.pt and every blob, those that no verb reads too."""
    for path in sorted((SAMPLES / name).glob("iter_*")):
        contents = torch_side.read(path)
        named = [metadata.load((path / ".metadata").read_bytes()).named]
        blobs = list(contents.blobs.values())
        if (path / "common.pt").exists():
            blobs.append((path / "common.pt").read_bytes())
        named += [torch_file.load(blob).named for blob in blobs]
        assert len(named) >= 3
        assert len(named[0]) > 5
        assert known_globals.unknown([path for paths in named for path in paths]) == []
        assert not [a for a in inspect(path).anomalies if "symbol" in a]


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "posix.system",
        "builtins.exec",
        "builtins.getattr",
        "__builtin__.eval",
        "torch.load",
        "torch.hub.load",
        "torch.jit.load",
        "torch.serialization.load",
        "torch.Size.x",
        "torch.distributed.checkpoint.metadata.evil",
        "torch.storage._load_from_bytes",
        "torch._utils._rebuild_x.y",
        "numpy.testing._private.utils.runstring",
        "numpy.load",
        "collections.namedtuple",
        "argparse.Namespace.x",
        "megatron.training.checkpointing.load_checkpoint",
    ],
)
def test_unknown(path: str) -> None:
    module, _, name = path.rpartition(".")
    # Called, and what comes of it dropped: no trace is left in the tree.
    data = f"\x80\x02Nc{module}\n{name}\n)R0."
    tree, named = reader.load_with_symbols(data.encode("latin1"))
    assert tree is None
    assert known_globals.unknown([*named, *named]) == [path]


@pytest.mark.parametrize("value", [torch.float8_e4m3fn, torch.qint8, torch.uint16, torch.bool])
def test_every_dtype_is_known(value: torch.dtype) -> None:
    _, named = reader.load_with_symbols(pickle.dumps([value, torch.Size([1])], 2))
    assert len(named) == 2
    assert known_globals.unknown(named) == []


class Framework:
    """An object of a framework on top of Megatron."""


def test_inspect_tells_where_and_what(run: Run, copy: Copy) -> None:
    root = copy("0.17.1-fault-w1")
    torch_side.edit_common(root, lambda state: state.update(extra=Framework()))
    path = checkpoint_of(root) / ".metadata"
    data = path.read_bytes()
    # StorageMeta: a symbol that stands once in the file, renamed to one of the same length.
    assert data.count(b"StorageMeta\x94") == 1
    path.write_bytes(data.replace(b"StorageMeta\x94", b"StorageEvil\x94"))
    told = json.loads(run("inspect", root, "--json").stdout)["anomalies"]
    assert [t for t in told if t.startswith(".metadata names")] == [
        ".metadata names a symbol of no known writer, which a job would load: "
        "torch.distributed.checkpoint.metadata.StorageEvil"
    ]
    assert next(t for t in told if t.startswith("common.pt names")).endswith(
        f": {Framework.__module__}.Framework"
    )
    shown = run("inspect", root)
    assert shown.returncode == 0
    assert "metadata.StorageEvil" in shown.stdout
