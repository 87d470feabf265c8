"""Modules that Python and NumPy have moved: what a job can load, and what a migration names."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import torch
import torch_side
from conftest import Run, checkpoint_of, refused, tree_hash
from numpy._core.multiarray import _reconstruct

from ckptmigrate import check, migrate, repair
from ckptmigrate.pickles import torch_file
from ckptmigrate.releases.environment import Environment
from ckptmigrate.releases.facts import compat
from ckptmigrate.releases.readers import reader

Copy = Callable[[str], Path]
OLD, NEW = b"\x8c\x07pathlib\x94", b"\x8c\x0epathlib._local\x94"
PATHLIB = "No module named 'pathlib._local'; 'pathlib' is not a package"
PYENV = sorted((Path.home() / ".pyenv/versions").glob("3.1[0-9].*/bin/python"))
PYTHONS = sorted({sys.executable, *map(str, PYENV)})
# What a Python loads, and by which module it pickles a path.
ASK = """
import pathlib, pickle, platform
def loads(module):
    try:
        return pickle.loads(f"c{module}\\nPosixPath\\n(S'/a'\\ntR.".encode()) == pathlib.Path("/a")
    except ModuleNotFoundError as error:
        assert str(error) == "No module named 'pathlib._local'; 'pathlib' is not a package"
        return False
print([platform.python_version(), loads("pathlib"), loads("pathlib._local"),
       pathlib.PosixPath.__module__])
