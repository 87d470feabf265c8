"""Undo: back over each migration in place, byte for byte, and refused where that is not sure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SAMPLES, Run, checkpoint_of, refused, tree_hash

import ckptmigrate

SAMPLE = "0.19.0-idle-tp2"
Copy = Callable[[str], Path]


def payload(root: Path) -> dict[str, tuple[int, int, int]]:
    """Inode, permissions and time of change of each payload file."""
    found = {path.name: path.stat() for path in checkpoint_of(root).glob("__*_0.distcp")}
    assert len(found) == 2
    return {name: (s.st_ino, s.st_mode, s.st_mtime_ns) for name, s in found.items()}


def test_one_by_one(copy: Copy, run: Run) -> None:
    root = copy(SAMPLE)
    (checkpoint_of(root) / "__0_0.distcp").chmod(0o440)
    untouched, trees = payload(root), [tree_hash(root)]
    for verb, target in (("downgrade", "split-rerun"), ("downgrade", "pre-rerun")):
        done = run(verb, root, "--to", target, "--in-place")
        assert f"to undo: ckptmigrate undo {checkpoint_of(root)}\n" in done.stdout, done.stderr
        trees.append(tree_hash(root))
    for tree in reversed(trees[:-1]):
        assert run("undo", root).returncode == 0
        assert tree_hash(root) == tree
    assert payload(root) == untouched
    refused(run("undo", root), "no migration to undo")


def test_dry_run_and_json(copy: Copy, run: Run) -> None:
    root = copy(SAMPLE)
    run("downgrade", root, "--to", "pre-rerun", "--in-place")
    before = tree_hash(root)
    shown = run("undo", root, "--dry-run")
    assert shown.stdout.startswith(f"Dry run: would restore {checkpoint_of(root)}\n")
    found = json.loads(run("undo", root, "--dry-run", "--json").stdout)
    assert found["done"] is False
    assert found["checkpoints"][0]["to"] == "common-state"
    assert tree_hash(root) == before


@pytest.mark.parametrize(
    "name", [".metadata", "common.pt", "metadata.json", ".ckptmigrate/0001/.metadata"]
)
def test_a_changed_file_is_named(name: str, copy: Copy, run: Run) -> None:
    root = copy(SAMPLE)
    ckptmigrate.migrate(root, to="pre-rerun", in_place=True)
    path = checkpoint_of(root) / name
    if name == "common.pt":
        shutil.copy(SAMPLES / "0.12.3-idle-w1" / "iter_0000005" / name, path)
    else:  # readable still, and one byte more
        path.write_bytes(path.read_bytes() + b"\n")
    before = tree_hash(root)
    refused(run("undo", root), "cannot be undone", name, "changed after")
    assert tree_hash(root) == before


def test_permissions_come_back(copy: Copy) -> None:
    """A common state that only its owner may read is not opened to others on the way."""
    root = copy("0.17.1-idle-w1")
    checkpoint = checkpoint_of(root)
    (checkpoint / "common.pt").chmod(0o600)
    ckptmigrate.migrate(root, to="common-state", in_place=True)
    assert (checkpoint / ".ckptmigrate/0001/common.pt").stat().st_mode & 0o777 == 0o600
    ckptmigrate.undo(root)
    assert (checkpoint / "common.pt").stat().st_mode & 0o777 == 0o600
    assert (checkpoint / ".metadata").stat().st_mode & 0o777 == 0o644


def test_a_result_out_of_place_is_left_as_it_is(copy: Copy, run: Run, tmp_path: Path) -> None:
    """Its source is unchanged; what is to be done is to remove it, with the command it names."""
    root, out = copy(SAMPLE), tmp_path / "out"
    ckptmigrate.migrate(root, to="pre-rerun", output=out)
    before = tree_hash(out), tree_hash(root)
    result = run("undo", out)
    refused(result, "written out of place", f"rm -r {out}`")
    # A step in place on top of it can be taken back, and no further.
    ckptmigrate.migrate(out, to="split-rerun", in_place=True)
    assert run("undo", out).returncode == 0
    assert (tree_hash(out), tree_hash(root)) == before
    refused(run("undo", out), "written out of place")
    # A root that a job has saved into is not to be removed.
    shutil.copytree(checkpoint_of(out), out / "iter_0000009")
    refused(run("undo", out), f"rm -r {checkpoint_of(out)}`")
    # The way back is exact all the same.
    ckptmigrate.migrate(out, to="common-state", output=tmp_path / "back")
    assert tree_hash(tmp_path / "back") == tree_hash(root)


def test_a_batch_and_a_repair_out_of_place(copy: Copy, run: Run, tmp_path: Path) -> None:
    root, broken = copy(SAMPLE), copy("0.17.1-corrupt-tp2")
    assert run("downgrade", root, "--to", "pre-rerun", "--all", "-o", "out").returncode == 0
    assert run("repair", broken, "-o", "whole").returncode == 0
    for result in ("out", "whole"):
        refused(run("undo", tmp_path / result), "written out of place")
