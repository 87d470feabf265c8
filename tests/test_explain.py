"""`explain`: a word of any table, from the data that the other verbs go by."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import INDEX, LAYOUTS, Run, refused

from ckptmigrate.checks.codes import CODES
from ckptmigrate.logs.recognition import kinds
from ckptmigrate.planning.losses import LOSSES
from ckptmigrate.verbs import explain
from ckptmigrate.versions import UNIVERSAL

KEYS = {"word", "kind", "what", "since", "why", "source", "remedy"}
OF_ERRORS = {"sure", "causes", "releases", "notes", "log"}
RELEASES = sorted({row["release"] for row in INDEX.values()})
WORDS = {
    "finding": list(CODES),
    "layout": list(LAYOUTS),
    "release": RELEASES,
    "loss": list(LOSSES),
    "target": [UNIVERSAL],
    "failure": [kind.error for kind in kinds()],
}


@pytest.mark.parametrize("kind", WORDS)
def test_every_word_has_every_part(kind: str) -> None:
    for word in WORDS[kind]:
        [found] = [each for each in explain.explain(word) if each.kind == kind]
        assert found.word == word
        keys = KEYS | (OF_ERRORS if kind == "failure" else set())
        assert set(found.as_json()) == keys, word
        assert found.what, word
        assert found.since, word
        assert found.source, word
        assert all(found.source), word
        assert found.remedy, word
        assert found.why or kind == "finding", word  # its meaning says what follows


def test_alone_it_lists_them_all(run: Run) -> None:
    shown = json.loads(run("explain", "--json").stdout)
    assert set(shown) == set(WORDS)
    for kind, words in WORDS.items():
        assert set(words) <= set(shown[kind])
    text = run("explain").stdout
    assert all(word in text for words in shown.values() for word in words)


def test_a_release_says_whose_checkpoints_it_reads(run: Run) -> None:
    """Held against the samples' own measurements (raw_matrix.json by way of the matrix)."""
    text = run("explain", "0.11").stdout
    assert text.startswith("0.11.0: ")
    assert "resumes from unmigrated idle checkpoints of 0.10.0, 0.11.0\n" in text
    assert "not from 0.9.0, 0.14.0, 0.16.1, 0.17.1: the release requests" in text
    [shown] = json.loads(run("explain", "0.17", "--json").stdout)
    assert shown["word"] == "0.17.1"
    assert shown["kind"] == "release"


@pytest.mark.parametrize(
    ("word", "verb", "other"),
    [
        ("common-state", "upgrade", "downgrade"),
        ("0.20", "upgrade", "downgrade"),
        ("pre-rerun", "downgrade", "upgrade"),
    ],
)
def test_nothing_is_newer_than_the_newest(word: str, verb: str, other: str) -> None:
    [found] = explain.explain(word)
    assert f"`ckptmigrate {verb} PATH --to " in found.remedy[0]
    assert other not in found.remedy[0]


def test_no_error_is_told_with_a_place_left_open() -> None:
    for words in explain.words().values():
        for word in words:
            for found in explain.explain(word):
                assert "{path}" not in " ".join(found.why)


def test_a_failure_of_no_cell_says_so() -> None:
    [found] = explain.explain("other-optimizer-shape")
    assert found.since == "<0.11; not in the matrix"


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (
            "Missing key in checkpoint state_dict: rerun_state_machine_state/shard_0_1.",
            "no-rerun-shards",
        ),
        ("AttributeError: 'str' object has no attribute 'iterdir'", "no-common-state"),
        ("Unsupported global: GLOBAL signal.Signals was not an allowed", "not-allowed-symbol"),
        ("NotImplementedError: Unknown sharding_type: dp_reshardable", "unknown-sharding-type"),
    ],
)
def test_the_text_of_an_error(run: Run, error: str, failure: str) -> None:
    result = run("explain", error)
    assert result.returncode == 0
    assert result.stdout.startswith(f"{failure}: ")
    assert "run `ckptmigrate check PATH`; with --reader RELEASE it prints the fix" in result.stdout


