"""Short runs of the fuzzer (`make fuzz` is the long one), and cases that it found."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SAMPLES
from fuzz import large, mutations, oracle

TESTS = Path(__file__).parent
CORPUS = sorted(path for path in (TESTS / "fuzz" / "corpus").iterdir() if path.suffix != ".md")
SEED = 20


@pytest.mark.costly("Python's own pickle judges hundreds of mutations")
@pytest.mark.parametrize(
    ("kind", "count", "verbs_every"),
    [
        ("metadata", 300, 12),
        ("common", 300, 12),
        ("blob", 300, 12),
        ("large", 40, 12),
        *(
            pytest.param(kind, count, 48, marks=pytest.mark.full)
            for kind, count in {"metadata": 500, "common": 1500, "blob": 1500, "large": 160}.items()
        ),
    ],
)
def test_a_short_run(
    tmp_path: Path,
    kind: str,
    count: int,
    verbs_every: int,
    record_property: Callable[[str, object], None],
) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "fuzz", "--kind", kind, "--count", str(count),
            "--seed", str(SEED), "--processes", "1", "--verbs-every", str(verbs_every),
            "--failures", tmp_path / "failures",
        ],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    [line] = done.stdout.splitlines()
    found = re.fullmatch(
        rf"{kind}: (\d+) mutations \(seed {SEED}\) in .*, (\d+) accepted and right, "
        r"(\d+) through a verb, at most \d+ MB, 0 failures",
        line,
    )
    assert found, line
    judged, accepted, through = map(int, found.groups())
    assert judged == count
    assert judged / 20 < accepted < judged / 2  # neither everything nor nothing is refused
    assert through > 0 or kind == "large"  # verbs read these as they read "metadata"
    record_property("safety", line)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_a_case_that_it_found(path: Path) -> None:
    kind = path.name.partition("-")[0]
    if kind == "large":
        large.judge(path.read_bytes())
    else:
        oracle.judge(kind, path.read_bytes())


# -- the judge itself can tell right from wrong


def test_samples_are_accepted() -> None:
    path = SAMPLES / "0.17.1-idle-w1" / "iter_0000005"
    assert oracle.judge("metadata", (path / ".metadata").read_bytes())
    assert oracle.judge("common", (path / "common.pt").read_bytes())
    assert not oracle.judge("metadata", b"junk")


def test_the_judge_sees_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    data = (SAMPLES / "0.17.1-idle-w1" / "iter_0000005" / ".metadata").read_bytes()
    other = (SAMPLES / "0.17.1-fault-w1" / "iter_0000005" / ".metadata").read_bytes()
    monkeypatch.setattr(oracle.metadata.Metadata, "dump", lambda self: other)
    with pytest.raises(oracle.Wrong, match="something else"):
        oracle.judge("metadata", data)


def test_the_judge_sees_a_wrong_view(monkeypatch: pytest.MonkeyPatch) -> None:
    data = (SAMPLES / "0.17.1-idle-w1" / "iter_0000005" / ".metadata").read_bytes()
    monkeypatch.setattr(oracle.metadata.Metadata, "chunks", ())
    with pytest.raises(oracle.Wrong, match="byte ranges"):
        oracle.judge("metadata", data)


def test_an_archive_can_be_taken_apart_and_put_together() -> None:
    data = (SAMPLES / "0.17.1-idle-w1" / "iter_0000005" / "common.pt").read_bytes()
    members = mutations.Archive(data).members
    assert mutations.Archive(mutations.zipped(members)).members == members
    assert oracle.judge("common", mutations.zipped(members))
