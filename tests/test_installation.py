"""The versions of an environment (`--to installed`, `--python /env/bin/python`): asked, not run."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import venv
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import SAMPLES, Run, refused
from real_releases import READERS

from ckptmigrate.cli import cli
from ckptmigrate.errors import RefusedError
from ckptmigrate.releases import installation as asked
from ckptmigrate.releases.installation import Installation, installation

SAMPLE = SAMPLES / "0.17.1-idle-w1"
TORCH, NUMPY = metadata.version("torch"), metadata.version("numpy")
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
# A package that a wrong probe would import.
POISON = "import pathlib; pathlib.Path(__file__).with_name('imported').touch()\n"
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A real environment with the metadata of real wheels, whose packages must not be imported."""

    def environment(release: str | None = "0.13.1", *, name: str = "env") -> Path:
        folder = tmp_path / name
        venv.create(folder, symlinks=True)
        python = folder / "bin" / "python"
        [packages] = folder.glob("lib/python*/site-packages")
        for package in ("torch", "numpy", "transformer_engine", "megatron/core"):
            (packages / package).mkdir(parents=True)
            (packages / package / "__init__.py").write_text(POISON)
        for each in ("torch", "numpy"):
            own = metadata.distribution(each)
            target = packages / f"{each}-{own.version}.dist-info"
            target.mkdir()
            (target / "METADATA").write_text(own.read_text("METADATA") or "")
        if release is not None:
            [core] = (READERS / release).glob("megatron_core-*.dist-info")
            shutil.copytree(core, packages / core.name)
        return python

    return environment


def engine(python: Path, name: str, version: str) -> None:
    [packages] = python.parents[1].glob("lib/python*/site-packages")
    folder = packages / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (folder / "METADATA").write_text(text)


def imported(python: Path) -> list[Path]:
    return list(python.parents[1].rglob("imported"))


def test_an_environment_answers_and_imports_nothing(make: Make) -> None:
    python = make()
    engine(python, "transformer-engine", "2.1.0")
    found = installation(str(python))
    assert (found.release, found.source, found.python) == ("0.13.1", "metadata", PYTHON)
    assert (found.torch, found.numpy, found.transformer_engine) == (TORCH, NUMPY, "2.1.0")
    assert str(found) == (
        f"{python} has megatron-core 0.13.1 (metadata), Python {PYTHON}, torch {TORCH}, "
        f"NumPy {NUMPY}, Transformer Engine 2.1.0"
    )
    assert imported(python) == []


def test_the_page_shows_what_is_printed() -> None:
    page = Path(__file__).parents[1] / "docs" / "environments.md"
    python = "/env/bin/python"
    found = Installation(python, "0.13.1", "metadata", "3.12", "2.6.0", "1.26.4", "2.1.0")
    assert f"```text\n{found}\n```" in page.read_text()


def test_a_part_of_transformer_engine_is_enough(make: Make) -> None:
    python = make()
    assert installation(str(python)).transformer_engine is None
    engine(python, "transformer_engine_torch", "1.13.0")
    assert installation(str(python)).transformer_engine == "1.13.0"


@pytest.mark.parametrize("release", ["0.9.0", "0.14.0", "0.16.1"])
def test_a_source_checkout_is_parsed(
    release: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package_info.py of a real release, on PYTHONPATH, before what is installed."""
    source = READERS / release
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "relative", str(source)]))
    python = make()
    found = installation(str(python))
    info = str(source / "megatron" / "core" / "package_info.py")
    assert (found.release, found.source) == (release, info)
    assert imported(python) == []


def test_an_editable_checkout_without_metadata(make: Make, tmp_path: Path) -> None:
    """A .pth file names the checkout; a release candidate, and code that must not run."""
    python = make(None)
    [packages] = python.parents[1].glob("lib/python*/site-packages")
    info = tmp_path / "checkout" / "megatron" / "core" / "package_info.py"
    info.parent.mkdir(parents=True)
    info.write_text(POISON + "MAJOR = 0\nMINOR = 17\nPATCH = 0\nPRE_RELEASE = 'rc1'\n")
    (packages / "checkout.pth").write_text(f"{tmp_path / 'checkout'}\n")
    found = installation(str(python))
    assert (found.release, found.source) == ("0.17.0rc1", str(info))
    assert not info.with_name("imported").exists()
    for text in ("MAJOR = int('0')\n", "MAJOR = (\n", "\0", "-" * 300_000, "(" * 10_000):
        info.write_text(text)
        with pytest.raises(RefusedError, match="megatron-core is not installed"):
            installation(str(python))


def test_nothing_comes_from_the_current_directory(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint could contain an interpreter, a module or a package_info.py."""
    here = tmp_path / "checkpoint"
    shutil.copytree(READERS / "0.14.0" / "megatron", here / "megatron")
    for name in ("python3", "python"):
        (here / name).write_text(f"#!/bin/sh\ntouch {here}/imported\n")
        (here / name).chmod(0o755)
    for name in ("json", "importlib", "encodings"):
        (here / f"{name}.py").write_text(POISON)
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATH", os.pathsep.join(["", ".", str(here)]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", str(here)]))
    python = make()
    assert installation(str(python)).release == "0.13.1"
    monkeypatch.setattr(sys, "executable", str(make(None, name="without")))
    with pytest.raises(RefusedError, match=r"asked \S+/without/bin/python"):
        installation()
    assert not (here / "imported").exists()


