"""The matrix: complete, in step with what is shipped, true to what was measured, and readable."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import golden
import pytest
from click.testing import CliRunner
from conftest import CLI, MAIN, SAMPLES, Run, refused
from real_releases import READERS, run_jobs

from ckptmigrate.cli import cli
from ckptmigrate.compat import compilation, text_tables
from ckptmigrate.compat.cells import Cell, Matrix, grade, matrix
from ckptmigrate.measuring import jobs, package_index, yaml_edit

ROOT = Path(__file__).parent.parent
FACTS = ROOT / "compat_matrix.yaml"
RELEASES = (
    *("0.9.0", "0.10.0", "0.11.0", "0.12.3", "0.13.1", "0.14.0", "0.15.3", "0.16.1"),
    *("0.17.1", "0.18.2", "0.19.0", "0.20.dev0"),
)
WHEELS = RELEASES[:8]
LASTING = RELEASES[5:]
TRAINING: list[dict[str, Any]] = json.loads((SAMPLES / "raw_matrix.json").read_text())
OPTIMIZERS: list[dict[str, Any]] = json.loads(
    (SAMPLES.parent / "optimizer" / "raw_matrix.json").read_text()
)


@pytest.fixture(scope="module")
def found() -> Matrix:
    return matrix()


# -- the file and what is shipped of it


def test_what_is_shipped_is_in_step_with_the_file() -> None:
    for name, text in compilation.package_data(FACTS.read_text()).items():
        shipped = (ROOT / "ckptmigrate" / name).read_text()
        assert shipped == text, "run `make facts`"


def test_an_ordinary_verb_pays_for_neither_yaml_nor_matrix() -> None:
    root = SAMPLES / "0.17.1-idle-w1"
    verbs = [["inspect"], ["check"], ["downgrade", "--to", "0.11.0", "--dry-run"]]
    script = (
        "import json, sys, ckptmigrate.cli as c\n"
        "opened = []\n"
        "sys.addaudithook(lambda e, a: opened.append(str(a[0])) if e == 'open' else None)\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    try: c.cli.main([*words, sys.argv[2]], standalone_mode=False)\n"
        "    except SystemExit: pass\n"
        "assert any('releases.json' in name for name in opened)\n"
        "assert not any('matrix' in name and '.py' not in name for name in opened), opened\n"
        "assert not {'ruamel', 'yaml', 'torch'} & {m.partition('.')[0] for m in sys.modules}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(verbs), str(root)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.count(f"{root}") >= 3


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("raw: missing-global", "raw: unheard-of", "'unheard-of' is not defined in this file"),
        ("migrated_known: wheel", "migrated_known: rumour", "'rumour' is not defined in this file"),
        ("    scenario: idle\n", "    scenario: idel\n", "'idel' is not defined in this file"),
        ('    like: "0.19.0"', '    like: "0.8.0"', "no group 0.8.0 to derive from"),
        ("migrated: ok", "migratde: ok", "unknown key 'migratde'"),
    ],
)
def test_a_mistake_in_a_cell_names_its_line(old: str, new: str, word: str) -> None:
    text = FACTS.read_text()
    head, section, cells = text.partition("\nmatrix:\n")
    assert old in cells
    with pytest.raises(compilation.CompatError, match=r"line \d+") as error:
        compilation.parse(head + section + cells.replace(old, new, 1))
    assert word in str(error.value)
    line = int(str(error.value).partition("line ")[2].partition(":")[0])
    near = (head + section + cells[: cells.index(old)]).count("\n") + 1
    assert abs(line - near) <= 4


# -- what the cells say


def test_every_writer_reader_and_scenario_has_a_cell(found: Matrix) -> None:
    assert found.readers == RELEASES
    for scenario in ("idle", "disabled", "fault", "optimizer"):
        writers = RELEASES[0 if scenario in ("idle", "optimizer") else 1 :]  # 0.9 has no reruns
        assert found.writers(scenario) == writers, scenario
        for writer in writers:
            for reader in RELEASES:
                assert (writer, reader, scenario) in found.cells


def test_every_idle_and_disabled_cell_is_ok_after_one_command(found: Matrix) -> None:
    cells = [c for c in found.cells.values() if c.scenario in ("idle", "disabled")]
    assert len(cells) == 12 * 12 + 11 * 12
    assert [c for c in cells if c.migrated != "ok"] == []


def test_fault_contexts_are_kept_where_they_mean_something(found: Matrix) -> None:
    for cell in found.cells.values():
        if cell.scenario == "fault":
            same = cell.writer == cell.reader
            kept = same or {cell.writer, cell.reader} <= set(LASTING)
            assert cell.migrated == ("ok" if kept else "ok-no-fault"), cell


def test_every_optimizer_resumes_after_one_command(found: Matrix) -> None:
    cells = [c for c in found.cells.values() if c.scenario == "optimizer"]
    assert len(cells) == 12 * 12
    for cell in cells:
        assert cell.migrated == "ok", cell
        assert (grade(cell.raw) == "fails") == ("--optimizer convert" in cell.command), cell
    assert sum(grade(cell.raw) != "fails" for cell in cells) == 52


def test_cells_are_as_training_measured_them(found: Matrix) -> None:
    """Every row of raw_matrix.json, against the cell of its writer and scenario."""
    for row in (*TRAINING, *OPTIMIZERS):
        writer, scenario, _ = row["sample"].split("-")
        cell = found.cells[writer, row["reader"], scenario.replace("optim", "optimizer")]
        resumes = row.get("optimizer_equal", row["stage"] == "ok")
        assert (grade(cell.raw) != "fails") == resumes, row
        assert f"measured with {row['reader']} under torch {row['reader_torch']}" in cell.raw_known
        if resumes:
            assert cell.error == ""
            if scenario == "fault":
                kept = cell.raw in ("ok", "ok-stale-fault")
                assert kept == row["fault_context_kept"]
        elif scenario != "optim":  # the beginning of some of those errors is cut off
            # The real error, but for names of folders and the length.
            words = re.sub(r"\S*/|\S*-w1\S*", "", " ".join(row["error"].split()))[:50]
            told = re.sub(r"\S*/|\S*-w1\S*|CHECKPOINT", "", cell.error)
            assert words[:40] in told or "Common file" in cell.error, (row, cell)


def test_every_cell_that_a_wheel_can_measure_is_measured(found: Matrix) -> None:
    alike = {(row.writer, row.scenario) for row in found.alike}
    derived = Counter[str]()
    for cell in found.cells.values():
        if (cell.writer, cell.scenario) in alike:
            assert cell.raw_known.startswith("derived from ")
            continue
        if cell.reader in WHEELS:
            assert cell.raw_known.startswith("measured with "), cell
            if cell.scenario != "optimizer" or cell.writer not in ("0.18.2", "0.20.dev0"):
                assert cell.migrated_known.startswith("measured with "), cell
        for known in (cell.raw_known, cell.migrated_known):
            derived[known.partition(" ")[0]] += 1
    assert derived["measured"] > 450


def test_pairs_of_the_issue(found: Matrix) -> None:
    """The figures that the project starts from: 58 of 144 pairs do not resume."""
    idle = [c for c in found.cells.values() if c.scenario == "idle"]
    assert len(idle) == 144
    assert sum(grade(c.raw) == "fails" for c in idle) == 58


# -- writing cells


@pytest.mark.costly("reads and writes the file with its comments, some times")
def test_an_update_keeps_every_other_line() -> None:
    text = FACTS.read_text()
    _, found = compilation.parse(text)
    assert yaml_edit.updated(text, found.matrix) == text
    group = found.matrix[0]
    one, *others = group.cells
    changed = type(group)(
        group.writer,
        group.scenario,
        group.checkpoints,
        (type(one)(**{**vars(one), "raw": "missing-global", "error": 'said "no": \\ #'}), *others),
    )
    # Comments below the last group of a scenario are of the next one.
    last = [g for g in found.matrix if g.scenario == group.scenario][-1]
    every = [type(last)(**{**vars(last), "cells": last.cells[::-1]}), changed]
    assert yaml_edit.updated(text, every).count("  # -- ") == text.count("  # -- ") > 2
    new = yaml_edit.updated(text, [changed])
    old_lines, new_lines = text.splitlines(), new.splitlines()
    assert len(old_lines) == len(new_lines)
    assert sum(a != b for a, b in zip(old_lines, new_lines, strict=True)) == 1
    assert new.count("#") == text.count("#") + 1
    assert compilation.parse(new)[1].matrix[0] == changed


# -- the verb


@pytest.mark.costly("one process of a release, as the verb starts it")
def test_a_change_of_outcome_is_an_error_that_prints_the_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured with a real release: the cell as it is, and one that somebody made up."""
    text = FACTS.read_text()
    facts = tmp_path / "facts.yaml"
    facts.write_text(text)
    options = ("matrix", "run", "--readers", READERS, "--samples", SAMPLES, "--facts", facts)
    which = ("--writer", "0.17.1", "--scenario", "fault", "--reader", "0.14.0")
    words = [*map(str, (*options, *which))]
    with monkeypatch.context() as patch:  # the jobs in forks of a process that has the release
        patch.setattr(jobs, "run", lambda release, _, wanted, program: run_jobs(release, wanted))
        good = CliRunner().invoke(cli, words)
    assert good.exit_code == 0, good.output
    assert good.output.startswith("12 cells of 1 groups measured, no difference")
    head, group, tail = text.partition('  - writer: "0.17.1"\n    scenario: fault\n')
    line = next(line for line in tail.splitlines() if '{reader: "0.14.0"' in line)
    made_up = line.replace("raw: not-allowed-symbol", "raw: no-common-state")
    assert made_up != line
    facts.write_text(head + group + tail.replace(line, made_up, 1))
    bad = CLI.run(words, main=MAIN, timeout=600)
    assert bad.returncode == 1
    assert (
        "0.17.1 -> 0.14.0, fault: raw was 'no-common-state' and is 'not-allowed-symbol'"
        in bad.stdout
    )