"""


def as_python_313_writes(root: Path) -> None:
    """Name the class of the path in `.metadata` as Python 3.13 does."""
    file = checkpoint_of(root) / ".metadata"
    data = file.read_bytes()
    assert data.count(OLD) == 1
    assert data[2:3] == b"\x95"  # one frame: its length grows with the name
    assert int.from_bytes(data[3:11], "little") == len(data) - 11
    body = data[11:].replace(OLD, NEW)
    file.write_bytes(data[:3] + len(body).to_bytes(8, "little") + body)


@pytest.fixture
def by_python_313(copy: Copy) -> Path:
    """A checkpoint of 0.12.3 whose `.metadata` has a path as Python 3.13 pickles it."""
    root = copy("0.12.3-idle-w1")
    as_python_313_writes(root)
    return root


@pytest.mark.parametrize("python", PYTHONS)
def test_the_facts_are_those_of_real_pythons(python: str) -> None:
    done = subprocess.run([python, "-c", ASK], capture_output=True, text=True, check=True)
    version, old, new, own = eval(done.stdout)
    job, facts = Environment(python=version), compat()
    assert job.imports("pathlib.PosixPath", facts) == old
    assert job.imports("pathlib._local.PosixPath", facts) == new
    for module in ("pathlib", "pathlib._local"):
        assert job.pickles(f"{module}.PosixPath", facts) == (own == module)


def test_the_facts_are_those_of_the_numpy_that_is_installed() -> None:
    job, facts = Environment(numpy=np.__version__), compat()
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        assert pickle.loads(f"c{module}\n_reconstruct\n.".encode()) is _reconstruct
        assert job.imports(f"{module}._reconstruct", facts)
        allowed = _reconstruct.__module__ == module
        assert job.pickles(f"{module}._reconstruct", facts) == allowed


@pytest.mark.parametrize(
    ("numpy", "old", "new"),  # measured with the wheels of numpy, by pickle.loads
    [
        ("1.24.4", True, False), ("1.26.0", True, False), ("1.26.1", True, True),
        ("1.26.4", True, True), ("2.0.0", True, True), ("2.4.6", True, True),
    ],
)  # fmt: skip
def test_which_numpy_has_which_name(numpy: str, old: bool, new: bool) -> None:
    job, facts = Environment(numpy=numpy), compat()
    for name in ("_reconstruct", "scalar"):
        assert job.imports(f"numpy.core.multiarray.{name}", facts) == old
        assert job.imports(f"numpy._core.multiarray.{name}", facts) == new
    assert job.imports("numpy._core.numeric._frombuffer", facts) == numpy.startswith("2")


def test_weights_only_allows_one_of_the_names() -> None:
    """torch allows a symbol by the module that it has now, see SAFE_GLOBALS of Megatron-Core."""
    import torch.serialization as serialization

    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = reader("0.16.1", compat(), environment=Environment(here, np.__version__))
    with serialization.safe_globals([PosixPath, _reconstruct]):
        from torch._weights_only_unpickler import _get_user_allowed_globals

        allowed = _get_user_allowed_globals()
    for path in (
        *("pathlib.PosixPath", "pathlib._local.PosixPath"),
        *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    ):
        assert found.allows(path) == (path in allowed)


def test_the_python_of_the_job_decides(by_python_313: Path, run: Run) -> None:
    with pytest.raises(ModuleNotFoundError, match=PATHLIB):
        pickle.loads((checkpoint_of(by_python_313) / ".metadata").read_bytes())
    asked = run("check", by_python_313, "--reader", "0.12.3")
    assert asked.returncode == 1
    assert PATHLIB in asked.stdout
    assert "only Python >=3.13 has it, and the Python of the job is 3.12" in asked.stdout
    newer = run("check", by_python_313, "--reader", "0.12.3", "--python", "3.13", "--json")
    assert newer.returncode == 0
    assert any("is 3.13" in text for text in json.loads(newer.stdout)["depends"])
    refused(run("check", by_python_313, "--python", "snake"), "'snake' is not a version of Python")


@pytest.mark.parametrize("to", ["0.12.3", "0.11", "0.19", "split-rerun", "pre-rerun"])
def test_every_migration_names_pathlib(to: str, by_python_313: Path, tmp_path: Path) -> None:
    before = tree_hash(by_python_313)
    migrate(by_python_313, to=to, output=tmp_path / "out")
    assert tree_hash(by_python_313) == before
    stored = torch_side.read(checkpoint_of(tmp_path / "out")).metadata
    assert isinstance(stored.storage_meta.checkpoint_id, Path)


def test_a_migration_for_python_313_leaves_it(by_python_313: Path, run: Run) -> None:
    done = run("migrate", by_python_313, "--to", "0.12.3", "--python", "3.13", "--print-path")
    assert done.stdout.strip() == str(by_python_313)


def test_verify_and_repair(by_python_313: Path, run: Run, tmp_path: Path) -> None:
    found = json.loads(run("verify", by_python_313, "--json").stdout)["findings"]
    [moved] = [each for each in found if each["code"] == "moved-module"]
    assert moved["items"] == ["pathlib._local.PosixPath"]
    assert "ckptmigrate repair" in moved["remedy"]
    repair(by_python_313, output=tmp_path / "out")
    assert run("check", tmp_path / "out", "--reader", "0.12.3").returncode == 0
    again = json.loads(run("verify", tmp_path / "out", "--json").stdout)["findings"]
    assert not [each for each in again if each["code"] == "moved-module"]


@pytest.mark.parametrize("layout", ["none-emitting", "common-state"])
def test_paths_in_args(layout: str, copy: Copy, tmp_path: Path) -> None:
    """In common.pt and in the payload of common_state alike; 3.13 allows its own name alone."""
    root = copy("0.16.1-idle-w1")
    torch_side.edit_common(root, lambda state: setattr(state["args"], "folder", Path("/a/b")))
    if layout == "common-state":
        migrate(root, to=layout, in_place=True)
    [before] = check(root, release="0.19")
    assert before.verdict.resumes
    migrate(root, to="none-emitting", output=tmp_path / "313", python="3.13")
    asked = {
        python: check(tmp_path / "313", release="0.17.1", python=python)[0].verdict
        for python in ("3.12", "3.13", "3.14")
    }
    assert [each.resumes for each in asked.values()] == [True, False, True]
    assert "only Python <3.13 or >=3.14 allows it" in asked["3.13"].obstacles[0].why
    migrate(tmp_path / "313", to="0.17.1", output=tmp_path / "named", python="3.13")
    assert check(tmp_path / "named", release="0.17.1", python="3.13")[0].verdict.resumes
    assert not check(tmp_path / "named", release="0.17.1")[0].verdict.resumes
    migrate(tmp_path / "named", to="common-state", output=tmp_path / "back")
    args = torch_side.read_common(checkpoint_of(tmp_path / "back"))["args"]
    assert args.folder == Path("/a/b")


def states(root: Path) -> dict[str, tuple[Any, ...]]:
    """What torch loads of each RNG state of NumPy."""
    blobs = torch_side.read(checkpoint_of(root)).blobs
    loaded = {
        key: torch.load(io.BytesIO(blob), weights_only=False)[0]
        for key, blob in blobs.items()
        if key.startswith("rng_state/")
    }
    return {key: [each["np_rng_state"] for each in value] for key, value in loaded.items()}


@pytest.mark.parametrize("name", ["0.16.1-idle-tp2", "0.19.0-idle-tp2"])
def test_the_numpy_of_the_job_decides(name: str, copy: Copy, run: Run, tmp_path: Path) -> None:
    root = copy(name)
    release = name.partition("-")[0]
    unknown = run("check", root, "--reader", release)
    assert unknown.returncode == 0
    assert (
        "NumPy >=1.26.1 has it, and the NumPy of the job is not known (set it with --numpy V"
        in unknown.stdout
    )
    assert run("check", root, "--reader", release, "--numpy", "1.26.4").returncode == 0
    assert (
        run("check", root, "--reader", release, "--numpy", "1.24.4", "--no-load-rng").returncode
        == 0
    )
    old = run("check", root, "--reader", release, "--numpy", "1.24.4", "--json")
    assert old.returncode == 1
    told = json.loads(old.stdout)
    assert told["obstacles"][0]["error"] == "ModuleNotFoundError: No module named 'numpy._core'"
    words = told["fix"]["command"].split()[1:]
    assert words[-2:] == ["--numpy", "1.24.4"]
    assert run(*words, "-o", tmp_path / "out").returncode == 0
    result = tmp_path / "out"
    assert run("check", result, "--reader", release, "--numpy", "1.24.4").returncode == 0
    for key, blob in torch_side.read(checkpoint_of(result)).blobs.items():
        named = torch_file.load(blob).named
        assert not [path for path in named if path.startswith("numpy._core")], key
    # The same states, and NumPy 2 reads them, too.
    assert repr(states(result)) == repr(states(root))
    assert run("verify", result).returncode == 0


def test_numpy_data_in_args_under_weights_only(copy: Copy, tmp_path: Path) -> None:
    root = copy("0.16.1-idle-w1")
    data = np.arange(3, dtype=np.uint32)
    torch_side.edit_common(root, lambda state: setattr(state["args"], "data", data))
    resumes = {
        numpy: check(root, release="0.16.1", numpy=numpy)[0].verdict.resumes
        for numpy in ("1.26.4", "2.1")
    }
    assert resumes == {"1.26.4": False, "2.1": True}
    migrate(root, to="0.16.1", numpy="1.26.4", output=tmp_path / "out")
    found = {
        numpy: check(tmp_path / "out", release="0.16.1", numpy=numpy)[0].verdict.resumes
        for numpy in ("1.26.4", "2.1")
    }
    assert found == {"1.26.4": True, "2.1": False}
    args = torch_side.read_common(checkpoint_of(tmp_path / "out"))["args"]
    assert torch.equal(torch.from_numpy(args.data), torch.from_numpy(data))