def test_the_environment_of_the_job_has_to_be_clear(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    active, own = make("0.13.1", name="active"), make("0.14.0", name="own")
    neither = make(None, name="neither")
    monkeypatch.setenv("PATH", str(active.parent))
    monkeypatch.setattr(sys, "executable", str(neither))
    assert installation().release == "0.13.1"
    monkeypatch.setattr(sys, "executable", str(own))
    with pytest.raises(RefusedError, match=r"is not clear: .*0\.13\.1.* and .*0\.14\.0"):
        installation()
    monkeypatch.setenv("PATH", str(neither.parent))
    assert installation().release == "0.14.0"


def script(folder: Path, text: str) -> str:
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sleep 60", "does not answer as Python 3.8 or later does within 1 s"),
        ("sleep 60 & exit", "does not answer"),
        ("yes", "does not answer"),
        ("exit 3", "does not answer"),
        ("echo '[]'", "does not answer"),
        ('echo \'{"python": "3.12", "path": [], "found": {}}\'', "does not answer"),
        ('echo \'{"python": 3, "path": [], "found": {}}\'', "does not answer"),
    ],
)
def test_what_is_no_interpreter(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked, "_SECONDS", 1.0)
    with pytest.raises(RefusedError, match=words):
        installation(script(tmp_path, text))


def test_what_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="cannot be started: No such file"):
        installation(str(tmp_path / "none"))
    with pytest.raises(RefusedError, match=f"is a directory; .* --python {tmp_path}/bin/python"):
        installation(str(tmp_path))


# -- the command line


def test_check_and_migrate_for_an_environment(make: Make, run: Run, tmp_path: Path) -> None:
    python = make("0.11.0")
    clear = {"PYTHONPATH": ""}
    for words in (("--reader", "installed", "--python", python), ("--python", python)):
        told = run("check", SAMPLE, *words, "--json", **clear)
        assert told.returncode == 1
        verdict = json.loads(told.stdout)
        assert (verdict["release"], verdict["torch"]) == ("0.11.0", TORCH)
        assert told.stderr.startswith(f"{python} has megatron-core 0.11.0 (metadata), ")
        assert f"--numpy {NUMPY}" in verdict["fix"]["command"]
    done = run("downgrade", SAMPLE, "--to", "installed", "--python", python, "-o", "out", **clear)
    assert done.returncode == 0, done.stderr
    assert "for Megatron-Core 0.11.0" in done.stdout
    # What the command line states, and what is in the environment besides.
    words = ("--reader", "0.13", "--python", python, "--torch", "2.5.1", "--numpy", "1.26.4")
    verdict = json.loads(run("check", SAMPLE, *words, "--json", **clear).stdout)
    assert (verdict["release"], verdict["torch"]) == ("0.13.1", "2.5.1")
    shown = run("upgrade", SAMPLE, "--python", python, "--dry-run", **clear)
    assert "0.11.0" in shown.stdout + shown.stderr
    path = run("migrate", SAMPLE, "--python", python, "--print-path", "-o", "out2", **clear)
    assert path.stdout == f"{tmp_path / 'out2'}\n"
    assert imported(python) == []


def test_the_active_environment(make: Make, run: Run, tmp_path: Path) -> None:
    python = make("0.16.1")
    active = {"PYTHONPATH": "", "PATH": str(python.parent)}
    verdict = json.loads(run("check", SAMPLE, "--reader", "installed", "--json", **active).stdout)
    assert (verdict["release"], verdict["resumes"]) == ("0.16.1", True)
    nothing = {"PYTHONPATH": "", "PATH": str(tmp_path)}
    result = run("check", SAMPLE, "--reader", "installed", **nothing)
    words = ("megatron-core is not installed for this interpreter", "name the interpreter", "asked")
    refused(result, *words)


@pytest.mark.parametrize(
    ("verb", "words"), [("check", ("--reader", "installed")), ("migrate", ("--to", "installed"))]
)
def test_the_request_has_every_version(
    verb: str, words: tuple[str, ...], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformer Engine too, which decides what a job requests of extra states."""
    monkeypatch.setenv("PYTHONPATH", "")
    python = make("0.13.1")
    engine(python, "transformer-engine", "2.1.0")
    requests: list[Any] = []
    module = importlib.import_module(f"ckptmigrate.cli.{verb}")
    monkeypatch.setattr(module, "run", lambda _, request, **__: requests.append(request))
    options = [verb, str(SAMPLE), *words, "--python", str(python)]
    assert CliRunner().invoke(cli, options).exit_code == 0
    assert CliRunner().invoke(cli, [*options, "--transformer-engine", "1.13"]).exit_code == 0
    engines = [getattr(each, "job", each).transformer_engine for each in requests]
    assert engines == ["2.1.0", "1.13"]
    for request in requests:
        found = request.environment
        assert (request.target, request.torch) == ("0.13.1", TORCH)
        assert (found.python, found.numpy) == (PYTHON, NUMPY)
