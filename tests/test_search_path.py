"""Nothing is imported from the current directory, whatever starts Python and whoever it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_reference import commands
from conftest import SAMPLES
from distributed import LocalCluster
from every_verb import every_verb
from shadows import shadow

COMMAND = [str(Path(sys.executable).with_name("ckptmigrate"))]
MODULE = [sys.executable, "-m", "ckptmigrate"]
FINDS = ("check", "diff")  # exit with status 1 where they find something
SAMPLE = SAMPLES / "0.17.1-idle-w1"


@pytest.fixture(scope="module")
def before_main() -> set[str]:
    """The modules that Python and pip's script import before they run a line of the command."""
    code = "import re, runpy, sys, ckptmigrate.search_path; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    return {name.partition(".")[0] for name in found.stdout.split()}


def run(folder: Path, *words: object, stdin: str = "") -> int:
    """Return the exit status of a command in a folder of shadows, none of which is imported."""
    record = folder.with_name("imported")
    found = subprocess.run(
        list(map(str, words)), input=stdin, cwd=folder, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert not record.exists(), (words, record.read_text().split(), found.stderr)
    assert "internal error" not in found.stderr, (words, found.stderr)
    return found.returncode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where commands run: a folder with a file for every module that there is."""
    folder = tmp_path / "shadows"
    folder.mkdir()
    shadow(folder, tmp_path / "imported")
    return folder


def test_a_shadow_is_seen(folder: Path) -> None:
    subprocess.run([sys.executable, "-c", "import pickle"], cwd=folder, check=False)
    assert folder.with_name("imported").read_text() == "pickle\n"


@pytest.mark.parametrize("verb", sorted(commands().keys() - {"", "matrix run"}))
def test_a_verb(verb: str, folder: Path, tmp_path: Path, before_main: set[str]) -> None:
    place = tmp_path / "checkpoints"
    place.mkdir()
    words = (*verb.split(), *every_verb(place)[verb])
    options = {name for parameter in commands()[verb].params for name in parameter.opts}
    jobs = ("--jobs", 2) if "--jobs" in options else ()
    assert run(folder, *COMMAND, *words, *jobs) in ((0, 1) if verb in FINDS else (0,))
    for name in before_main:
        (folder / f"{name}.py").unlink(missing_ok=True)
    assert run(folder, *MODULE, *words) in (0, 1)


LOG = "[rank0]: KeyError: 'recipe'\n[rank0]: RuntimeError: Weights only load failed\n"


def test_a_log(folder: Path) -> None:
    words = (*COMMAND, "explain", "--checkpoint", SAMPLE, "-")
    assert run(folder, *words, stdin=LOG) == 0


@pytest.mark.parametrize("ending", ["html", "md", "json"])
def test_a_report(ending: str, folder: Path, tmp_path: Path) -> None:
    report = tmp_path / f"report.{ending}"
    assert run(folder, *COMMAND, "verify", SAMPLE, "--report", report) == 0
    assert report.exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("typed", ["inspect --iteration ", "explain ", "check --reader "])
def test_the_tab_key(shell: str, typed: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_CKPTMIGRATE_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", f"ckptmigrate {typed}")
    monkeypatch.setenv("COMP_CWORD", "" if shell == "fish" else str(len(typed.split()) + 1))
    assert run(folder, *COMMAND) == 0


def test_an_empty_part_of_pythonpath(
    folder: Path, before_main: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It means the current directory, to Python, and often is there by mistake."""
    for name in {*before_main, "sitecustomize", "usercustomize"}:
        (folder / f"{name}.py").unlink(missing_ok=True)
    monkeypatch.setenv("PYTHONPATH", f":{os.environ.get('PYTHONPATH', '')}")
    assert run(folder, *COMMAND, "inspect", SAMPLE, "--jobs", 2) == 0


def test_dask(folder: Path) -> None:
    with LocalCluster(
        n_workers=1, processes=False, dashboard_address=None, protocol="tcp://", host="127.0.0.1"
    ) as cluster:
        words = (*COMMAND, "inspect", SAMPLE, "--scheduler", cluster.scheduler_address)
        assert run(folder, *words) == 0


@pytest.mark.costly("imports torch in a process of its own")
def test_load(folder: Path) -> None:
    assert run(folder, *COMMAND, "verify", SAMPLE, "--load") == 0


@pytest.mark.full
def test_real_releases(folder: Path) -> None:
    here = Path(__file__).parent
    places = ("--readers", here.parent / ".readers", "--samples", SAMPLES)
    facts = ("--facts", here.parent / "compat_matrix.yaml")
    cell = ("--writer", "0.17.1", "--reader", "0.16.1", "--scenario", "idle")
    assert run(folder, *COMMAND, "matrix", "run", *places, *facts, *cell) == 0


def test_the_index_of_packages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip, too: it imports some hundred modules before it finds that there is no network."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    code = (
        "import sys; del sys.path[0]; "
        "from ckptmigrate.measuring import package_index; package_index.available()"
    )
    assert run(folder, sys.executable, "-c", code) == 1
