"""Completion in real shells, and the protocol that their scripts speak."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LAYOUTS, SAMPLES, Run

from ckptmigrate.planning.losses import LOSSES
from ckptmigrate.verifying.findings import CODES

ROOT = "0.17.1-corrupt-tp2"  # iterations 4 and 5
CASES = {
    "downgrade x --to s": {"sharded-rerun", "split-rerun"},
    "downgrade x --to 0.13": {"0.13.1"},
    "upgrade x --to un": {"universal"},
    "check x --reader 0.1": {f"0.{n}" for n in ("10.0", "11.0", "12.3", "13.1", "14.0", "15.3",
                             "16.1", "17.1", "18.2", "19.0")},
    "matrix --writer 0.9": {"0.9.0"},
    "matrix --scenario d": {"disabled"},
    "upgrade x --allow-loss ": set(LOSSES),
    "explain tracker": {code for code in CODES if code.startswith("tracker")},
    "explain fault": {"fault-context"},
    f"inspect {ROOT} --iteration ": {"4", "5"},
    f"verify {ROOT} --iteration 5": {"5"},
    f"diff {ROOT} {ROOT} --iteration ": {"4", "5"},
    "completion ": {"bash", "zsh", "fish"},
    "und": {"undo"},
    "upgrade x --in-p": {"--in-place"},
}  # fmt: skip


@pytest.fixture
def on_path(tmp_path: Path) -> dict[str, str]:
    """An environment in which `ckptmigrate` is a command."""
    program = tmp_path / "bin" / "ckptmigrate"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ckptmigrate "$@"\n')
    program.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(home)}


def words(line: str) -> list[str]:
    return ["ckptmigrate", *line.split(" ")]


@pytest.mark.parametrize("line", CASES)
def test_bash(line: str, run: Run, on_path: dict[str, str], tmp_path: Path) -> None:
    """The function that the script installs, called as bash calls it at TAB."""
    script = tmp_path / "script"
    script.write_text(run("completion", "bash").stdout)
    typed = words(line)
    array = " ".join(f"'{word}'" for word in typed)
    code = (
        f"source {script}; complete -p ckptmigrate >/dev/null || exit 9; "
        f"COMP_WORDS=({array}); COMP_CWORD={len(typed) - 1}; _ckptmigrate_completion ckptmigrate; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    shown = subprocess.run(
        ["bash", "--norc", "-c", code], env=on_path, cwd=SAMPLES, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert set(shown.stdout.split()) == CASES[line], shown.stderr


@pytest.mark.parametrize("line", CASES)
def test_zsh_and_fish_protocols(line: str, on_path: dict[str, str]) -> None:
    """What the scripts ask for: a triple of lines per word in zsh, `kind,word\\thelp` in fish."""
    typed = words(line)
    zsh = _asked(on_path, "zsh", COMP_WORDS=" ".join(typed), COMP_CWORD=str(len(typed) - 1))
    lines = zsh.splitlines()
    assert set(lines[::3]) == {"plain"}
    assert set(lines[1::3]) == CASES[line]
    fish = _asked(on_path, "fish", COMP_WORDS=" ".join(typed), COMP_CWORD=typed[-1])
    assert {row.partition(",")[2].split("\t")[0] for row in _rows(fish)} == CASES[line]


def _rows(fish: str) -> list[str]:
    return [row for row in fish.splitlines() if row.startswith("plain,")]


def _asked(environment: dict[str, str], shell: str, **variables: str) -> str:
    asked = {**environment, **variables, "_CKPTMIGRATE_COMPLETE": f"{shell}_complete"}
    return subprocess.run(
        ["ckptmigrate"], env=asked, cwd=SAMPLES, capture_output=True, text=True, check=True
    ).stdout


def test_a_path_is_completed_by_the_shell(on_path: dict[str, str]) -> None:
    for line in ("inspect ", "upgrade x -o ", "diff a "):
        typed = words(line)
        shown = _asked(on_path, "bash", COMP_WORDS=" ".join(typed), COMP_CWORD=str(len(typed) - 1))
        assert shown == "dir,\n"
    typed = words("matrix --into ")
    assert _asked(on_path, "bash", COMP_WORDS=" ".join(typed), COMP_CWORD="3") == "file,\n"


@pytest.mark.parametrize("line", [f"inspect {ROOT} --iteration ", "downgrade x --to sp"])
def test_fish(line: str, run: Run, on_path: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(run("completion", "fish").stdout)
    code = f"source {script}; complete -C 'ckptmigrate {line}'"
    shown = subprocess.run(
        [_shell("fish"), "--no-config", "-c", code], env=on_path, cwd=SAMPLES,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert {row.split("\t")[0] for row in shown.stdout.splitlines()} == CASES.get(
        line, {"split-rerun"}
    )


def test_zsh_takes_the_script(run: Run, on_path: dict[str, str], tmp_path: Path) -> None:
    """compinit finds the file by its first line, and the function asks for the words."""
    place = tmp_path / "functions"
    place.mkdir()
    (place / "_ckptmigrate").write_text(run("completion", "zsh").stdout)
    code = (
        f"fpath=({place} $fpath); autoload -Uz compinit && compinit -u -d {tmp_path}/dump; "
        "print $_comps[ckptmigrate]; "
        # The widgets are not there without a terminal: what they are given is printed.
        "_describe() { print -l -- ${(P)3} }; compadd() { print -l -- $@ }; "
        f"words=(ckptmigrate downgrade x --to sp); CURRENT=5; _ckptmigrate"
    )
    shown = subprocess.run(
        [_shell("zsh"), "-f", "-c", code], env=on_path, cwd=SAMPLES, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    lines = shown.stdout.splitlines()
    assert lines[0] == "_ckptmigrate"
    assert any(line.startswith("split-rerun") for line in lines[1:]), shown


def _shell(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is missing: run `make shells`"
    return found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_says_how_to_install_it(shell: str, run: Run) -> None:
    text = run("completion", shell).stdout
    assert f"# To install: ckptmigrate completion {shell} > ~/." in text.splitlines()[-2]
    assert (shell != "zsh") or text.startswith("#compdef ckptmigrate\n")


def test_layouts_are_all_there(on_path: dict[str, str]) -> None:
    shown = _asked(on_path, "bash", COMP_WORDS="ckptmigrate upgrade x --to ", COMP_CWORD="4")
    assert {f"plain,{layout}" for layout in LAYOUTS} <= set(shown.splitlines())