@pytest.mark.parametrize(
    ("words", "failures"),
    [
        ("Missing keys ...", ["strict-rerun-shards"]),
        ("common.pt does not ex", ["no-common-state"]),
        ("raise_all", ["strict-rerun-shards"]),
        ("AttnBackend", ["missing-global"]),
        ("ShardedObject", ["job-shards-incomplete"]),
    ],
)
def test_what_somebody_remembers_of_an_error(words: str, failures: list[str]) -> None:
    assert [each.word for each in explain.explain(words)] == failures


def test_a_part_of_many_errors_lists_them(run: Run) -> None:
    text = run("explain", "Missing key ...").stdout
    first, *rows = text.splitlines()
    assert (
        first
        == f"{len(rows)} known errors contain this text: name one of them, or pass the whole line"
    )
    assert {"no-rerun-shards", "no-extra-state"} <= {row.split()[0] for row in rows}


def test_an_error_line_is_no_part_of_an_error(run: Run) -> None:
    """What is not known is not explained by what it looks like."""
    for line in (
        "RuntimeError: Missing key",
        "KeyError: 'rec",
        "ValueError: Key",
        "AttributeError",
    ):
        refused(run("explain", line), "is not a topic")


def test_a_file_is_read_from_standard_input(run: Run, tmp_path: Path) -> None:
    (tmp_path / "job.log").write_text("KeyError: 'recipe'")
    refused(run("explain", tmp_path / "job.log"), f"`ckptmigrate explain - < {tmp_path}/job.log`")


def test_the_universal_target(run: Run) -> None:
    text = run("explain", "universal").stdout
    assert text.startswith("universal: a target of --to")
    assert "`ckptmigrate downgrade PATH --to universal`" in text


def test_what_the_program_suggests_is_explained(run: Run) -> None:
    [suggested] = re.findall(r"ckptmigrate explain '([^']+)'", run().stdout)
    assert run("explain", suggested).returncode == 0


def test_a_part_that_every_error_may_have_explains_nothing(run: Run) -> None:
    for part in ("error", "key", "...", ""):
        refused(run("explain", part), "is not a topic", "`ckptmigrate explain`")


RECIPES = Path(__file__).parent.parent / "docs" / "recipes.md"
TITLES = [
    error
    for title in re.findall(r"^## (.*)", RECIPES.read_text(encoding="utf-8"), re.MULTILINE)
    for error in re.findall(r"`(.*)`", title)
]


def test_the_error_of_every_recipe_as_it_stands_in_a_log() -> None:
    assert len(TITLES) > 10
    for error in TITLES:
        [found] = explain.explain(f"2026-01-01 12:00:01 [rank0]: {error}\nand so on")
        assert found.kind == "failure", error
        assert found.why, error


def test_a_line_of_a_log_is_no_release(run: Run) -> None:
    refused(run("explain", "12:00:01 something else"), "is not a topic", "`ckptmigrate explain`")


def test_what_follows_is_told_by_scenario(run: Run) -> None:
    """Held against what real releases made of it: measured cells of the matrix."""
    text = run("explain", "no-common-state").stdout
    told = re.findall(r"outcome: the job (.*) \(([\w, ]+)\)", text)
    after = {meaning: set(of.split(", ")) for meaning, of in told}
    assert "fault" in after["resumes without the fault context"]
    assert {"idle", "disabled", "optimizer"} <= after["resumes with everything in the checkpoint"]


def test_an_unknown_word_names_the_nearest(run: Run) -> None:
    refused(run("explain", "rerun-shard-missing"), "`ckptmigrate explain rerun-shards-missing`")
    refused(run("explain", "0.x"), "0.x")
    assert "\x1b" not in run("explain", "\x1b[2J").stderr
