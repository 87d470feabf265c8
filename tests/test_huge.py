"""Large `.metadata`: reading, editing and writing by rows agrees with the canonical way."""

from __future__ import annotations

import dataclasses
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
from ckptmigrate.checkpoint import metadata, metadata_file
from ckptmigrate.checkpoint.large import edits, view
from ckptmigrate.checkpoint.large.splice import spliced
from ckptmigrate.checkpoint.large.tokens import framed
from ckptmigrate.checkpoint.large.view import LargeMetadata
from ckptmigrate.checkpoint.metadata import Metadata
from ckptmigrate.checkpoint.rows import Blob, size_value
from ckptmigrate.checks import verification
from ckptmigrate.errors import DamagedError, PickleError
from ckptmigrate.pickles import bounds
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


def by_rows(data: bytes) -> LargeMetadata:
    found = view.load(data)
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
    assert found.planned == whole.planned


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


def without_shape(found: Metadata) -> list[str]:
    """Return the keys without a row of shapes: such rows are removed from the file as a whole."""
    shapes = [found.attributes, *(plan.attributes for plan in found.plans or ())]
    with_shape = {key for each in shapes for key in each.get(metadata.SHAPES) or ()}
    return [key for key in found.entries if key not in with_shape]


def edited(found: Metadata, random: Random, keys: list[str] | None = None) -> Metadata:
    """Drop, move and add entries at random places.

    Args:
        keys: those of which some are dropped; all by default.
    """
    keys = list(found.entries) if keys is None else keys
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


def never_whole(self: LargeMetadata) -> Metadata:
    raise AssertionError("written as a whole")


def test_a_spliced_file_is_the_canonical_edit(
    grown: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LargeMetadata, "whole", never_whole)
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
        lambda found: edited(found, Random(3), without_shape(found)),
        lambda found: found.with_class(metadata.TORCH_CLASS),
    )
    for change in changes:
        canonical = change(metadata.load(data)).dump()
        with monkeypatch.context() as patched:
            patched.setattr(LargeMetadata, "whole", never_whole)
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
    monkeypatch.setattr(view.skeleton, "read", None)
    found = metadata_file.read(content, 0)
    monkeypatch.undo()
    agree(found, metadata.load(content))


