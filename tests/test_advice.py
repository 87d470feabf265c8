"""The command that `check` prints is run as pasted, and what it leads to is checked again."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch_side
from conftest import SAMPLES, Run, checkpoint_of, refused
from test_check import ask, with_foreign

from ckptmigrate import check, repair
from ckptmigrate.releases.job import Job

Copy = Callable[[str], Path]


def fixed(run: Run, root: Path, *asked: str) -> tuple[str, Path, str]:
    """Run the fix that `check` prints.

    Returns:
        The printed command, the root that it made, and the flags that the job then needs.
    """
    told = run("check", root, *asked)
    [command] = [line[5:] for line in told.stdout.splitlines() if line.startswith("fix: ")]
    flags = "".join(
        line.removeprefix("then: run the job with ")
        for line in told.stdout.splitlines()
        if line.startswith("then: ")
    )
    program, *words = shlex.split(command)
    assert program == "ckptmigrate"
    done = run(*words)
    assert done.returncode == 0, (command, done.stderr)
    made = done.stdout.rpartition("next: run the job with --load ")[2]
    return command, Path(shlex.split(made)[0]), flags


@pytest.mark.parametrize(
    ("sample", "asked", "verb", "options"),
    [
        ("0.17.1-idle-w1", ("0.11.0",), "downgrade", "--to 0.11.0"),
        # Both layouts are none-emitting: the release that wrote it tells the direction.
        ("0.17.1-idle-w1", ("0.14.0",), "downgrade", "--to 0.14.0"),
        ("0.9.0-idle-w1", ("0.10.0",), "upgrade", "--to 0.10.0"),
        (
            "0.12.3-idle-w1",
            ("0.14.0", "--torch", "2.5.1", "--strict"),
            "upgrade",
            "--to 0.14.0 --torch 2.5.1 --strict",
        ),
        ("0.18.2-idle-w1", ("0.18.2", "--strict"), "upgrade", "--to 0.18.2 --strict"),
        ("0.19.0-idle-tp2", ("0.13.1", "--strict"), "downgrade", "--to 0.13.1 --strict"),
        (
            "0.17.1-fault-tp2pp2",
            ("0.13.1",),
            "downgrade",
            "--to 0.13.1 --allow-loss fault-context",
        ),
        ("0.12.3-fault-dp2", ("0.10.0",), "downgrade", "--to 0.10.0 --allow-loss fault-context"),
        # It resumes, and every later resume exits.
        ("0.10.0-fault-w1", ("0.11.0",), "upgrade", "--to 0.11.0 --allow-loss fault-context"),
        ("0.12.3-fault-w1", ("0.13.1",), "upgrade", "--to 0.13.1 --allow-loss fault-context"),
        ("0.19.0-fault-w1", ("0.14.0",), "downgrade", "--to 0.14.0"),
        (
            "0.17.1-idle-dopt",
            ("0.11.0",),
            "downgrade",
            "--to 0.11.0 --allow-loss optimizer-state",
        ),
        # A job of another grid, which no release target is for.
        (
            "0.12.3-idle-w1",
            ("0.12.3", "--job-tp", "2", "--job-world", "2"),
            "upgrade",
            "--to none-emitting",
        ),
    ],
)
def test_the_fix_works_as_pasted(
    sample: str, asked: tuple[str, ...], verb: str, options: str, copy: Copy, run: Run
) -> None:
    root = copy(sample)
    command, made, flags = fixed(run, root, "--reader", *asked)
    assert command == f"ckptmigrate {verb} {root} {options}"
    needed = ["--no-load-optim"] * ("optimizer-state" in options)
    needed += ["--no-load-rng"] * ("--job-tp" in asked)  # up to 0.13
    assert flags.split() == needed
    again = run("check", made, "--reader", *asked, *flags.split())
    assert again.returncode == 0, again.stdout
    assert "fix: " not in again.stdout
    assert "warning: " not in again.stdout


def test_the_fix_of_a_foreign_class_with_blanks_in_its_path(copy: Copy, run: Run) -> None:
    root = copy("0.14.0-idle-w1")
    with_foreign(root)
    root = root.rename(root.with_name("a run; of 0.14"))
    command, made, _ = fixed(run, root, "--reader", "0.19.0")
    assert command.endswith("--to 0.19.0 --allow-loss foreign-symbols")
    assert run("check", made, "--reader", "0.19.0").returncode == 0


def test_the_fix_names_the_checkpoint_as_the_user_did(copy: Copy, run: Run) -> None:
    root = copy("0.17.1-idle-w1")
    one = checkpoint_of(root)
    for asked, named in (
        ([root], f"{root}"),
        ([root, "--iteration", 5], f"{root} --iteration 5"),
        ([one], f"{one}"),
    ):
        told = run("check", *asked, "--reader", "0.11").stdout
        assert f"fix: ckptmigrate downgrade {named} --to 0.11.0\n" in told


def test_where_no_command_helps(run: Run) -> None:
    # Through 0.10 args themselves are what a newer torch does not load: text would be no args.
    old = ("check", SAMPLES / "0.10.0-idle-w1", "--reader", "0.10.0", "--torch", "2.13.0")
    told = run(*old)
    assert "fix: run the job with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1" in told.stdout
    told = run("check", SAMPLES / "0.17.1-idle-dopt", "--reader", "0.13.1")
    assert told.returncode == 1
    assert "fix: run the job with --no-load-optim" in told.stdout


@pytest.mark.parametrize(
    ("sample", "release", "warned"),
    [
        # Through 0.13 a context means something to the very minor release that wrote it.
        ("0.10.0-fault-w1", "0.10.0", False),
        ("0.10.0-fault-w1", "0.11.0", True),
        ("0.12.3-fault-w1", "0.12.0", False),
        ("0.12.3-fault-w1", "0.13.1", True),
        ("0.13.1-fault-cp2", "0.12.3", True),
        ("0.13.1-fault-cp2", "0.13.0", False),
        # From 0.14 on to each of them.
        ("0.14.0-fault-w1", "0.17.1", False),
    ],
)
def test_a_context_of_another_minor_release(
    sample: str, release: str, warned: bool, copy: Copy, run: Run
) -> None:
    root = copy(sample)
    # As any of them would under the torch of its day, so that symbols are in nobody's way.
    found = ask(root, release, Job(strictness="assume_ok_unexpected"), torch="2.5.1")
    assert found.resumes
    assert [w for w in found.warnings if "by its source line" in w] == list(found.warnings)
    assert bool(found.warnings) == warned
    verb = "downgrade" if (sample, release) == ("0.13.1-fault-cp2", "0.12.3") else "upgrade"
    done = run(verb, root, "--to", release, "--torch", "2.5.1", "--dry-run")
    if warned:
        refused(done, "fault context", "--allow-loss fault-context")
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("No migration needed: ")


def test_a_corrupt_checkpoint_that_no_repair_mends_has_a_verdict(copy: Copy, run: Run) -> None:
    root = copy("0.17.1-corrupt-tp2")
    shutil.rmtree(root / "iter_0000004")
    with_foreign(root)
    told = run("check", root, "--reader", "0.17", "--json")
    assert (told.returncode, told.stderr) == (1, "")
    fix = json.loads(told.stdout)["fix"]
    assert fix["command"] is None and "cannot be repaired" in fix["reason"]


def test_a_corrupt_checkpoint_is_repaired(copy: Copy, run: Run) -> None:
    root = copy("0.17.1-corrupt-tp2")
    told = json.loads(run("check", root, "--reader", "0.17", "--json").stdout)["fix"]
    assert told["command"] is not None and told["reason"] is None
    done = run(*shlex.split(told["command"])[1:])
    assert done.returncode == 0, done.stderr
    made = root.with_name(f"{root.name}.repaired")
    assert run("check", made, "--reader", "0.17").returncode == 0
    broken = SAMPLES / "0.17.1-corrupt-tp2"
    older = json.loads(run("check", broken, "--reader", "0.11", "--json").stdout)["fix"]
    assert older["command"] is None and "ckptmigrate repair" in older["reason"]


def test_a_grid_that_its_releases_always_ask_for_is_rebuilt(copy: Copy, tmp_path: Path) -> None:
    """A plain repair refuses; that is no error of `check`, which has other releases to tell of."""
    root = copy("0.10.0-idle-tp2")
    lost = "rerun_state_machine_state/shard_0.1_1.2"
    torch_side.edit_metadata(root, lambda metadata: torch_side.drop(metadata, [lost]))
    told = {verdict.reader.release: fix for verdict, fix in check(root)}
    assert told["0.14.0"].command is None
    command = told["0.10.0"].command
    assert command is not None and command.endswith(" --rebuild-sentinel")
    repair(root, output=tmp_path / "repaired", rebuild_sentinel=True)
    assert ask(tmp_path / "repaired", "0.10.0").resumes
