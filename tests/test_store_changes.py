"""Objects that appear, vanish, grow or change while a migration is at work: never a mixture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import flaky_store
import pytest
from conftest import SAMPLES
from flaky_store import FlakyFileSystem, below

import ckptmigrate
from ckptmigrate import CkptMigrateError, migrate
from ckptmigrate.errors import DamagedError, StoreError
from ckptmigrate.storage import limits

SAMPLE = "0.18.2-idle-w1"
TARGET = "pre-rerun"
RUN, OUT = "flaky://bucket/run", "flaky://bucket/out"
HERE = "bucket/run/iter_0000005"
PAYLOAD = f"{HERE}/__0_0.distcp"


def _reverse(key: str) -> None:
    """Write other bytes of the same size."""
    FlakyFileSystem.objects[key] = FlakyFileSystem.objects[key][::-1]


def _grow(key: str) -> None:
    FlakyFileSystem.objects[key] += b"more"


def _remove(key: str) -> None:
    del FlakyFileSystem.objects[key]


CHANGES: dict[str, Callable[[], None]] = {
    "payload is rewritten": lambda: _reverse(PAYLOAD),
    "payload grows": lambda: _grow(PAYLOAD),
    "payload is removed": lambda: _remove(PAYLOAD),
    "metadata is rewritten": lambda: _reverse(f"{HERE}/.metadata"),
    "a payload file appears": lambda: FlakyFileSystem.objects.update({f"{HERE}/__1_0.distcp": b""}),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("to", ["the store", "a directory"])
def test_a_source_that_changes_while_it_is_copied(what: str, to: str, tmp_path: Path) -> None:
    flaky_store.put(SAMPLES / SAMPLE, "run")
    done: list[str] = []

    def change(operation: str, key: str) -> None:
        if not done and operation in ("COPY", "DOWNLOAD") and key.endswith("/__0_0.distcp"):
            done.append(key)
            CHANGES[what]()

    output = OUT if to == "the store" else tmp_path / "out"
    with (
        FlakyFileSystem.disturbed(after=change),
        pytest.raises(CkptMigrateError, match="changed during the migration") as caught,
    ):
        migrate(RUN, to=TARGET, output=output)
    assert done
    assert "run the command again" in caught.value.fix
    assert {key.partition("/")[0] for key in below("")} == {"run"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["the store", "a directory", "the same place"])
def test_metadata_that_changes_once_it_was_planned_from(to: str, tmp_path: Path) -> None:
    flaky_store.put(SAMPLES / SAMPLE, "run")
    seen: list[str] = []

    def change(operation: str, key: str) -> None:
        # The last that planning reads is payload, in which the rerun state is.
        if not seen and operation == "GET" and key == PAYLOAD:
            seen.append(key)
            _reverse(f"{HERE}/.metadata")

    output = {"the store": OUT, "a directory": tmp_path / "out"}.get(to)
    with FlakyFileSystem.disturbed(after=change), pytest.raises(CkptMigrateError) as caught:
        migrate(RUN, to=TARGET, output=output, in_place=output is None)
    assert seen
    assert "changed " in str(caught.value)
    assert {key.partition("/")[0] for key in below("")} == {"run"}
    assert not list(tmp_path.iterdir())


def test_a_local_source_that_changes_while_it_is_uploaded(copy: Callable[[str], Path]) -> None:
    root = copy(SAMPLE)
    FlakyFileSystem.objects.clear()

    def change(operation: str, key: str) -> None:
        if operation == "PUT" and key.endswith("/__0_0.distcp"):
            file = root / "iter_0000005" / "__0_0.distcp"
            file.write_bytes(file.read_bytes()[::-1])

    with (
        FlakyFileSystem.disturbed(after=change),
        pytest.raises(StoreError, match="changed during the migration"),
    ):
        migrate(root, to=TARGET, output=OUT)
    assert below("") == {}


@pytest.mark.parametrize("change", [_grow, lambda key: _cut(key)])
def test_an_object_that_is_not_as_it_was_listed(change: Callable[[str], None]) -> None:
    flaky_store.put(SAMPLES / SAMPLE, "run")
    key = f"{HERE}/.metadata"

    def after(operation: str, found: str) -> None:
        if (operation, found) == ("LIST", HERE):
            change(key)

    with FlakyFileSystem.disturbed(after=after), pytest.raises(StoreError, match="was listed with"):
        ckptmigrate.inspect(RUN)


def _cut(key: str) -> None:
    FlakyFileSystem.objects[key] = FlakyFileSystem.objects[key][:-1]


def test_a_key_that_is_listed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    flaky_store.put(SAMPLES / SAMPLE, "run")
    listed = FlakyFileSystem._listed

    def twice(self: FlakyFileSystem, key: str) -> list[dict[str, object]]:
        found = listed(self, key)
        return [*found, *({**each, "size": 1} for each in found if each["type"] == "file")]

    monkeypatch.setattr(FlakyFileSystem, "_listed", twice)
    with pytest.raises(StoreError, match="is listed twice"):
        ckptmigrate.inspect(f"{RUN}/iter_0000005")


def test_a_lock_of_any_size_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    flaky_store.put(SAMPLES / SAMPLE, "run")
    monkeypatch.setattr(limits, "LARGEST_JSON", 1000)
    monkeypatch.setattr("ckptmigrate.storage.store.LARGEST_JSON", 1000)
    FlakyFileSystem.objects[f"{HERE}/.ckptmigrate/lock"] = bytes(5000)
    with pytest.raises(DamagedError, match="is larger than 1000 bytes"):
        ckptmigrate.recover(RUN)


def test_a_destination_whose_surroundings_may_not_be_listed_is_recovered() -> None:
    flaky_store.put(SAMPLES / SAMPLE, "run")

    def gone(operation: str, key: str) -> None:
        if key.startswith("bucket/out/") and operation != "COPY":
            raise flaky_store.ServerError("SlowDown")

    with FlakyFileSystem.disturbed(before=gone), pytest.raises(CkptMigrateError):
        migrate(RUN, to=TARGET, output=OUT)
    assert any(not key.startswith("run/") for key in below(""))

    def closed(operation: str, key: str) -> None:
        if (operation, key) == ("LIST", "bucket"):
            raise PermissionError("Access Denied")

    with FlakyFileSystem.disturbed(before=closed):
        ckptmigrate.recover(OUT)
    assert all(key.startswith("run/") for key in below(""))
