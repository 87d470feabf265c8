"""integrity.json: what is read is held against it before, and payload where that is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Run, checkpoint_of, refused, tree_hash

SAMPLE = "0.17.1-idle-w1"
Copy = Callable[[str], Path]


@pytest.fixture
def root(copy: Copy) -> Path:
    """A sample with the digests that 0.17.1 and later write, of every file."""
    root = copy(SAMPLE)
    checkpoint = checkpoint_of(root)
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in checkpoint.iterdir()}
    assert set(files) == {".metadata", "__0_0.distcp", "common.pt", "metadata.json"}
    content = {"algorithm": "sha256", "files": files}
    (checkpoint / "integrity.json").write_text(json.dumps(content, indent=2))
    return root


def flip(path: Path) -> None:
    """Another byte in the middle of the largest tensor, or so."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_small_file_that_is_not_as_it_was_saved(root: Path, run: Run) -> None:
    marker = checkpoint_of(root) / "metadata.json"
    marker.write_text(marker.read_text() + "\n")
    before = tree_hash(root)
    words = ["downgrade", root, "--to", "pre-rerun", "-o", root.parent / "out"]
    refused(run(*words), "metadata.json", "integrity.json", "--allow-loss integrity")
    refused(run("upgrade", root, "--in-place"), "--allow-loss integrity")
    assert tree_hash(root) == before
    done = run("upgrade", root, "--in-place", "--allow-loss", "integrity")
    assert done.returncode == 0, done.stderr
    assert "  data loss: integrity: " in done.stdout
    assert run("undo", root).returncode == 0
    assert tree_hash(root) == before


def test_payload_only_when_asked(root: Path, run: Run) -> None:
    flip(checkpoint_of(root) / "__0_0.distcp")
    out = root.parent / "out"
    refused(run("upgrade", root, "-o", out, "--hash"), "records for __0_0.distcp")
    assert not out.exists()
    assert run("upgrade", root, "-o", out).returncode == 0


def test_payload_as_it_was_saved(root: Path, run: Run) -> None:
    done = run("upgrade", root, "-o", root.parent / "out", "--hash")
    assert done.returncode == 0, done.stderr
    (checkpoint_of(root) / "integrity.json").unlink()
    told = run("upgrade", root, "-o", root.parent / "two", "--hash")
    assert (
        "  note: the checkpoint has no integrity.json to compare the data files with\n"
        in told.stdout
    )


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "nowhere.distcp"])
def test_only_files_of_the_checkpoint_are_read(root: Path, run: Run, name: str) -> None:
    (root / "secret").write_text("secret")
    place = checkpoint_of(root) / "integrity.json"
    content = json.loads(place.read_text())
    content["files"][name] = hashlib.sha256(b"secret").hexdigest()
    place.write_text(json.dumps(content))
    refused(run("upgrade", root, "-o", root.parent / "out", "--hash"), f"records for {name}")
