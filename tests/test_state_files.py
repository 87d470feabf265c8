"""Locks, journals, sidecars, ledgers and integrity.json are data: what does not fit is named.

Each of these may come from a stranger. Whatever is in it, a verb ends in a result or in one
sentence that names the file and the way out, never in an internal error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, checkpoint_of, refused, tree_hash

import ckptmigrate
from ckptmigrate.batch import ledger
from ckptmigrate.checkpoint import integrity, lock_owner, sidecar
from ckptmigrate.errors import CkptMigrateError, DamagedError
from ckptmigrate.storage.directories import LocalDirectory
from ckptmigrate.writing import journal

Copy = Callable[[str], Path]

# JSON in the place of a value, as text: what no schema of ours has.
ODD = (
    "1e999", "-1e999", "NaN", "-1", "0", "true", "null", "1.5", "9" * 4000, "[]", "{}", '"x"', '""',
    '["x"]', '{"x": 1}', '"\\ud800"', '"\\u0000"', "[" * 500 + "]" * 500, '"' + "x" * 5000 + '"',
)  # fmt: skip
TEXTS = ("", "{", "\0", "\xff", "[" * 100_000, "9" * 5_000, *ODD)


def odd(good: Any) -> Iterator[str]:
    """Texts of JSON: a good one with each of its values replaced, removed, or beside another."""
    yield from TEXTS
    places = list(inside(good))
    for place in places:
        for text in ODD:
            yield replaced(good, place, text)
        yield replaced(good, place, None)


def inside(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, each in items:
        yield (*place, key)
        yield from inside(each, (*place, key))


def replaced(good: Any, place: tuple[Any, ...], text: str | None) -> str:
    whole = json.loads(json.dumps(good))
    *way, last = place
    holder = whole
    for step in way:
        holder = holder[step]
    if text is None:
        del holder[last]
        return json.dumps(whole)
    holder[last] = "@here@"
    return json.dumps(whole).replace('"@here@"', text)


OWNER = {
    "user": "me", "host": "h", "pid": 1, "since": "2030", "boot": "b", "namespace": "n", "ticks": 5,
}  # fmt: skip
HEX = "0" * 64
FILES = {"files": {"common.pt": {"before": None, "after": HEX}}}
STEP = {
    "verb": "upgrade", "source": ["pre-rerun"], "target": "split-rerun", "version": "1",
    "time": "2030", "losses": ["x"], "changes": ["y"], **FILES,
}  # fmt: skip
SIDECAR = {"format": 1, "steps": [STEP]}
INTEGRITY = {"algorithm": "sha256", "files": {"common.pt": HEX}}
LINE = {
    "format": 1, "path": "/a", "verb": "upgrade", "target": "t", "into": None, "options": {},
    "status": "done", "text": "x", "result": "/a", "tracker": "5", "link": None,
    "digests": {"/a": {"common.pt": HEX}},
}  # fmt: skip


def test_locks() -> None:
    assert lock_owner.parse(json.dumps(OWNER)) is not None
    for text in odd(OWNER):
        owner = lock_owner.parse(text)
        lock_owner.holder(owner)
        refusal = str(lock_owner.refusal(owner, Path("/a/b"), Path("/a/.b.lock")))
        assert refusal.isprintable() and len(refusal) < 3_000
        assert owner is not None or ("/a/.b.lock" in refusal and "--break-lock" in refusal)
        if owner is not None:
            assert type(owner.pid) is type(owner.ticks) is int
            assert all(isinstance(each, str) for each in (owner.user, owner.host, owner.since))


def judged(read: Callable[[], object], file: str) -> bool:
    """Whether something is read; an error names the file and the way out."""
    try:
        read()
    except DamagedError as error:
        assert str(error).startswith(file), str(error)
        assert error.fix and "`" in error.fix, str(error)
        return False
    return True


def test_journals(tmp_path: Path) -> None:
    file = tmp_path / "journal.json"
    good = json.dumps(FILES)
    assert journal.parse(good.encode(), file)
    accepted = [
        text
        for text in odd(FILES)
        if judged(
            lambda text=text: journal.parse(text.encode("utf-8", "surrogatepass"), file), str(file)
        )  # type: ignore[misc]
    ]
    assert all(json.loads(text).keys() >= FILES.keys() for text in accepted)


@pytest.mark.parametrize(
    ("name", "good", "read"),
    [
        ("ckptmigrate.json", SIDECAR, sidecar.original),
        ("integrity.json", INTEGRITY, integrity.recorded),
    ],
    ids=["sidecar", "integrity"],
)
def test_files_of_a_checkpoint(
    tmp_path: Path, name: str, good: Any, read: Callable[[LocalDirectory], object]
) -> None:
    file = tmp_path / name
    (tmp_path / "common.pt").write_bytes(b"x")
    for text in (json.dumps(good), *odd(good)):
        file.write_text(text, errors="surrogateescape")
        judged(lambda: read(LocalDirectory(tmp_path)), str(file))
    file.write_text(json.dumps(good))
    assert judged(lambda: read(LocalDirectory(tmp_path)), str(file))


def test_ledgers(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    lines = [json.dumps(LINE), *(text.replace("\n", " ") for text in odd(LINE))]
    file.write_text("\n".join(lines), errors="surrogateescape")
    with ledger.Ledger(file) as found:
        assert found.path == file


# -- through the verbs


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({**OWNER, "pid": "@"}).replace('"@"', "1e999"),
        json.dumps({**OWNER, "ticks": "@"}).replace('"@"', "1e999"),
        "not a lock",
        "{}",
    ],
)
def test_a_planted_lock_stops_nobody_else(run: Run, copy: Copy, tmp_path: Path, text: str) -> None:
    root = copy("0.17.1-idle-w1")
    os.symlink(text, tmp_path / ".planted.ckptmigrate-lock")
    done = run("downgrade", root, "--to", "pre-rerun", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    result = run("downgrade", root, "--to", "pre-rerun", "-o", tmp_path / "planted")
    refused(result, ".planted.ckptmigrate-lock", "--break-lock")
    assert run("recover", tmp_path / "planted", "--break-lock").returncode == 0
    done = run("downgrade", root, "--to", "pre-rerun", "-o", tmp_path / "planted")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["file", "directory", "fifo"])
def test_what_is_not_a_lock_is_named(run: Run, copy: Copy, tmp_path: Path, kind: str) -> None:
    root = copy("0.17.1-idle-w1")
    planted = tmp_path / ".planted.ckptmigrate-lock"
    {"file": planted.touch, "directory": planted.mkdir, "fifo": lambda: os.mkfifo(planted)}[kind]()
    result = run("downgrade", root, "--to", "pre-rerun", "-o", tmp_path / "planted")
    refused(result, str(planted), f"`rm -r {planted}`")


@pytest.mark.parametrize("text", ['{"files": {"common.pt": {"before": 1e999, "after": 1}}}', "[]"])
def test_a_planted_journal_is_named(run: Run, copy: Copy, text: str) -> None:
    root = copy("0.17.1-idle-w1")
    stage = checkpoint_of(root) / ".ckptmigrate" / "stage"
    stage.mkdir(parents=True)
    (stage / "journal.json").write_text(text)
    before = tree_hash(root)
    for words in (("recover",), ("undo",), ("downgrade", "--to", "pre-rerun", "--in-place")):
        result = run(words[0], checkpoint_of(root), *words[1:])
        refused(result, f"{stage / 'journal.json'}", f"`rm -r {stage}`")
    assert tree_hash(root) == before


def test_a_journal_that_is_a_link_is_not_read(copy: Copy, tmp_path: Path) -> None:
    root = copy("0.17.1-idle-w1")
    stage = checkpoint_of(root) / ".ckptmigrate" / "stage"
    stage.mkdir(parents=True)
    (tmp_path / "elsewhere").write_text(json.dumps({"files": {}}))
    (stage / "journal.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CkptMigrateError, match="is not a journal"):
        ckptmigrate.recover(checkpoint_of(root))