@pytest.mark.parametrize("width", [200, 80, 60, 40])
def test_the_table_fits(width: int, tmp_path: Path) -> None:
    shown = golden.run(["matrix"], tmp_path, width).splitlines()
    title = " ".join(shown[: 1 if width >= 60 else 2]).split()
    assert title == [
        "idle:",
        "86",
        "of",
        "144",
        "combinations",
        "resume",
        "unmigrated,",
        "144",
        "migrated",
    ]
    table = [line for line in shown if re.match(r"[\d.]+\S* .*[✓✗~]", line)]
    assert all(len(line) <= width for line in shown)
    if width >= 60:
        assert len(table) == 12 + 11 + 11 + 12
        assert all(len(line) <= width for line in table)
        [row] = [line for line in table if line.startswith("0.17.1")][:1]
        assert row.split()[1:] == ["✗✓"] * 3 + ["✓✓"] * 2 + ["✗✓"] * 2 + ["✓✓"] * 5


def test_one_cell(run: Run) -> None:
    shown = run("matrix", "--writer", "0.17", "--reader", "0.11", "--scenario", "idle").stdout
    assert "Missing key in checkpoint state_dict: rerun_state_machine_state/shard_0.0_1.1" in shown
    assert "measured with 0.11.0 under torch 2.5.1" in shown
    assert "ckptmigrate downgrade PATH --to 0.11.0" in shown
    told = json.loads(
        run("matrix", "--writer", "0.17", "--reader", "0.11", "--scenario", "idle", "--json").stdout
    )
    assert [cell["raw"] for cell in told] == ["no-rerun-shards"]
    refused(run("matrix", "--writer", "0.7", "--reader", "0.11"), "no writer '0.7'")
    none = run("matrix", "--writer", "0.9", "--reader", "0.11", "--scenario", "fault")
    refused(none, "no checkpoint of the scenario 'fault'", "matrix --writer 0.9 --reader 0.11`")
    refused(run("matrix", "--scenario", "zarr"), "no scenario 'zarr'")
    read = run("matrix", "--reader", "0.11", "--scenario", "idle").stdout.splitlines()
    assert [line.split()[2] for line in read[:-1]] == ["0.11.0"] * 12
    written = json.loads(run("matrix", "--writer", "0.17", "--json").stdout)
    assert {cell["writer"] for cell in written} == {"0.17.1"}


