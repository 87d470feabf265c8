"""Each recipe ends as it says: the release that died of a checkpoint resumes from the result.

`test_examples.py` holds the commands and their output. Here they are run again, and real releases
(.readers/) get the checkpoint as it was before the first command that migrates it, and the one that
the recipe says they resume from. Recipes that need no migration end with what `explain` answers.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import INDEX, SAMPLES, checkpoint_of
from examples import Page, commands, copy_samples, run
from real_releases import READERS, run_jobs

from ckptmigrate.logs.kinds import recognise

PAGE = Page("docs/recipes.md", split=True)
CLAIM = re.compile(
    r"The real megatron-core (\S+)(?: with ([^.]*?))? resumes from `([\w.-]+)`\.", re.DOTALL
)
TITLE = re.compile(r"## (?:.*: )?`(.*)`")
FLAGS: dict[str | None, dict[str, Any]] = {
    None: {},
    "`raise_all`": {"strictness": "raise_all"},
    "`--no-load-optim`": {"no_load_optim": True},
    "TP 1": {"tensor_parallel": 1},
}
MIGRATES = re.compile(r"ckptmigrate (upgrade|downgrade|repair) ")
# The readers of these run nowhere but in training: their words are in raw_matrix.json, or, for the
# optimizer, which the program of measuring/ leaves out, in the release's own code.
IN_THE_CODE = {
    "Unknown sharding_type: dp_reshardable": (
        "0.14.0/megatron/core/optimizer/distrib_optimizer.py",
        "Unknown sharding_type: {sharding_type}",
    ),
    "ShardedTensor.flattened_range is not supported.": (
        "0.16.1/megatron/core/dist_checkpointing/mapping.py",
        "ShardedTensor.flattened_range is not supported.",
    ),
}
RAW = [row["error"] for row in json.loads((SAMPLES / "raw_matrix.json").read_text())]


@dataclass(frozen=True)
class Recipe:
    """A section of the page.

    Attributes:
        text: the section.
        error: the words that the job died with, as its title has them.
        sample: the sample that it runs on.
        release: the release that it says resumes; None where there is no wheel of it.
        flags: how the job of the release runs.
        result: the root that it resumes from.
    """

    text: str
    error: str
    sample: str
    release: str | None = None
    flags: str | None = None
    result: str = ""


def recipe(text: str) -> Recipe:
    title, claim = TITLE.match(text), CLAIM.search(text)
    assert title
    [sample] = re.findall(r"`run` is `([\w.-]+)`", text)
    return Recipe(text, title[1], sample, *(claim.groups() if claim else ()))


ALL = [recipe(text) for text in PAGE.scenarios() if TITLE.match(text)]
# What needs no migration but an answer: test_explain_logs.py holds these texts against torch, the
# releases and reported logs.
ANSWERED = [each for each in ALL if "$ ckptmigrate explain -" in each.text]
RECIPES = [each for each in ALL if each not in ANSWERED]
WITH_A_WHEEL = [each for each in RECIPES if each.release]


def named(recipes: list[Recipe]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "recipe", [pytest.param(each, id=each.text.partition("\n")[0][3:60]) for each in recipes]
    )


@dataclass(frozen=True)
class Told:
    """What the ranks of a release's job say to the checkpoint before and after."""

    before: list[dict[str, Any]]
    resolved: list[dict[str, Any]]  # before, in a job that resolves foreign symbols
    after: list[dict[str, Any]]


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """Text of a recipe -> what came of it."""
    base = tmp_path_factory.getbasetemp()
    # The workers of a parallel run share what their folders lie in, and so the results.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with open(shared / "recipes.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = shared / "recipes.json"
        if not file.exists():
            file.write_text(json.dumps(run_all(shared / "recipes")))
    return {text: Told(*ranks) for text, ranks in json.loads(file.read_text()).items()}


