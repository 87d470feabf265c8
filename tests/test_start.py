"""What a start imports: what is used, a name of the library or a verb, and nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import click
import pytest
from conftest import SAMPLES

import ckptmigrate
from ckptmigrate.cli import cli

SAMPLE = SAMPLES / "0.17.1-idle-w1"
COMMANDS = {
    "--version": [],
    "inspect": [SAMPLE],
    "check": [SAMPLE],
    "downgrade": [SAMPLE, "--to", "0.13", "--dry-run"],
    "verify": [SAMPLE],
}
# For a large file, several PATHs, a report, a URL, a bar; for other verbs.
OTHERWISE = (
    "ckptmigrate.storage.store",
    "ckptmigrate.batch.drive",
    "ckptmigrate.batch.tasks",
    "ckptmigrate.checkpoint.large.view",
    "ckptmigrate.cli.batches",
    "ckptmigrate.verbs.explain",
    "ckptmigrate.library",
    "ckptmigrate.compat",
    "ckptmigrate.measuring",
    "ckptmigrate.writing.store_medium",
    "ckptmigrate.writing.store_publisher",
    "ckptmigrate.verbs.repair",
    "ckptmigrate.report.html",
    "ckptmigrate.report.markdown",
    "ckptmigrate.report.output_file",
    "ckptmigrate.report.sections",
    "distributed",
    "fsspec",
    "numpy",
    "rich",
    "importlib.resources",
    "ruamel",
    "torch",
    "zipfile",
)
PLANS = ("ckptmigrate.verbs.migrate", "ckptmigrate.planning.planner")
CONVERSIONS = ("ckptmigrate.planning", "ckptmigrate.releases.prediction")
CHECKS = ("ckptmigrate.checks.verification", "ckptmigrate.checks.tiling")
NEEDLESS = {
    "--version": (*OTHERWISE, *PLANS, *CHECKS, "ckptmigrate.checkpoint", "ckptmigrate.releases"),
    "inspect": (*OTHERWISE, *PLANS, *CONVERSIONS, *CHECKS),
    "check": (*OTHERWISE, *PLANS, *CHECKS),
    "downgrade": (*OTHERWISE, *CHECKS),
    "verify": (*OTHERWISE, *PLANS, *CONVERSIONS),
}


def imported(code: str, *arguments: object) -> set[str]:
    """The modules that code in a process of its own ends with."""
    code += "\nimport sys; print(*sys.modules, file=sys.stderr)"
    told = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(told.stderr.split())


def of_command(*words: object) -> set[str]:
    code = """
import contextlib, sys
from ckptmigrate.cli import cli
with contextlib.suppress(SystemExit):  # the answer of check is no, for some releases
    cli.main(sys.argv[1:], standalone_mode=False)
"""
    return imported(code, *words)


# -- the command line


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_verb_imports_nothing_that_it_does_not_use(verb: str) -> None:
    found = of_command(verb, *COMMANDS[verb])
    assert "click" in found
    assert not [each for each in found for of in NEEDLESS[verb] if f"{each}.".startswith(f"{of}.")]
    # Of the modules of verbs, only its own.
    own = {cli.modules[verb]} if verb in cli.modules else set()
    assert found & set(cli.modules.values()) == own


def test_every_verb_is_found_by_its_name() -> None:
    found = dict(cli.verbs(click.Context(cli)))
    assert list(found) == list(cli.modules)
    for name, verb in found.items():
        assert verb.name == name
        assert cli.modules[name].startswith("ckptmigrate.cli.")
    assert cli.get_command(click.Context(cli), "nothing") is None


# -- the library


def test_the_package_alone_imports_nothing_of_itself() -> None:
    ours = {name for name in imported("import ckptmigrate") if name.startswith("ckptmigrate")}
    assert ours == {"ckptmigrate", "ckptmigrate.version"}


def test_what_is_imported_late_is_what_a_type_checker_sees() -> None:
    tree = ast.parse(Path(ckptmigrate.__file__).read_text(encoding="utf-8"))
    [block] = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == ckptmigrate._MODULES
    assert sorted([*seen, "__version__"]) == sorted(ckptmigrate.__all__)


def test_every_name_can_be_the_first_that_is_asked_for() -> None:
    """No circle of imports needs somebody to have begun elsewhere."""
    code = """
import sys
for name in sys.argv[1:]:
    for module in [m for m in sys.modules if m.partition(".")[0] == "ckptmigrate"]:
        del sys.modules[module]
    import ckptmigrate
    assert name in dir(ckptmigrate)
    value = getattr(ckptmigrate, name)
    assert value is vars(sys.modules[ckptmigrate._MODULES[name]])[name]
    assert vars(ckptmigrate)[name] is value  # the next time it is at hand
"""
    imported(code, *(name for name in ckptmigrate.__all__ if name != "__version__"))


def test_any_other_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="module 'ckptmigrate' has no attribute 'inspekt'"):
        ckptmigrate.inspekt  # type: ignore[attr-defined]  # noqa: B018
