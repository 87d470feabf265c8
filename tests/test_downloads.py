"""Checkpoints that were downloaded without all their contents: pointers, and files left out.

Pointers are written as docs/spec.md of git-lfs says. The directories of the download tools are laid
out as huggingface_hub 0.34 to 1.28 and modelscope lay them out.
"""

from __future__ import annotations

import fnmatch
import json
import os
import pickle
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from conftest import SAMPLES, Run, checkpoint_of, refused, tree_hash

from ckptmigrate import DamagedError, inspect, verify

Copy = Callable[[str], Path]
OID = "ee802f98be53bf78c3c14449a772adcda6cef41f3da9f430df13f82676b43903"
LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 269493\n".encode()
POINTERS = {
    "git-lfs": (LFS, "Git LFS", "git lfs pull"),
    "10 GB": (LFS.replace(b"269493", b"10737418240"), "Git LFS", "git lfs pull"),
    "crlf": (LFS.replace(b"\n", b"\r\n"), "Git LFS", "git lfs pull"),
    "hawser": (LFS.replace(b"git-lfs", b"hawser"), "Git LFS", "git lfs pull"),
    "extension": (LFS.replace(b"\noid", b"\next-0-foo sha256:0\noid"), "Git LFS", "git lfs pull"),
    "escapes": (LFS + b"\x1b]0;owned\x07\n", "Git LFS", "git lfs pull"),
    "git-annex": (b"/annex/objects/SHA256E-s10--ab.distcp\n", "git-annex", "git annex get ."),
}
IDLE, NEW = "0.17.1-idle-w1", "0.19.0-idle-w1"
FILES = [
    (IDLE, ".metadata"),
    (IDLE, "metadata.json"),
    (IDLE, "common.pt"),
    (IDLE, "__0_0.distcp"),
    (IDLE, ".metadata metadata.json common.pt __0_0.distcp"),
    (NEW, ".metadata"),
    (NEW, "__0_0.distcp"),
]


def ways(root: Path) -> Iterator[tuple[object, ...]]:
    """Every command that needs the content of a checkpoint."""
    yield "inspect", root
    yield "check", root, "--reader", "0.16"
    yield "downgrade", root, "--to", "0.11", "--dry-run"
    yield "migrate", root, "--to", "0.19", "--in-place"
    yield "diff", root, SAMPLES / IDLE


@pytest.mark.parametrize(("sample", "files"), FILES)
def test_a_pointer_in_place_of_a_file(run: Run, copy: Copy, sample: str, files: str) -> None:
    root = copy(sample)
    for name in files.split():
        (checkpoint_of(root) / name).write_bytes(LFS)
    before = tree_hash(root)
    for words in ways(root):
        refused(run(*words), "is a Git LFS pointer", "`git lfs pull`")
    told = json.loads(run("verify", root, "--json").stdout)
    [found] = told["findings"]
    assert (found["code"], found["severity"]) == ("pointer-file", "error")
    assert sorted(found["items"]) == sorted(files.split())
    assert "`git lfs pull`" in found["remedy"]
    # A repair would write a metadata.json that hides the pointers.
    assert run("repair", root, "--in-place").returncode == 1
    assert tree_hash(root) == before


@pytest.mark.parametrize("kind", POINTERS)
def test_the_pointers_of_each_tool(run: Run, copy: Copy, kind: str) -> None:
    root = copy(IDLE)
    content, tool, command = POINTERS[kind]
    (checkpoint_of(root) / "common.pt").write_bytes(content)
    refused(run("inspect", root), f"is a {tool} pointer", f"`{command}`")
    found = run("verify", root)
    assert f"pointer-file: 1 file is a {tool} pointer" in found.stdout
    assert "\x1b" not in found.stdout


def test_the_error_of_a_job(tmp_path: Path) -> None:
    """As the page on troubleshooting quotes it."""
    (tmp_path / "common.pt").write_bytes(LFS)
    for load in (pickle.loads, lambda _: torch.load(tmp_path / "common.pt", weights_only=False)):
        with pytest.raises(pickle.UnpicklingError, match="invalid load key, 'v'"):
            load(LFS)


def test_a_larger_file_is_not_a_pointer(run: Run, copy: Copy) -> None:
    """The specification limits pointers to less than 1024 bytes."""
    root = copy(IDLE)
    for size, said in ((1023, "Git LFS pointer"), (1024, "is not a torch zip file")):
        (checkpoint_of(root) / "common.pt").write_bytes(LFS.ljust(size, b"\n"))
        refused(run("inspect", root), said)


def test_the_trackers_may_be_pointers(run: Run, copy: Copy) -> None:
    root = copy(IDLE)
    (root / "latest_checkpointed_iteration.txt").write_bytes(LFS)
    before = tree_hash(root)
    for words in (*ways(root), ("verify", root), ("repair", root, "--in-place")):
        refused(run(*words), "latest_checkpointed_iteration.txt: is a Git LFS pointer")
    assert tree_hash(root) == before
    (root / "latest_checkpointed_iteration.txt").write_text("5")
    (root / "latest_train_state.pt").write_bytes(LFS)
    [found] = json.loads(run("verify", root, "--json").stdout)["findings"]
    assert found["what"].startswith("latest_train_state.pt is a Git LFS pointer")
    assert "`git lfs pull`" in found["remedy"]


