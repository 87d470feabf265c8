"""Large `.metadata`: reading, editing and writing by rows agrees with the canonical way."""

from __future__ import annotations

import io
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch_side
from conftest import CLI, SAMPLES
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import synthetic
from ckptmigrate.checkpoint import large_edits, large_metadata, metadata
from ckptmigrate.checkpoint.large_metadata import BulkMetadata
from ckptmigrate.checkpoint.metadata import Metadata
from ckptmigrate.checkpoint.rows import Blob, size_value
from ckptmigrate.errors import DamagedError, PickleError
from ckptmigrate.pickles import bounds
from ckptmigrate.pickles.large.splice import spliced
from ckptmigrate.pickles.large.tokens import framed
from ckptmigrate.verbs import changes, undo
from ckptmigrate.verbs.migrate import MigrationRequest, prepare
from ckptmigrate.verbs.undo import UndoRequest

PATHS = sorted(SAMPLES.glob("*/iter_*/.metadata"))
SMALL, LARGE = 200, 4000  # entries added to a sample


class SmallBatches(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Python's pickler with batches of 50 items instead of 1,000.

    Row patterns are learned in the first batch and used in the next ones.
    """

    _BATCHSIZE = 50


def table(place: Path, entries: int, *, plans: bool, protocol: int = 4) -> bytes:
    """Return a sample's `.metadata` with more entries."""
    path = synthetic.checkpoint(place / "root", entries, plans=plans)
    data = (path / ".metadata").read_bytes()
    if entries == LARGE and data[1] == protocol:
        return data
    plain = torch_side.unpickle(data)
    with torch_side.megatron_names():
        if entries == LARGE:
            return pickle.dumps(plain, protocol)
        buffer = io.BytesIO()
        SmallBatches(buffer, protocol).dump(plain)
    return buffer.getvalue()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((entries, *kind), id=f"{entries} entries, {name}", marks=marks)
        for entries, marks in ((SMALL, ()), (LARGE, pytest.mark.full))
        for name, kind in {
            "plans": (True, 4),
            "no plans": (False, 4),
            "Python 3.14": (True, 5),  # its default protocol
        }.items()
    ],
)
def grown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    entries, plans, protocol = request.param
    return table(tmp_path_factory.mktemp("huge"), entries, plans=plans, protocol=protocol)


def by_rows(data: bytes) -> BulkMetadata:
    found = large_metadata.load(data)
    assert found is not None
    return found


def agree(found: Metadata, whole: Metadata) -> None:
    """Assert that both views say the same."""
    assert list(found.entries) == list(whole.entries)
    assert len(found.entries) == len(whole.entries)
    assert found.chunks == whole.chunks
    assert found.ends == whole.ends
    assert found.blobs == whole.blobs
    assert found.class_path == whole.class_path
    assert found.count_objects() == whole.count_objects()
    kinds = [found.is_object_entry(key) for key in found.entries]
    assert kinds == [whole.is_object_entry(key) for key in whole.entries]
    assert len(found.plans or ()) == len(whole.plans or ())
    for rank in range(len(whole.plans or ())):
        assert found.plan_keys(rank) == whole.plan_keys(rank)


def test_most_rows_are_stepped_over(grown: bytes) -> None:
    found = by_rows(grown)
    stepped = sum(len(run.ends) for run in found.tables.skeleton.rows.runs)
    assert stepped > 1.25 * len(found.entries)  # each has a row in two or three tables
    agree(found, metadata.load(grown))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.parent.parent.name)
def test_samples_read_the_same(path: Path) -> None:
    data = path.read_bytes()
    found = by_rows(data)
    agree(found, metadata.load(data))
    assert found.named == metadata.load(data).named
    assert found.whole().dump() == data


def test_a_row_is_unpickled_when_requested(grown: bytes) -> None:
    plain = torch_side.unpickle(grown)
    found = by_rows(grown)
    for key in Random(1).sample(list(found.entries), 50):
        entry = found.entries[key]
        if not found.is_object_entry(key):
            size = size_value(entry.attributes["size"])
            assert size == tuple(plain.state_dict_metadata[key].size)


def edited(found: Metadata, random: Random) -> Metadata:
    """Drop, move and add entries at random places."""
    keys = list(found.entries)
    dropped = random.sample(keys, min(len(keys), random.choice((0, 1, 5, 40))))
    objects = [key for key in found.blobs if key not in dropped]
    moved = {key: Blob("__0_0.distcp", 7, 9) for key in objects[: random.randrange(3)]}
    added = {
        f"rerun_state_machine_state/shard_{n}_{random.randrange(9, 10**9)}": (
            n % 2,
            Blob("__9_9.distcp", n, 5),
        )
        for n in range(random.choice((0, 1, 8)))
    }
    return found.without(dropped).relocated(moved).with_blobs(added)


