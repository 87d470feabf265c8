"""The help of every verb and option, over the tree of commands."""

from __future__ import annotations

import re
import shlex
import shutil
from itertools import product
from pathlib import Path

import click
import pytest
from cli_reference import commands
from conftest import SAMPLES, Run

from ckptmigrate.cli import cli
from ckptmigrate.cli.help import EVERYTHING, RARE, SECTIONS

ALL = commands()


def examples(command: click.Command) -> list[str]:
    assert command.help is not None
    _, _, after = command.help.partition("Examples:\n")
    return [line.strip() for line in after.splitlines() if line.strip()]


def help_context(name: str, width: int) -> click.Context:
    """Return the context of a command for a terminal of a width."""
    return ALL[name].make_context(
        name,
        ["x"],
        resilient_parsing=True,
        terminal_width=width,
        # A command keeps the help option of its first context.
        help_option_names=cli.context_settings["help_option_names"],
    )


def test_there_are_verbs() -> None:
    assert {"inspect", "upgrade", "explain", "completion", "matrix run"} <= ALL.keys()


def test_every_verb_says_what_it_does_and_shows_an_example() -> None:
    for name, command in ALL.items():
        first = (command.help or "").splitlines()[0]
        assert re.fullmatch(r"[A-Z].*\.", first), first
        shown = examples(command)
        assert shown, name
        for line in shown:
            assert line.startswith(f"ckptmigrate {name}".strip()), line


def test_every_option_says_what_it_does_in_its_section() -> None:
    sectioned = {each for names in SECTIONS.values() for each in names}
    for name, command in ALL.items():
        context = click.Context(command, help_option_names=["-h", "--help"])
        short = command.get_help(context)
        context.meta[EVERYTHING] = True
        page = command.get_help(context)
        for parameter in command.params:
            if not isinstance(parameter, click.Option):
                continue
            assert parameter.name in sectioned, parameter.name
            assert parameter.help, parameter.opts
            assert re.search(r"[.)]$", parameter.help), parameter.help
            for flag in parameter.opts:
                assert re.search(rf"^ +(-\w, )?{re.escape(flag)}\b", page, re.MULTILINE) or (
                    len(flag) == 2 and f"{flag}, " in page
                ), flag
                in_short = re.search(rf"^ .*{re.escape(flag)}\b.*  ", short, re.MULTILINE)
                assert bool(in_short) == (parameter.name not in RARE), flag
        names = {getattr(parameter, "metavar", None) for parameter in command.params}
        assert "DEST" not in page or "DEST" in names, name
        assert "\nOptions:\n" not in page, name
        assert short.rstrip().splitlines()[-1].split()[0] == "--help-all", name
        for status in ("0", "1", "2", "130"):
            assert re.search(rf"^  {status} +\S", page, re.MULTILINE), name
            assert not re.search(rf"^  {status} +\S", short, re.MULTILINE), name


def test_help_fits_two_screens_of_80_columns() -> None:
    for name in ALL:
        with help_context(name, 80) as context:
            lines = context.get_help().splitlines()
        assert len(lines) <= 75, name
        assert all(len(line) <= 80 for line in lines), name


def test_option_groups_are_in_one_order() -> None:
    order = [
        "Selection", "Target", "Output", "Target job", "Batch", "Parallelism", "Validation",
        "General",
    ]  # fmt: skip
    assert [section for section in SECTIONS if section != "Measurement"] == order


def test_help_all_shows_what_help_leaves_out(run: Run) -> None:
    short, whole = (run("downgrade", flag).stdout for flag in ("--help", "--help-all"))
    for text in ("--scheduler", "--retries", "Exit status:", "Files:"):
        assert text not in short
        assert text in whole
    assert set(short.split()) < set(whole.split())


def test_contributor_commands_are_hidden(run: Run) -> None:
    assert "Add a release" not in run("matrix", "--help").stdout
    assert "Add a release" in run("matrix", "--help-all").stdout


def test_a_missing_target_lists_the_releases(run: Run) -> None:
    result = run("downgrade", "run")
    assert result.returncode == 2
    assert "0.9.0, 0.10.0, 0.11.0" in result.stderr


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("matrix add", "matrix run")])
def test_examples_work(name: str, run: Run, tmp_path: Path) -> None:
    """As pasted, on samples of the names that they use; 1 is an answer of check, diff, verify."""
    for number, line in enumerate(examples(ALL[name])):
        place = tmp_path / str(number)
        for root, sample in {
            "run": "0.17.1-idle-w1",
            "run.pre-rerun": "0.9.0-idle-w1",
            "other": "0.18.2-idle-w1",
            "fault": "0.17.1-fault-w1",
            "broken": "0.17.1-corrupt-tp2",
        }.items():
            shutil.copytree(SAMPLES / sample, place / root)
        if name == "undo":
            run("downgrade", place / "run", "--to", "0.11.0", "--in-place")
        line = re.split(" [<>] ", line)[0]
        words = shlex.split(line, comments=True)[1:]
        # Of this place, from wherever the fixture runs.
        words = [str(place / w) if w.split("/")[0] in ("run", "run.pre-rerun", "other", "fault",
                 "broken", "run-for-0.19", "run-for-0.13", "whole", "matrix.html") else w
                 for w in words]  # fmt: skip
        result = run(*words)
        # An empty log has nothing to explain.
        answers = (0, 1) if name in ("check", "diff", "") or " - " in f"{line} " else (0,)
        assert result.returncode in answers, (line, result.stderr)
        assert not result.stderr, result.stderr


def test_no_name_is_broken_at_a_hyphen() -> None:
    for (name, option), width in product(
        (("upgrade", "--world-size"), ("check", "--job-world")), (60, 80, 120)
    ):
        with help_context(name, width) as context:
            context.meta[EVERYTHING] = True
            page = context.get_help()
        assert not re.search(r"\w-$", page, re.MULTILINE), (name, width)
        assert "--dist-ckpt-strictness" in page, (name, width)
        assert option in page, (name, width)


def test_a_short_start(run: Run) -> None:
    result = run()
    assert result.returncode == 2
    lines = result.stdout.splitlines()
    assert len(lines) <= 8
    assert "ckptmigrate --help" in lines[-1]
    for line in lines[1:-1]:
        verb = line.split()[1]
        assert verb in ALL
