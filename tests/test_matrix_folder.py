"""`matrix run --expect`: any folder of roots, measured with real releases."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from conftest import SAMPLES, checkpoint_of, refused, tree_hash
from conftest import Run as Runner
from real_releases import READERS, run_code, run_jobs
from ruamel.yaml import YAML
from test_schemas import validator
from test_verify import hostile_blob

from ckptmigrate.cli import cli, console
from ckptmigrate.compat import cells
from ckptmigrate.errors import DestinationError, RefusedError
from ckptmigrate.measuring import expectations, jobs, load_results, matrix_cells, subjects
from ckptmigrate.measuring.expectations import RootCell
from ckptmigrate.measuring.load_results import LoadPair, LoadResult
from ckptmigrate.measuring.measure import Measurement
from ckptmigrate.measuring.training_results import TrainingResults
from ckptmigrate.releases.facts import compat

PAGE = Path(__file__).parents[1] / "docs" / "compatibility-ci.md"
# A job of a release saves a model of its own: other keys, shapes and a dtype that no sample has.
OTHER_MODEL = """
import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from training_job import __main__ as program, saving

def model():
    from megatron.core import parallel_state
    tensor = parallel_state.get_tensor_model_parallel_rank()
    vision = torch.arange(21, dtype=torch.float16).reshape(3, 7) + 100 * tensor
    return {
        "vision.patch.weight": ShardedTensor.from_rank_offsets(
            "vision.patch.weight", vision, (0, tensor, 2)
        ),
        "logit_scale": ShardedTensor.from_rank_offsets(
            "logit_scale", torch.tensor([2.5]), replica_id=tensor
        ),
    }

