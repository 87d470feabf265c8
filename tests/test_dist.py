"""What is released: a wheel, an sdist and one file, in places where nothing else is installed."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest
from conftest import CLI, SAMPLES, checkpoint_of
from shadows import shadow

import ckptmigrate

REPOSITORY = Path(__file__).parent.parent
SAMPLE = "0.17.1-idle-w1"


def done(*command: object, cwd: Path) -> str:
    """What a command prints that ends well."""
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, (command, result.stdout, result.stderr)
    return result.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make pyz` makes: the sdist, the wheel from the sdist, and the one file from that."""
    place = tmp_path_factory.mktemp("dist") / "dist"
    # What the rule needs is installed already, as this test runs.
    there = ("-o", ".venv/.installed", "-o", ".venv/.build")
    done("make", *there, "pyz", f"DIST={place}", cwd=REPOSITORY)
    return place


@pytest.fixture(scope="module")
def empty(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel and what it needs, and no more."""
    place = tmp_path_factory.mktemp("empty")
    done(sys.executable, "-m", "venv", place / "venv", cwd=place)
    python = place / "venv" / "bin" / "python"
    [wheel] = dist.glob("*.whl")
    done(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=place)
    return python


@pytest.mark.full
def test_there_are_three_files_of_one_version(dist: Path) -> None:
    version = ckptmigrate.__version__
    assert {file.name for file in dist.iterdir()} == {
        f"ckptmigrate-{version}-py3-none-any.whl",
        f"ckptmigrate-{version}.tar.gz",
        "ckptmigrate.pyz",
    }


def test_the_version_is_stated_in_one_place() -> None:
    version = ckptmigrate.__version__
    places = [
        file
        for file in (*REPOSITORY.glob("*.toml"), *REPOSITORY.glob("ckptmigrate/**/*.py"))
        if re.search(
            rf"^(__version__|version) *= *['\"]{re.escape(version)}", file.read_text(), re.M
        )
    ]
    assert places == [REPOSITORY / "ckptmigrate" / "version.py"]


@pytest.mark.full
def test_the_wheel_has_all_files_of_the_package(dist: Path) -> None:
    tracked = done("git", "ls-files", "ckptmigrate", cwd=REPOSITORY).split()
    assert {"ckptmigrate/py.typed", "ckptmigrate/data/schemas.json"} <= set(tracked)
    [wheel] = dist.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert sorted(names) == sorted(tracked)


@pytest.mark.full
def test_the_sdist_has_the_tests_and_no_checkpoint(dist: Path) -> None:
    [sdist] = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert {"tests/test_dist.py", "compat_matrix.yaml", "Makefile", "LICENSE"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/samples", ".venv", ".readers"))]


def smoke(place: Path, *command: object) -> None:
    """Inspect, downgrade and verify a checkpoint, and come back byte for byte.

    Where this runs there is a file for every module, which none may be imported from.
    """
    shadow(place, place / "imported")
    shutil.copytree(SAMPLES / SAMPLE, place / "run")
    assert f"ckptmigrate, version {ckptmigrate.__version__}" in done(
        *command, "--version", cwd=place
    )
    assert "none-emitting, idle" in done(*command, "inspect", "run", cwd=place)
    done(*command, "downgrade", "run", "--to", "0.11.0", "--report", "r.html", cwd=place)
    assert "<h2" in (place / "r.html").read_text()
    assert ": no problems found" in done(*command, "verify", "run.0.11.0", cwd=place)
    done(*command, "upgrade", "run.0.11.0", "--to", "none-emitting", "-o", "back", cwd=place)
    done("diff", "-r", checkpoint_of(place / "run"), checkpoint_of(place / "back"), cwd=place)
    assert '"$ref"' in done(*command, "schema", "upgrade", cwd=place)
    done(*command, "matrix", "--html", "matrix.html", cwd=place)
    assert " 2 done" in done(*command, "inspect", "run", "back", "--jobs", "2", cwd=place)
    assert not (place / "imported").exists()


@pytest.mark.full
def test_the_wheel_works_without_torch(empty: Path, tmp_path: Path) -> None:
    smoke(tmp_path, empty.with_name("ckptmigrate"))
    installed = done(empty, "-Im", "pip", "--disable-pip-version-check", "list", cwd=tmp_path)
    assert not re.search(r"^(torch|numpy|megatron)", installed, re.MULTILINE)
    result = subprocess.run(
        [empty.with_name("ckptmigrate"), "verify", "run", "--load"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert " -m pip install torch`" in result.stderr


@pytest.mark.full
def test_the_one_file_works_where_nothing_is_installed(
    dist: Path, empty: Path, tmp_path: Path
) -> None:
    file = dist / "ckptmigrate.pyz"
    assert file.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    bare = tmp_path / "bare"
    done(sys.executable, "-m", "venv", "--without-pip", bare, cwd=tmp_path)
    nothing = ("env", "-i", "HOME=/nonexistent")  # nothing is kept in a home directory
    smoke(tmp_path, *nothing, bare / "bin" / "python", file)


@pytest.fixture
def example(tmp_path: Path) -> str:
    """The example of the library's docstring, beside the checkpoint that it is about."""
    shutil.copytree(SAMPLES / SAMPLE, tmp_path / "run")
    paragraphs = inspect.cleandoc(ckptmigrate.__doc__ or "").split("\n\n")
    return textwrap.dedent("\n\n".join(p for p in paragraphs if p.startswith("    "))) + "\n"


def test_the_example_of_the_library_runs(example: str, tmp_path: Path) -> None:
    result = CLI.run([], code=example, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    is_printed_by_the_example(result.stdout, tmp_path)


def is_printed_by_the_example(text: str, place: Path) -> None:
    lines = text.splitlines()
    assert lines[0] == "('none-emitting',)"
    assert lines[1].startswith("RuntimeError: Missing key in checkpoint state_dict: rerun_state")
    assert lines[1].endswith(f"ckptmigrate downgrade {place / 'run'} --to 0.11.0")
    assert lines[-1] == "True"
    assert len([line for line in lines if line.startswith("+ ")]) == 2


@pytest.mark.full
def test_the_example_of_the_library_is_typed(empty: Path, example: str, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(example)
    is_printed_by_the_example(done(empty, "example.py", cwd=tmp_path), tmp_path)
    (tmp_path / "consumer.py").write_text(CONSUMER)
    mypy = (sys.executable, "-m", "mypy", "--config-file=", "--strict", "--python-executable")
    assert "no issues found" in done(*mypy, empty, "example.py", "consumer.py", cwd=tmp_path)
    (tmp_path / "wrong.py").write_text(
        "import ckptmigrate\nckptmigrate.check(1).resumes\nckptmigrate.chekc\n"
    )
    result = subprocess.run(
        [*map(str, mypy), empty, "wrong.py"], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert "Found 3 errors" in result.stdout, result.stdout


CONSUMER = """
from pathlib import Path

import ckptmigrate
from ckptmigrate import Job, Plan, RefusedError, Url


def resuming(path: Path) -> list[str]:
    job = Job(strictness="raise_all")
    return [each.verdict.reader.release for each in ckptmigrate.check(path, job=job)
            if each.verdict.resumes]


def in_place(path: Path, release: str) -> tuple[Plan, ...]:
    recovered: dict[Path | Url, str] = ckptmigrate.recover(path)
    print(recovered)
    try:
        return ckptmigrate.migrate(path, to=release, in_place=True)
    except RefusedError as error:
        losses: tuple[str, ...] = error.losses
        fix: str | None = error.fix
        layout: str | None = error.layout
        print(error.path, error.reason, losses, fix, layout, error.as_json()["message"])
        return ()


def problems(path: str) -> list[str]:
    return [finding.remedy for finding in ckptmigrate.verify(path).findings]
"""