def test_the_command_is_for_the_clone(run: Run, copy: Copy, tmp_path: Path) -> None:
    """A clone that git made; one that has no files of Git LFS does not count."""
    clone = tmp_path / "a clone"
    subprocess.run(["git", "init", "-q", clone], check=True)
    root = Path(shutil.move(copy(IDLE), clone / "ckpt"))
    (checkpoint_of(root) / "common.pt").write_bytes(LFS)
    refused(run("inspect", root), "run `git lfs pull` in the clone")
    (clone / ".gitattributes").write_text("*.distcp filter=lfs diff=lfs merge=lfs -text\n")
    command = f"git -C {shlex.quote(str(clone))} lfs pull"
    refused(run("inspect", root), f"run `{command}`")
    where = [*shlex.split(command)[:3], "rev-parse", "--show-toplevel"]
    shown = subprocess.run(where, check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == os.path.realpath(clone)


# -- files that were left out


def local_dir(root: Path, tmp_path: Path) -> tuple[Path, str]:
    """What `hf download --local-dir` leaves in the root."""
    notes = root / ".cache" / "huggingface" / "download" / "iter_0000005"
    notes.mkdir(parents=True)
    (notes / "__0_0.distcp.metadata").write_text("\n")
    return root, f"hf download REPO --include 'iter_0000005/*' --local-dir {root}"


def cache(root: Path, tmp_path: Path) -> tuple[Path, str]:
    """The cache of huggingface_hub: links to files that are named by their content."""
    repo = tmp_path / "models--org--my-model"
    (repo / "blobs").mkdir(parents=True)
    snapshot = repo / "snapshots" / ("1f" * 20)
    (snapshot / "iter_0000005").mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in root.rglob("*") if path.is_file())):
        blob = repo / "blobs" / f"{number:064x}"
        shutil.move(file, blob)
        link = snapshot / file.relative_to(root)
        link.symlink_to(os.path.relpath(blob, link.parent))
    words = f"--include 'iter_0000005/*' --revision {snapshot.name} --repo-type model"
    return snapshot, f"hf download org/my-model {words}"


def modelscope(root: Path, tmp_path: Path) -> tuple[Path, str]:
    (root / ".msc").write_bytes(b"")
    words = f"--model REPO --include 'iter_0000005/*' --local_dir {root}"
    return root, f"modelscope download {words}"


TOOLS = {
    "local-dir": (local_dir, "Hugging Face"),
    "cache": (cache, "Hugging Face"),
    "modelscope": (modelscope, "ModelScope"),
}


@pytest.mark.parametrize("name", [".metadata", "common.pt", "__0_0.distcp"])
@pytest.mark.parametrize("tool", TOOLS)
def test_a_file_that_was_not_downloaded(
    run: Run, copy: Copy, tmp_path: Path, tool: str, name: str
) -> None:
    root = copy(IDLE)
    (checkpoint_of(root) / name).unlink()
    lay, site = TOOLS[tool]
    root, command = lay(root, tmp_path)
    for words in ways(root):
        refused(run(*words), f"`{command}`")
    found = json.loads(run("verify", root, "--json").stdout)["findings"]
    assert {each["remedy"] for each in found if each["severity"] == "error"} == {
        f"to download all files of the checkpoint, also dot files, run `{command}`"
    }
    if name == ".metadata":
        assert f".metadata was not downloaded from {site} (a dot file" in found[-1]["what"]
    # The pattern has the dot files, as huggingface_hub matches it (utils/_paths.py).
    [pattern] = [each for each in shlex.split(command) if "*" in each]
    assert fnmatch.fnmatchcase(f"iter_0000005/{name}", pattern)


def test_a_whole_download_is_a_checkpoint(run: Run, copy: Copy, tmp_path: Path) -> None:
    for tool, (lay, _) in TOOLS.items():
        root, _ = lay(copy(IDLE), tmp_path)
        assert run("verify", root).returncode == 0, tool
        out = tmp_path / tool
        assert run("downgrade", root, "--to", "0.11", "-o", out).returncode == 0, tool
        assert run("verify", out).returncode == 0
        shutil.rmtree(tmp_path / IDLE, ignore_errors=True)


def test_a_save_that_did_not_finish_is_not_a_download(run: Run, copy: Copy) -> None:
    root = copy(IDLE)
    (checkpoint_of(root) / ".metadata").unlink()
    refused(run("inspect", root), ".metadata is missing; restore it from a copy")
    assert "the save did not finish, or a copy or a download" in run("verify", root).stdout


def test_a_fifo_as_the_dot_file(run: Run, copy: Copy) -> None:
    root = copy(IDLE)
    metadata = checkpoint_of(root) / ".metadata"
    metadata.unlink()
    os.mkfifo(metadata)
    os.mkfifo(root / ".gitattributes")
    (root / ".git").mkdir()
    refused(run("inspect", root), ".metadata is missing")
    (checkpoint_of(root) / "common.pt").write_bytes(LFS)
    assert "run `git lfs pull` in the clone" in run("verify", root).stdout


@pytest.mark.parametrize("name", [".metadata", "metadata.json", "common.pt", "__0_0.distcp"])
def test_a_pointer_in_an_object_store(name: str) -> None:
    memory = fsspec.filesystem("memory")
    for file in checkpoint_of(SAMPLES / IDLE).iterdir():
        content = LFS if file.name == name else file.read_bytes()
        memory.pipe(f"/pointers/{name}/iter_0000005/{file.name}", content)
    url = f"memory://pointers/{name}/iter_0000005"
    with pytest.raises(DamagedError, match="is a Git LFS pointer") as told:
        inspect(url)
    assert "`git lfs pull`" in str(told.value.fix)
    [found] = verify(url).findings
    assert (found.code, found.items) == ("pointer-file", (name,))
