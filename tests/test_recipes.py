"""Each recipe ends as it says: the release that failed on a checkpoint resumes from the result.

`test_examples.py` holds the commands and their output. Here they are run again, and real releases
(.readers/) load the checkpoint as it was before the first command that migrates it, and the one
that the recipe says they resume from. Recipes that need no migration end with what `explain`
answers.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optimizer_side
import pytest
from conftest import INDEX, SAMPLES, checkpoint_of
from examples import Page, commands, copy_samples, run
from real_releases import READERS, run_jobs, run_optimizer_jobs

from ckptmigrate.logs.recognition import recognise

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
    "its optimizer": {},
}
MIGRATES = re.compile(r"ckptmigrate (upgrade|downgrade|migrate|repair) ")
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
# test_weights_without_the_optimizer (test_optimizer_real.py) compares it with what releases raise.
MEASURED_ELSEWHERE = ("KeyError: 'optimizer'",)
OPTIMIZER_INDEX = json.loads((optimizer_side.SAMPLES / "index.json").read_text())
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


def carried_out(each: Recipe, folder: Path) -> tuple[Path, Path]:
    """Run a recipe up to what it says of a release: the checkpoint before and after."""
    copy_samples(each.text, folder)
    before = None
    for command, _ in commands(CLAIM.split(each.text)[0]):
        if MIGRATES.match(command) and before is None:
            before = Path(shutil.copytree(folder / "run", folder / "before"))
        run(command, folder)
    return checkpoint_of(before or folder / "run"), checkpoint_of(folder / each.result)


@named(WITH_A_WHEEL)
def test_the_release_resumes_from_the_result_alone(recipe: Recipe, tmp_path: Path) -> None:
    before, after = carried_out(recipe, tmp_path)
    assert recipe.release
    if recipe.flags == "its optimizer":
        row = OPTIMIZER_INDEX[recipe.sample]
        sizes = {each: row[each] for each in ("data_parallel", "tensor_parallel", "bucket_size")}
        failed, resumed = run_optimizer_jobs(
            recipe.release, [{**sizes, "checkpoint": str(each)} for each in (before, after)]
        )
        assert all(rank["error"] for rank in failed)
        assert [(rank["error"], rank["unequal"]) for rank in resumed] == [(None, [])] * len(resumed)
        return
    names = ("tensor_parallel", "pipeline_parallel", "context_parallel", "data_parallel")
    job = {**{name: INDEX[recipe.sample][name] for name in names}, **FLAGS[recipe.flags]}
    failed, resumed = run_jobs(
        recipe.release,
        [{**job, "checkpoint": str(before)}, {**job, "checkpoint": str(after)}],
    )
    assert [(rank["stage"], rank["error"]) for rank in resumed] == [("done", None)] * len(resumed)
    assert {rank["iteration"] for rank in resumed} == {5}
    if recipe.error not in IN_THE_CODE:
        assert any(rank["error"] for rank in failed)
        found = [*map(str, filter(None, RAW)), *(str(rank["error"]) for rank in failed)]
        if not any(recipe.error in error for error in found):
            # It comes after that of a symbol.
            job |= {"checkpoint": str(before), "resolve_foreign_symbols": True}
            [failed] = run_jobs(recipe.release, [job])
            found += [str(rank["error"]) for rank in failed]
        assert any(recipe.error in error for error in found), found


@named([each for each in RECIPES if each.error in IN_THE_CODE])
def test_the_code_of_the_release_has_the_words(recipe: Recipe) -> None:
    file, words = IN_THE_CODE[recipe.error]
    assert words in (READERS / file).read_text()


@named(
    [
        each
        for each in RECIPES
        if not each.release and not each.error.startswith(("(TP, PP)", *MEASURED_ELSEWHERE))
    ]
)
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
        "vocabulary-shape", "position-shape", "tensor-shape", "no-mcore-data",
        "none-not-subscriptable", "python-3.13-path", "no-model-key", "strict-extra-state",
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
