"""A short run of the fuzzer (`make fuzz` is the long one), and what it once found."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SAMPLES

HERE = Path(__file__).parent / "fuzz"
CORPUS = sorted(path for path in (HERE / "corpus").iterdir() if path.suffix != ".md")
COUNTS, SEED = {"metadata": 500, "common": 1500, "blob": 1500, "large": 160}, 20

sys.path[:0] = [str(HERE), str(HERE.parent / "hostile")]

import large  # noqa: E402
import mutations  # noqa: E402
import oracle  # noqa: E402


@pytest.mark.parametrize("kind", COUNTS)
def test_a_short_run(
    tmp_path: Path, kind: str, record_property: Callable[[str, object], None]
) -> None:
    done = subprocess.run(
        [
            sys.executable, HERE, "--kind", kind, "--count", str(COUNTS[kind]), "--seed", str(SEED),
            "--processes", "1", "--failures", tmp_path / "failures",
        ],
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
    assert judged == COUNTS[kind]
    assert judged / 20 < accepted < judged / 2  # neither everything nor nothing is refused
    assert through > 0 or kind == "large"  # of these no verb knows more than of "metadata"
    record_property("safety", line)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_it_found_stays_fixed(path: Path) -> None:
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