def run_all(place: Path) -> dict[str, list[Any]]:
    """Run every recipe, then one process for each release, with all that it is to take."""
    jobs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    asked: dict[str, list[str]] = defaultdict(list)
    for number, each in enumerate(WITH_A_WHEEL):
        folder = place / str(number)
        folder.mkdir(parents=True)
        before, after = carried_out(each, folder)
        assert each.release
        job = {**sizes(each.sample), **FLAGS[each.flags]}
        jobs[each.release] += [
            {**job, "checkpoint": str(before), "resolve_foreign_symbols": False},
            {**job, "checkpoint": str(before), "resolve_foreign_symbols": True},
            {**job, "checkpoint": str(after), "resolve_foreign_symbols": False},
        ]
        asked[each.release].append(each.text)
    found: dict[str, list[Any]] = {}
    for release, texts in asked.items():
        ranks = iter(run_jobs(release, jobs[release]))
        found |= {text: [next(ranks) for _ in range(3)] for text in texts}
    return found


def sizes(sample: str) -> dict[str, int]:
    names = ("tensor_parallel", "pipeline_parallel", "context_parallel", "data_parallel")
    return {name: INDEX[sample][name] for name in names}


def carried_out(each: Recipe, folder: Path) -> tuple[Path, Path]:
    """Run a recipe up to what it says of a release: the checkpoint before and after."""
    copy_samples(each.text, folder)
    until = CLAIM.split(each.text)[0]
    before = None
    for command, _ in commands(until):
        if MIGRATES.match(command) and before is None:
            before = Path(shutil.copytree(folder / "run", folder / "before"))
        run(command, folder)
    return checkpoint_of(before or folder / "run"), checkpoint_of(folder / each.result)


@named(WITH_A_WHEEL)
def test_the_release_resumes_from_the_result(recipe: Recipe, told: dict[str, Told]) -> None:
    ranks = told[recipe.text].after
    assert [(rank["stage"], rank["error"]) for rank in ranks] == [("done", None)] * len(ranks)
    assert {rank["iteration"] for rank in ranks} == {5}


@named([each for each in WITH_A_WHEEL if each.error not in IN_THE_CODE])
def test_the_release_died_before(recipe: Recipe, told: dict[str, Told]) -> None:
    found = told[recipe.text]
    assert any(rank["error"] for rank in found.before)
    words = [str(rank["error"]) for rank in (*found.before, *found.resolved)]
    assert any(recipe.error in error for error in [*words, *filter(None, RAW)]), words


@named([each for each in RECIPES if each.error in IN_THE_CODE])
def test_the_code_of_the_release_has_the_words(recipe: Recipe) -> None:
    file, words = IN_THE_CODE[recipe.error]
    assert words in (READERS / file).read_text()


@named([each for each in RECIPES if not each.release])
def test_the_training_of_the_release_said_the_words(recipe: Recipe) -> None:
    assert any(recipe.error in error for error in filter(None, RAW))


@named(ANSWERED)
def test_the_answer_is_of_the_error_in_the_title(recipe: Recipe) -> None:
    kind = recognise(recipe.error)
    answers = [
        output for command, output in commands(recipe.text) if " explain -" in command and output
    ]
    assert kind is not None
    assert answers
    assert all(answer.startswith(f"{kind.kind.error}: ") for answer in answers)
    assert any(recipe.error in answer for answer in answers)


def test_there_is_a_recipe_for_each_error_that_people_report() -> None:
    kinds = {found.kind.error for each in ANSWERED if (found := recognise(each.error))}
    assert kinds >= {
        "no-extra-state", "no-optimizer-state", "no-common-object", "job-shards-incomplete",
        "extra-state-bytes", "extra-state-recipe", "empty-pickle", "param-group-keys",
        "numpy-2-pickle", "no-run-config", "not-distributed", "no-save-plan-class",
        "vocabulary-shape", "position-shape", "tensor-shape",
    }  # fmt: skip


@named(RECIPES)
def test_check_tells_the_error_or_verify_the_shard(recipe: Recipe) -> None:
    """Who searches with the error finds the recipe, and who runs it sees the error again."""
    outputs = "".join(output for _, output in commands(recipe.text))
    assert recipe.error in outputs or recipe.error.rpartition(": ")[2] in outputs


def test_there_is_a_recipe_for_each_error_that_was_measured() -> None:
    """In words that no path, key or sample is in."""
    for error in filter(None, RAW):
        assert any(words_of(each.error) in error for each in RECIPES), error


def words_of(error: str) -> str:
    return re.sub(r"from .*|rerun_state_machine_state/.*", "", error)