def contents(data: bytes) -> dict[str, Any]:
    """Return what torch unpickles, and the order of its tables."""
    plain = torch_side.unpickle(data)
    found = dict(vars(plain))
    storage_meta = found.pop("storage_meta", None)  # its class has fields that old files lack
    found["storage_meta"] = vars(storage_meta) if storage_meta else None
    found["class"] = type(plain)
    found["order"] = list(plain.state_dict_metadata), list(plain.storage_data)
    return found


def never_whole(self: BulkMetadata) -> Metadata:
    raise AssertionError("written as a whole")


def test_a_spliced_file_is_the_canonical_edit(
    grown: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BulkMetadata, "whole", never_whole)
    for seed in range(6):
        canonical = edited(metadata.load(grown), Random(seed)).dump()
        spliced = edited(by_rows(grown), Random(seed)).dump()
        assert contents(spliced) == contents(canonical), seed
        # A second edit starts from a spliced file.
        again = edited(by_rows(spliced), Random(seed + 100)).dump()
        expected = edited(metadata.load(canonical), Random(seed + 100)).dump()
        assert contents(again) == contents(expected), seed


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.parent.parent.name)
def test_samples_are_spliced_as_they_are_edited(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = path.read_bytes()
    changes: tuple[Callable[[Metadata], Metadata], ...] = (
        lambda found: edited(found, Random(3)),
        lambda found: found.with_class(metadata.TORCH_CLASS),
    )
    for change in changes:
        canonical = change(metadata.load(data)).dump()
        with monkeypatch.context() as patched:
            patched.setattr(BulkMetadata, "whole", never_whole)
            spliced = change(by_rows(data)).dump()
        assert contents(spliced) == contents(canonical)


@settings(max_examples=25, deadline=None)
@given(path=st.sampled_from(PATHS), draw=st.randoms(use_true_random=False))
def test_any_edit_of_a_sample_is_the_canonical_edit(path: Path, draw: Random) -> None:
    data, seed = path.read_bytes(), draw.random()
    canonical = edited(metadata.load(data), Random(seed)).dump()
    assert contents(edited(by_rows(data), Random(seed)).dump()) == contents(canonical)


def test_a_spliced_file_is_not_parsed_again(grown: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    written = edited(by_rows(grown), Random(5))
    content = written.dump()  # known as long as what wrote it is referenced
    monkeypatch.setattr(large_metadata.skeleton, "read", None)
    found = metadata.read(content, 0)
    monkeypatch.undo()
    agree(found, metadata.load(content))


def test_a_wrong_splice_is_written_as_a_whole(
    grown: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    canonical = edited(metadata.load(grown), Random(5)).dump()
    monkeypatch.setattr(large_edits, "POP", b"")
    found = edited(by_rows(grown), Random(5)).dump()
    assert contents(found) == contents(canonical)


def test_damaged_files_read_by_rows_are_read_as_a_whole(grown: bytes) -> None:
    """Random damage, mostly in rows."""
    random, read, refused = Random(7), 0, 0
    for _ in range(60):
        data = bytearray(grown)
        for _ in range(random.choice((1, 1, 3))):
            at = random.randrange(len(data))
            data[at] = random.choice((data[at] ^ (1 << random.randrange(8)), 0x30, 0x94, 0x6A))
        damaged = bytes(data)
        try:
            found = large_metadata.load(damaged)
        except DamagedError:
            raise AssertionError("refused by rows, not as a whole") from None
        if found is None:
            refused += 1
            continue
        read += 1
        bounds.check(damaged)
        agree(found, metadata.load(damaged))
    assert read > 1
    assert refused > 10


def test_opcodes_inserted_between_rows(grown: bytes) -> None:
    found = by_rows(grown)
    runs = [run for run in found.tables.skeleton.rows.runs if len(run.ends) > 5]
    bare = found.tables.skeleton.data
    # In the batch that patterns are learned from, and in one that is stepped over.
    for run, inserted in itertools.product((runs[0], runs[-1]), (b"00", b"0N", b"(u", b"}b")):
        made = spliced(bare, found.tables.skeleton.cuts, [(run.ends[5], inserted)])
        data = framed(made.data, made.cuts)
        again = large_metadata.load(data)
        try:
            whole = metadata.load(data)
        except (DamagedError, PickleError):
            assert again is None
            continue
        if again is not None:
            agree(again, whole)


def test_the_edit_between_two_files_is_recognised(grown: bytes) -> None:
    before = by_rows(grown)
    gone = list(before.entries)[5 :: len(before.entries) // 6]
    wanted = before.without(gone).with_blobs(
        {"new/shard_0_2": (1 if before.plans else 0, Blob("__1_1.distcp", 3, 4))}
    )
    assert isinstance(wanted, BulkMetadata)
    after = by_rows(wanted.dump())
    assert before.edit_to(after) == wanted.edit
    assert wanted.edit.keys == {*gone, "new/shard_0_2"}
    assert after.changed_from(before) == before.changed_from(after) == wanted.edit.keys
    other = by_rows(metadata.load(wanted.dump()).dump())  # the same, and not spliced
    assert other.changed_from(before) is None


@pytest.fixture
def always_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read every `.metadata` by rows, whatever its size."""
    monkeypatch.setattr(metadata.read, "__defaults__", (0,))


def migrate_and_undo(place: Path, entries: int, plans: bool) -> None:
    """Downgrade in place and undo it; the source is restored byte for byte."""
    path = synthetic.checkpoint(place / "root", entries, plans=plans)
    before = (path / ".metadata").read_bytes()
    assert isinstance(metadata.read(before), BulkMetadata)
    planned = prepare(path, MigrationRequest("0.13.1", in_place=True))
    differences = {str(each) for each in planned.plans[0].differences}
    changes.carry_out(planned)
    plain = torch_side.unpickle((path / ".metadata").read_bytes())
    kept = [k for k in torch_side.unpickle(before).state_dict_metadata if not k.startswith("rerun")]
    assert [k for k in plain.state_dict_metadata if not k.startswith("rerun")] == kept
    torch_side.consistent(torch_side.Contents(plain, {}, {}, {}), has_plans=plans)
    back = undo.prepare(path, UndoRequest())
    assert len(back.plans[0].differences) == len(differences)
    changes.carry_out(back)
    assert (path / ".metadata").read_bytes() == before


@pytest.mark.parametrize("plans", [True, False], ids=["plans", "no plans"])
def test_verbs_by_rows(tmp_path: Path, plans: bool, always_by_rows: None) -> None:
    migrate_and_undo(tmp_path, 3 * SMALL, plans)


@pytest.mark.full
@pytest.mark.parametrize("plans", [True, False], ids=["plans", "no plans"])
def test_verbs_on_a_large_checkpoint(tmp_path: Path, plans: bool) -> None:
    migrate_and_undo(tmp_path, 20_000, plans)


def test_a_large_file_is_read_by_rows_and_a_small_one_as_a_whole() -> None:
    data = PATHS[0].read_bytes()
    assert isinstance(metadata.read(data, len(data)), BulkMetadata)
    assert not isinstance(metadata.read(data, len(data) + 1), BulkMetadata)
    assert not isinstance(metadata.read(data), BulkMetadata)
    assert metadata.THRESHOLD == 2 * 1024**2


_COUNTED = """
import sys
from ckptmigrate import migrate, undo
from ckptmigrate.checkpoint import metadata
metadata.read.__defaults__ = (0,)
read = []
def hook(event, args):
    if event == "open" and str(args[0]).endswith("/.metadata") and args[2] & 3 == 0:
        read.append(str(args[0]).removeprefix(sys.argv[1]))
sys.addaudithook(hook)
migrate(sys.argv[1], to="0.13.1", in_place=True)
print(*read)
read.clear()
undo(sys.argv[1])
print(*read)
"""


def test_how_often_a_large_file_is_read(tmp_path: Path) -> None:
    """To plan, to compare under the lock, as staged, and after the commit."""
    path = synthetic.checkpoint(tmp_path / "root", SMALL, plans=True)
    done = CLI.run([str(path)], code=_COUNTED)
    assert done.returncode == 0, done.stderr
    own, stage, kept = "/.metadata", "/.ckptmigrate/stage/.metadata", "/.ckptmigrate/0001/.metadata"
    migrated, undone = (line.split() for line in done.stdout.splitlines())
    assert migrated == [own, own, stage, own]
    # The migrated file and its original are checked first; the rest is as in a migration.
    assert undone == [own, kept, own, own, stage, own]
