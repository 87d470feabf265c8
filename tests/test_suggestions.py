"""Every command that a message suggests is run on a copy, and what it leads to is looked at.

A suggestion that promises a result exits with 0, or is refused with a suggestion of its own that
does; the verb that made it then finds no more wrong with the result than before.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_verify
from conftest import CLI, MAIN, NAMES, SAMPLES

CASES = Path(__file__).parent / "cases"
HERE = "{}"  # stands for PATH where that is not the first argument
LOGGED = (
    "RuntimeError: Missing key in checkpoint state_dict: rerun_state_machine_state/shard_0.0_1.1.",
    "TypeError: 'NoneType' object is not subscriptable",
    "ModuleNotFoundError: No module named 'numpy._core'",
)
VERBS = (
    *(("explain", line, "--checkpoint", HERE) for line in LOGGED),
    ("diff", HERE, HERE),
    *(("inspect",), ("check",), ("verify",), ("undo",), ("recover",), ("repair",)),
    *(("check", "--reader", release) for release in ("0.9", "0.11", "0.13", "0.16", "0.19")),
    *(("downgrade", "--to", "pre-rerun", "--in-place"), ("repair", "--in-place")),
    *((verb, "--to", to) for verb in ("upgrade", "downgrade") for to in ("0.11", "0.19")),
    *(("migrate", "--to", to) for to in ("0.13", "split-rerun")),
)
# They change nothing, and exit with 1 where they find something.
LOOKS = frozenset({"inspect", "check", "verify", "diff", "explain"})
_QUOTED = re.compile(r"`(ckptmigrate [^`]+)`|^\s*(?:fix|undo): (ckptmigrate .+)$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b")
_DAMAGED = {f"damage:{code}": row for code, row in test_verify.DAMAGE.items()}
SUBJECTS = (*NAMES, *(f"case:{path.name}" for path in CASES.iterdir() if path.is_dir()), *_DAMAGED)
# A whole one, a corrupt one, and what is damaged.
SOME = {
    *("0.17.1-corrupt-tp2", "0.19.0-idle-tp2"),
    *("damage:tracker-dangling", "damage:rerun-not-resumable"),
}


def made(subject: str, place: Path) -> Path:
    """A copy of a sample or case, or one that is damaged."""
    kind, _, name = subject.rpartition(":")
    if kind == "damage":
        sample, damage, *_ = _DAMAGED[subject]
        root = Path(shutil.copytree(SAMPLES / sample, place))
        damage(root)
        return root
    source = CASES / name / "run" if kind else SAMPLES / name
    return Path(shutil.copytree(source, place))


class Place:
    """Where a subject lies, as often anew as there are suggestions to try."""

    def __init__(self, subject: str, folder: Path) -> None:
        self.folder, self.kept = folder / "here", folder / "kept"
        self.folder.mkdir()
        self.root = made(subject, self.folder / "run")
        shutil.copytree(self.folder, self.kept, symlinks=True)

    def reset(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self.kept, self.folder, symlinks=True)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return CLI.run([*words], main=MAIN, cwd=self.folder, env={**os.environ})


def suggested(done: subprocess.CompletedProcess[str]) -> list[tuple[str, ...]]:
    """The commands in what a verb printed, those that have something to be filled in left out."""
    found = [one or two for one, two in _QUOTED.findall(done.stdout + done.stderr)]
    commands = [tuple(shlex.split(each)[1:]) for each in dict.fromkeys(found)]
    return [each for each in commands if not any(map(_PLACEHOLDER.fullmatch, each))]


def wrong(place: Place, words: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with the suggestions of a command."""
    place.reset()
    first = place.run(*words)
    for fix in suggested(first):
        place.reset()
        place.run(*words)
        done, chain = place.run(*fix), [fix]
        while done.returncode and fix[0] not in LOOKS and len(chain) < 5:
            further = [each for each in suggested(done) if each[0] not in LOOKS]
            if not further or further[0] in chain:
                break
            fix = further[0]
            chain.append(fix)
            done = place.run(*fix)
        told = f"{shlex.join(words)}: {' -> '.join(map(shlex.join, chain))}"
        if fix[0] in LOOKS:
            if done.returncode not in (0, 1):
                yield f"{told} is no command: {done.stderr}"
        elif asks_the_same(words, fix) and suggested(done):
            continue  # the same about another PATH, which has an answer of its own
        elif done.returncode:
            yield f"{told} fails: {done.stderr}"
        elif words[0] in ("check", "verify") and fix[0] not in ("undo", "recover"):
            yield from worse(place, words, fix, done.stdout, told)


def asks_the_same(words: tuple[str, ...], fix: tuple[str, ...]) -> bool:
    """Whether a suggestion is the same command for another PATH or iteration."""
    extra = [each for each in fix[2:] if each not in words and not each.isdigit()]
    return fix[0] == words[0] and extra in ([], ["--iteration"])


def worse(
    place: Place, words: tuple[str, ...], fix: tuple[str, ...], told: str, chain: str
) -> Iterator[str]:
    """Whether the verb that suggested a command still refuses what it leads to, step by step."""
    for _ in range(3):
        result = re.search(r"^Wrote (\S+) ", told, re.MULTILINE)
        after = place.run(words[0], result[1] if result else fix[1], *words[2:])
        further = [each for each in suggested(after) if each[0] not in LOOKS]
        if not after.returncode or "run the job with" in told + after.stdout:
            return
        if not further:
            break
        fix = further[0]
        chain = f"{chain} -> {shlex.join(fix)}"
        told = place.run(*fix).stdout
    yield f"{chain} leads to what {words[0]} refuses: {after.stdout}{after.stderr}"


@pytest.mark.costly("a command for each suggestion of each verb")
@pytest.mark.parametrize(
    "subject",
    [pytest.param(each, marks=() if each in SOME else pytest.mark.full) for each in SUBJECTS],
)
def test_every_suggestion_works(subject: str, tmp_path: Path) -> None:
    place = Place(subject, tmp_path)
    root = str(place.root)
    asked = [
        tuple(root if word == HERE else word for word in (verb, *rest))
        if HERE in rest
        else (verb, root, *rest)
        for verb, *rest in VERBS
    ]
    assert [each for words in asked for each in wrong(place, words)] == []


def test_the_sample_is_of_the_subjects() -> None:
    assert set(SUBJECTS) >= SOME


def test_json_has_the_same_fixes(tmp_path: Path) -> None:
    """What `check --json` names as its fix is what it prints."""
    place = Place("0.17.1-idle-w1", tmp_path)
    words = ("check", str(place.root), "--reader", "0.11")
    printed = suggested(place.run(*words))
    named = json.loads(place.run(*words, "--json").stdout)["fix"]["command"]
    assert printed == [tuple(shlex.split(named)[1:])]