def test_no_colour_when_piped(run: Run) -> None:
    assert "\x1b" not in run("matrix").stdout


def test_the_tables_of_the_page_are_fresh(found: Matrix, run: Run) -> None:
    text = (ROOT / "docs" / "matrix.md").read_text()
    assert text.count("<!-- matrix: ") == 1
    assert text_tables.into(text, found) == text, "run `make facts`"
    stale = text.replace("✗✓", "✓✓")
    assert stale != text
    assert text_tables.into(stale, found) == text
    assert run("matrix", "--markdown").stdout.startswith("**idle**: reruns enabled, no fault.")


def test_commands_of_cells(found: Matrix) -> None:
    """Hand-written: the direction, the release, the loss."""

    def command(writer: str, reader: str, scenario: str) -> str:
        cell: Cell = found.cells[writer, reader, scenario]
        return cell.command

    assert command("0.17.1", "0.17.1", "idle") == ""
    assert command("0.19.0", "0.18.2", "idle") == "ckptmigrate downgrade PATH --to 0.18.2"
    assert command("0.12.3", "0.11.0", "idle") == "ckptmigrate downgrade PATH --to 0.11.0"
    assert command("0.10.0", "0.11.0", "fault") == (
        "ckptmigrate upgrade PATH --to 0.11.0 --allow-loss fault-context"
    )


def test_new_releases_of_the_index() -> None:
    known = ["0.9.0", "0.15.3", "0.20.dev0"]
    found = ["0.8.0", "0.9.0", "0.15.2", "0.15.3", "0.15.4", "0.20.0", "0.21.0", "0.22.0rc1"]
    assert package_index.new(found, known) == ["0.15.4", "0.20.0", "0.21.0"]
    assert package_index.new(["0.9.0", "0.15.3"], known) == []