def test_a_wrong_splice_is_written_as_a_whole(
    grown: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    canonical = edited(metadata.load(grown), Random(5)).dump()
    monkeypatch.setattr(edits, "POP", b"")
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
            found = view.load(damaged)
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
        again = view.load(data)
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
    assert isinstance(wanted, LargeMetadata)
    after = by_rows(wanted.dump())
    assert before.edit_to(after) == wanted.edit
    assert wanted.edit.keys == {*gone, "new/shard_0_2"}
    assert after.changed_from(before) == before.changed_from(after) == wanted.edit.keys
    other = by_rows(metadata.load(wanted.dump()).dump())  # the same, and not spliced
    assert other.changed_from(before) is None


@pytest.fixture
def always_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read every `.metadata` by rows, whatever its size."""
    monkeypatch.setattr(metadata_file, "THRESHOLD", 0)


def migrate_and_undo(place: Path, entries: int, plans: bool) -> None:
    """Downgrade in place and undo it; the source is restored byte for byte."""
    path = synthetic.checkpoint(place / "root", entries, plans=plans)
    before = (path / ".metadata").read_bytes()
    assert isinstance(metadata_file.read(before), LargeMetadata)
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
    assert isinstance(metadata_file.read(data, len(data)), LargeMetadata)
    assert not isinstance(metadata_file.read(data, len(data) + 1), LargeMetadata)
    assert not isinstance(metadata_file.read(data), LargeMetadata)
    assert metadata_file.THRESHOLD == 2 * 1024**2


def _wrong_size(plain: Any, key: str) -> None:
    entry = plain.state_dict_metadata[key]
    entry.size = type(entry.size)(n + 1 for n in entry.size)


def _chunk_outside(plain: Any, key: str) -> None:
    chunk = plain.state_dict_metadata[key].chunks[0]
    chunk.offsets = type(chunk.offsets)(n + 3 for n in chunk.offsets)


def _stored_elsewhere(plain: Any, key: str) -> None:
    [index] = [index for index in plain.storage_data if index.fqn == key]
    where = plain.storage_data.pop(index)
    offset = type(index.offset)(n + 1 for n in index.offset)
    plain.storage_data[dataclasses.replace(index, offset=offset)] = where


def _not_planned(plain: Any, key: str) -> None:
    for plan in plain.all_local_plans:
        plan.items[:] = [item for item in plan.items if item.index.fqn != key]


def _behind_the_end(plain: Any, key: str) -> None:
    [where] = [where for index, where in plain.storage_data.items() if index.fqn == key]
    where.offset += 10**9


def _no_entry(plain: Any, key: str) -> None:
    del plain.state_dict_metadata[key]


def _no_tensor(plain: Any, key: str) -> None:
    plain.state_dict_metadata[key] = plain.state_dict_metadata[key].properties


DAMAGE = {
    _wrong_size: "chunks-do-not-tile",
    _chunk_outside: "chunk-outside",
    _stored_elsewhere: "table-mismatch",
    _not_planned: "table-mismatch",
    _behind_the_end: "byte-range-outside",
    _no_entry: "table-mismatch",
    _no_tensor: "entry-malformed",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_verify_finds_the_same_by_rows(
    damage: Callable[[Any, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = synthetic.checkpoint(tmp_path / "root", SMALL, plans=True)
    plain = torch_side.unpickle((path / ".metadata").read_bytes())
    key = list(plain.state_dict_metadata)[-7]
    damage(plain, key)
    buffer = io.BytesIO()
    with torch_side.megatron_names():
        SmallBatches(buffer, 4).dump(plain)
    (path / ".metadata").write_bytes(buffer.getvalue())
    whole = verification.verify(path)
    monkeypatch.setattr(metadata_file, "THRESHOLD", 0)
    by_rows = verification.verify(path)
    assert by_rows == whole
    found = [each for each in by_rows.findings if each.code == DAMAGE[damage]]
    assert any(key in item for each in found for item in each.items)
    # A row of storage_data without an entry is damage for every command: read as a whole.
    assert (view.load(buffer.getvalue()) is None) == (damage is _no_entry)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.parent.parent.name)
def test_verify_finds_the_same_by_rows_in_samples(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = verification.verify(path.parent)
    monkeypatch.setattr(metadata_file, "THRESHOLD", 0)
    assert verification.verify(path.parent) == whole


def test_equal_rows_share_a_value(grown: bytes) -> None:
    """A value is shared only where real pickle finds equal values."""
    plain = torch_side.unpickle(grown).state_dict_metadata
    by_value: dict[int, Any] = {}
    found = by_rows(grown)
    for key in found.entries:
        first = by_value.setdefault(id(found.entries[key]), plain[key])
        assert plain[key] == first
    assert len(by_value) < len(plain) - 20


_COUNTED = """
import sys
from ckptmigrate import migrate, undo
from ckptmigrate.checkpoint import metadata_file
metadata_file.THRESHOLD = 0
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
    """To plan, to compare under the lock, as copied for the way back, and after the commit.

    The staged file is read back under the name that it has before it is renamed.
    """
    path = synthetic.checkpoint(tmp_path / "root", SMALL, plans=True)
    done = CLI.run([str(path)], code=_COUNTED)
    assert done.returncode == 0, done.stderr
    own, kept = "/.metadata", "/.ckptmigrate/0001/.metadata"
    old = "/.ckptmigrate/stage/.old/.metadata"
    migrated, undone = (line.split() for line in done.stdout.splitlines())
    assert migrated == [own, own, old, own]
    # The migrated file and its original are checked first; the rest is as in a migration.
    assert undone == [own, kept, own, own, old, own]
