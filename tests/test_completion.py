"""Completion in real shells, and the protocol that their scripts speak."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CLI, LAYOUTS, MAIN, SAMPLES, Run

from ckptmigrate.checks.codes import CODES
from ckptmigrate.planning.losses import LOSSES

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
    "explain tracker-": {code for code in CODES if code.startswith("tracker")},
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


def in_shell(shell: str, code: str, environment: dict[str, str]) -> list[str]:
    """Return the lines that a shell without start-up files prints for a script."""
    plain = {"bash": "--norc", "zsh": "-f", "fish": "--no-config"}[shell]
    program = shutil.which(shell)
    assert program, f"{shell} is missing: run `make shells`"
    done = subprocess.run(
        [program, plain, "-c", code], env=environment, cwd=SAMPLES, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_bash(run: Run, on_path: dict[str, str], tmp_path: Path) -> None:
    """The function that the script installs, called as bash calls it at TAB."""
    script = tmp_path / "script"
    script.write_text(run("completion", "bash").stdout)
    code = f"source {script}; complete -p ckptmigrate >/dev/null || exit 9; "
    for line in CASES:
        typed = words(line)
        array = " ".join(f"'{word}'" for word in typed)
        code += (
            f"COMP_WORDS=({array}); COMP_CWORD={len(typed) - 1}; COMPREPLY=(); "
            '_ckptmigrate_completion ckptmigrate; echo "${COMPREPLY[*]}"; '
        )
    found = in_shell("bash", code, on_path)
    assert {line: set(row.split()) for line, row in zip(CASES, found, strict=True)} == CASES


def asked(shell: str, line: str) -> list[str]:
    """Return the lines that the program prints for the script of a shell."""
    typed = words(line)
    variables = {
        "_CKPTMIGRATE_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": " ".join(typed),
        "COMP_CWORD": typed[-1] if shell == "fish" else str(len(typed) - 1),
    }
    done = CLI.run([], main=MAIN, cwd=SAMPLES, env={**os.environ, **variables})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_protocols() -> None:
    """`kind,word` in bash, three lines per word in zsh, `kind,word\\thelp` in fish."""
    for line, expected in CASES.items():
        assert set(asked("bash", line)) == {f"plain,{word}" for word in expected}, line
        rows = asked("zsh", line)
        assert set(rows[::3]) == {"plain"}, line
        assert set(rows[1::3]) == expected, line
        rows = [row for row in asked("fish", line) if row.startswith("plain,")]
        assert {row.partition(",")[2].split("\t")[0] for row in rows} == expected, line


def test_a_path_is_completed_by_the_shell() -> None:
    for line in ("inspect ", "upgrade x -o ", "diff a "):
        assert asked("bash", line) == ["dir,"], line
    assert asked("bash", "matrix --into ") == ["file,"]


def test_fish(run: Run, on_path: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(run("completion", "fish").stdout)
    line, other = f"inspect {ROOT} --iteration ", "downgrade x --to sp"
    code = f"source {script}; complete -C 'ckptmigrate {line}'; complete -C 'ckptmigrate {other}'"
    rows = [row.split("\t")[0] for row in in_shell("fish", code, on_path)]
    assert sorted(rows) == sorted([*CASES[line], "split-rerun"])


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
    lines = in_shell("zsh", code, on_path)
    assert lines[0] == "_ckptmigrate"
    assert any(line.startswith("split-rerun") for line in lines[1:]), lines


def test_the_script_says_how_to_install_it(run: Run) -> None:
    for shell in ("bash", "zsh", "fish"):
        text = run("completion", shell).stdout
        assert f"# To install: ckptmigrate completion {shell} > ~/." in text.splitlines()[-2]
        assert (shell != "zsh") or text.startswith("#compdef ckptmigrate\n")


def test_layouts_are_all_there() -> None:
    assert {f"plain,{layout}" for layout in LAYOUTS} <= set(asked("bash", "upgrade x --to "))