saving.model = model
program.main()
"""


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """The command in this process; the jobs run in forks of processes that have the releases."""
    monkeypatch.setattr(jobs, "run", lambda release, _, wanted, program: run_jobs(release, wanted))
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> Result:
        console.output.reset(color=None)
        return CliRunner().invoke(cli, ["matrix", "run", *map(str, words)])

    return call


def readers(folder: Path, *releases: str) -> Path:
    """Return a directory with these releases only."""
    folder.mkdir()
    for release in releases:
        (folder / release).symlink_to(READERS / release)
    return folder


def cell(root: str, reader: str, raw: str, migrated: str) -> dict[str, str]:
    return {"root": root, "reader": reader, "raw": raw, "migrated": migrated}


@pytest.mark.costly("two real releases save two checkpoints, and load each of them thrice")
def test_a_folder_of_another_model(tmp_path: Path, measure: Callable[..., Result]) -> None:
    """Saved by 0.14 and 0.16 here; the outcomes are written by hand."""
    wide = tmp_path / "roots" / "team" / "wide" / "iter_0000005"
    failed = tmp_path / "roots" / "saved" / "failed" / "iter_0000005"
    job = {"checkpoint": str(wide), "save": "idle", "tensor_parallel": 2}
    assert [rank["error"] for rank in run_code("0.14.0", OTHER_MODEL, [job])["ranks"]] == [None] * 2
    [ranks] = run_jobs("0.14.0", [{"checkpoint": str(failed), "save": "fault"}])
    assert [rank["error"] for rank in ranks] == [None]
    before = tree_hash(tmp_path / "roots")
    releases = readers(tmp_path / "releases", "0.11.0", "0.14.0")
    file, xml = tmp_path / "expected.json", tmp_path / "result.xml"
    options = ("--samples", tmp_path / "roots", "--readers", releases, "--expect", file)

    missing = measure(*options)
    assert missing.exit_code == 1, missing.output
    assert isinstance(missing.exception, Exception)
    assert str(missing.exception) == f"{file}: does not exist; write it with --update"

    first = measure(*options, "--update", "--json")
    assert first.exit_code == 0, first.output
    told = json.loads(first.stdout)
    validator("matrix-run").validate(told)
    assert len(told["differences"]) == 4 and told["written"] == [str(file)]
    lost = "Missing key in checkpoint state_dict: rerun_state_machine_state/shard_0.0_1.2"
    [raw_error] = [
        row["raw_error"]
        for row in told["cells"]
        if (row["root"], row["reader"]) == ("team/wide", "0.11.0")
    ]
    assert lost in raw_error
    expected = [
        cell("saved/failed", "0.11.0", "no-rerun-shards", "ok-no-fault"),
        cell("saved/failed", "0.14.0", "ok", "ok"),
        cell("team/wide", "0.11.0", "no-rerun-shards", "ok"),
        cell("team/wide", "0.14.0", "ok", "ok"),
    ]
    assert json.loads(file.read_text()) == {"schema": 1, "cells": expected}

    # One made up, one that is not there any more; the file keeps what was not measured.
    expected[3]["migrated"] = "ok-no-fault"
    gone = cell("gone", "0.14.0", "ok", "ok")
    file.write_text(json.dumps({"schema": 1, "cells": [*expected, gone]}))
    changed = measure(*options, "--reader", "0.14.0", "--junit", xml)
    assert changed.exit_code == 1
    assert changed.output.splitlines() == [
        "2 roots measured in 1 release, 2 differences",
        "~ team/wide -> 0.14.0: migrated was 'ok-no-fault' and is 'ok'",
        "~ gone -> 0.14.0: is expected and was not measured",
        f"wrote {xml}",
    ]
    [suite] = ElementTree.parse(xml).getroot()
    assert (suite.get("name"), suite.get("failures")) == ("megatron-core 0.14.0", "1")
    failures = {case.get("name"): case.findtext("failure") for case in suite}
    assert failures == {
        "saved/failed": None,
        "team/wide": "migrated was 'ok-no-fault' and is 'ok'",
    }
    again = measure(*options, "--reader", "0.14.0", "--junit", xml, "--update")
    assert again.exit_code == 0
    expected[3]["migrated"] = "ok"
    assert json.loads(file.read_text())["cells"] == expected
    assert 'failures="0"' in xml.read_text()
    assert tree_hash(tmp_path / "roots") == before


@pytest.mark.costly("a real release loads two checkpoints")
def test_the_page_shows_what_the_commands_print(
    tmp_path: Path, measure: Callable[..., Result]
) -> None:
    for name, sample in (("idle", "0.17.1-idle-w1"), ("fault", "0.17.1-fault-w1")):
        shutil.copytree(SAMPLES / sample, tmp_path / "samples" / name)
    readers(tmp_path / "releases", "0.14.0")
    text = PAGE.read_text()
    blocks = re.findall(r"```text\n\$ ckptmigrate matrix run (.*)\n([^`]*)```", text)
    assert len(blocks) == 2
    for words, output in blocks:
        shown = measure(*words.split())
        assert (shown.exit_code, shown.output) == (0, output)
    [file] = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert (tmp_path / "expected.json").read_text() == file


def test_the_workflow_of_the_page() -> None:
    """It parses, and runs the commands that the page explains."""
    text = PAGE.read_text()
    [block] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    steps = YAML(typ="safe").load(block)["jobs"]["measure"]["steps"]
    [line] = [s["run"] for s in steps if s.get("run", "").startswith("ckptmigrate")]
    assert f"$ {line}\n" in text
    install = next(step["run"] for step in steps if "--target" in step.get("run", ""))
    # In the words of the Makefile, which installs the releases of the tests.
    makefile = (PAGE.parents[1] / "Makefile").read_text()
    [options] = re.findall(r"^ANY_PYTHON := (.*)$", makefile, re.MULTILINE)
    assert options in install and text.count(options) == 2
    requirements = (Path(__file__).parent / "readers" / "requirements.txt").read_text()
    named = re.findall(r"^(\w+)[=<]", requirements, re.MULTILINE)
    assert named and all(name in install for name in named)


def test_a_checkpoint_with_an_unknown_global_is_not_loaded(
    tmp_path: Path, copy: Callable[[str], Path], run: Runner
) -> None:
    """The real release would call it; no job starts."""
    hostile_blob(copy("0.17.1-idle-w1"))
    releases = readers(tmp_path / "releases", "0.14.0")
    options = ("--readers", releases, "--expect", "e.json", "--update")
    result = run("matrix", "run", "--samples", tmp_path, *options)
    refused(result, "0.17.1-idle-w1: ", "a job that loads the checkpoint may call it", "--known")
    assert not (tmp_path / "e.json").exists()


def test_refusals(tmp_path: Path, copy: Callable[[str], Path], run: Runner) -> None:
    releases, samples = readers(tmp_path / "releases", "0.14.0"), tmp_path / "samples"
    samples.mkdir()
    words = ("matrix", "run", "--samples", samples, "--readers", releases)
    new = (*words, "--expect", tmp_path / "new.json", "--update")
    refused(run(*new), f"{samples}: contains no root, which has latest_checkpointed_iteration.txt")
    words_of_pip = f"pip install --no-deps --target {releases}/0.15.3 megatron-core==0.15.3"
    refused(run(*new, "--reader", "0.15.3"), "(it contains 0.14.0)", words_of_pip)
    empty = ("matrix", "run", "--samples", samples, "--readers", samples, "--expect", "e.json")
    result = run(*empty, "--update")
    refused(result, "contains no release", "pip install --no-deps --target", "megatron-core==")
    other = tmp_path / "other.json"
    odd = '{"schema": 1, "cells": [{"root": 1, "reader": "", "raw": "", "migrated": ""}]}'
    for text in ("{}", "[]", '{"schema": 2}', "no JSON", "[" * 9_999, odd):
        other.write_text(text)
        result = run(*words, "--expect", other, "--update")
        refused(result, f"{other}: is not a file of expected outcomes", "--expect FILE")
        assert other.read_text() == text
    result = run(*new, "--junit", other)
    refused(result, "exists, and is not a file that this command wrote", "--junit FILE")
    for usage in (("--writer", "0.17.1"), ("--scenario", "idle")):
        assert run(*new, *usage).returncode == 2
    assert run(*words, "--known", "a.b").returncode == 2


def test_a_job_of_many_ranks_is_not_started(
    copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copy("0.17.1-fault-tp2pp2")
    monkeypatch.setattr(subjects, "_MOST_RANKS", 4)
    [found] = subjects.of_folder(root.parent)
    assert dict(found.job) == {
        "tensor_parallel": 2, "pipeline_parallel": 2, "context_parallel": 1, "data_parallel": 1,
    }  # fmt: skip
    assert (found.scenario, found.optimizer, found.writers) == ("fault", False, ("0.17",))
    assert found.folder == checkpoint_of(root)
    monkeypatch.setattr(subjects, "_MOST_RANKS", 3)
    with pytest.raises(RefusedError, match="the job has 4 ranks, and more than 3 are not started"):
        subjects.of_folder(root.parent)


def test_what_is_a_difference() -> None:
    was = [RootCell("a", "0.14.0", "ok", "ok"), RootCell("b", "0.14.0", "no-plans", "ok")]
    now = [RootCell("a", "0.14.0", "ok", "ok"), RootCell("b", "0.14.0", "no-plans", "ok", "text")]

    def told(cells: Sequence[RootCell], *readers: str) -> list[str]:
        return [str(each) for each in expectations.differences(cells, was, readers)]

    assert told(now) == []  # an error message is no outcome
    assert told(now[:1]) == ["b -> 0.14.0: is expected and was not measured"]
    assert told([], "0.15.3") == []
    assert told([*now, RootCell("c", "0.14.0", "ok", "ok")]) == [
        "c -> 0.14.0: is not expected: raw ok, migrated ok"
    ]
    other = RootCell("b", "0.14.0", "ok", "KeyError", "", "KeyError: 'x'")
    assert told([now[0], other]) == [
        "b -> 0.14.0: raw was 'no-plans' and is 'ok'",
        "b -> 0.14.0: migrated was 'ok' and is 'KeyError' (KeyError: 'x')",
    ]


def test_a_checkpoint_that_needs_no_migration_is_known_as_untouched(
    tmp_path: Path, copy: Callable[[str], Path]
) -> None:
    """Releases that are not installed, so that the results are derived."""
    copy("0.17.1-idle-w1")
    every = subjects.of_folder(tmp_path)
    work = tmp_path / "work"
    installed = readers(tmp_path / "releases", "0.9.0")
    measurement = Measurement(
        cells.matrix(), compat(), installed, work, lambda _: None, TrainingResults()
    )
    with pytest.raises(DestinationError):  # a problem of this machine is no outcome
        measurement.run(every, ["0.11.0"])
    work.mkdir()
    found = measurement.run(every, ["0.18.2", "0.11.0"])
    pairs = [found[release][every[0].key] for release in ("0.18.2", "0.11.0")]
    known = [(pair.raw.result, pair.migrated.result, pair.migrated.known) for pair in pairs]
    assert known == [("ok", "ok", "untouched"), ("no-rerun-shards", "ok", "rules")]


@pytest.mark.parametrize(
    ("error", "name"),
    [
        ("KeyError: 'last'", "KeyError"),
        ("ended with -9 and told nothing (limit 120 s)", load_results.ENDED),
        ("", load_results.ENDED),
    ],
)
def test_an_unknown_failure_has_the_name_of_its_exception(error: str, name: str) -> None:
    assert load_results.exception_type(error) == name


def test_an_unknown_failure_is_no_cell_of_the_matrix(tmp_path: Path) -> None:
    """compat_matrix.yaml has to define each outcome first."""

    class Fixed:
        matrix, compat, work = cells.matrix(), compat(), tmp_path

        def run(self, every: Any, releases: Any) -> Any:
            odd = LoadResult(load_results.OTHER_TENSORS, "wheel", "other bits")
            return {r: {each.key: LoadPair(odd, odd) for each in every} for r in releases}

    [group] = matrix_cells.groups_of(Fixed.matrix, writers=["0.17.1"], scenarios=["idle"])
    with pytest.raises(Exception, match="no row of failures has: other bits"):
        matrix_cells.measured(Fixed(), [group], SAMPLES, ["0.14.0"])  # type: ignore[arg-type]
