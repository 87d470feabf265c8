"""Large `.metadata` made to mislead whoever reads by rows, or to cost them much."""

from __future__ import annotations

import multiprocessing
import resource
import struct
from collections.abc import Callable

import pytest
from test_huge import agree

from ckptmigrate.checkpoint import bulk, metadata
from ckptmigrate.checkpoint.metadata import Metadata
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.inert.equality import equal

_DCP = "torch.distributed.checkpoint"
_ROWS = 3000  # three batches: a kind of row is learned from the first
_SECONDS, _MEMORY = 20, 1024**3  # what nobody waits for, and what was promised


class File:
    """A `.metadata` in the making, opcode by opcode, with a count of what it memoizes."""

    def __init__(self) -> None:
        self.data, self.memoized = bytearray(b"\x80\x04"), 0
        self.metadata = self.symbol(f"{_DCP}.metadata.Metadata")
        self.raw(b")\x81\x94}\x94(").memoized += 2
        self.text("known")
        self.raw(b"(")
        self.size = self.symbol("torch.Size")
        self.entry = self.symbol(f"{_DCP}.metadata.TensorStorageMetadata")
        self.index = self.symbol(f"{_DCP}.metadata.MetadataIndex")
        self.place = self.symbol(f"{_DCP}.filesystem._StorageInfo")
        names = ("fqn", "offset", "relative_path", "length", "__0_0.distcp", "extra")
        self.words = {name: self.text(name) for name in names}
        self.raw(b"t")

    def raw(self, opcodes: bytes) -> File:
        self.data += opcodes
        return self

    def text(self, value: str) -> int:
        self.raw(b"\x8c" + bytes([len(value)]) + value.encode())
        return self.memo()

    def memo(self) -> int:
        self.raw(b"\x94")
        self.memoized += 1
        return self.memoized - 1

    def get(self, index: int) -> File:
        return self.raw(b"j" + struct.pack("<I", index))

    def symbol(self, path: str) -> int:
        module, _, name = path.rpartition(".")
        self.text(module)
        self.text(name)
        self.raw(b"\x93")
        return self.memo()

    def rows(self, attribute: str, row: Callable[[int], object], count: int = _ROWS) -> int:
        """A table; the memo index of its dict."""
        self.text(attribute)
        self.raw(b"}")
        table = self.memo()
        for first in range(0, count, 1000):
            self.raw(b"(")
            for number in range(first, min(count, first + 1000)):
                row(number)
            self.raw(b"u")
        return table

    def made(self, symbol: int) -> int:
        self.get(symbol).raw(b")\x81")
        return self.memo()

    def entry_row(self, number: int) -> int:
        """A key and a tensor entry that is no more than its class; the memo index of the latter."""
        self.text(f"entry{number}")
        return self.made(self.entry)

    def stored_row(self, number: int, offset: Callable[[], object], extra: bytes = b"") -> int:
        """A byte range; the memo index of the place."""
        self.made(self.index)
        self.raw(b"}")
        self.memo()
        self.raw(b"(").get(self.words["fqn"]).text(f"entry{number}")
        self.get(self.words["offset"])
        offset()
        self.raw(b"ub")
        found = self.made(self.place)
        self.raw(b"}")
        self.memo()
        self.raw(b"(").get(self.words["relative_path"]).get(self.words["__0_0.distcp"])
        self.get(self.words["offset"]).raw(b"J" + struct.pack("<i", 70_000 + number))
        self.get(self.words["length"]).raw(b"K\x05" + extra + b"ub")
        return found

    def kept_row(self, key: int, number: int) -> None:
        """A byte range of a whole object, whose key is memoized already."""
        self.made(self.index)
        self.raw(b"}(").get(self.words["fqn"]).get(key).get(self.words["offset"]).raw(b"Nub")
        self.made(self.place)
        self.raw(b"}(").get(self.words["relative_path"]).get(self.words["__0_0.distcp"])
        self.get(self.words["offset"]).raw(b"J" + struct.pack("<i", 70_000 + number))
        self.get(self.words["length"]).raw(b"K\x05ub")

    def sizes(self) -> None:
        self.get(self.size).raw(b"K\0K\0\x86")
        self.memo()
        self.raw(b"\x85")
        self.memo()
        self.raw(b"R")
        self.memo()

    def end(self, more: bytes = b"") -> bytes:
        content = bytes(self.data[2:]) + b"ub" + more + b"."
        return b"\x80\x04\x95" + struct.pack("<Q", len(content)) + content


def plain() -> tuple[File, int, list[int]]:
    """A file whose rows are all stepped over; its dict of entries, and the places of its rows."""
    file, places = File(), []
    entries = file.rows("state_dict_metadata", file.entry_row)
    file.rows("storage_data", lambda number: places.append(file.stored_row(number, file.sizes)))
    return file, entries, places


def outcome(read: Callable[[], Metadata]) -> Metadata | str:
    try:
        return read()
    except CkptMigrateError as error:
        return str(error)


def judge(data: bytes) -> Metadata | str:
    """Read in both ways, which come to the same; what they come to."""
    found, whole = outcome(lambda: metadata.read(data, 0)), outcome(lambda: metadata.load(data))
    if isinstance(found, str) or isinstance(whole, str):
        assert found == whole
        return whole if isinstance(whole, str) else str(found)
    agree(found, whole)
    for key in list(whole.entries)[:: max(1, len(whole.entries) // 50)]:
        assert equal(found.entries[key], whole.entries[key])
    return found


def test_the_file_that_is_attacked_is_read_by_rows() -> None:
    found = judge(plain()[0].end())
    assert isinstance(found, bulk.BulkMetadata)
    stepped = sum(len(run.ends) for run in found.tables.skeleton.rows.runs)
    assert stepped == 2 * (_ROWS - 1)  # all but the one that each kind was learned from


# In the batch that rows are learned from, and in one that is stepped over with what was learned.
@pytest.mark.parametrize("number", [500, 2500])
def test_a_row_that_is_changed_later_by_way_of_the_memo(number: int) -> None:
    """Another byte range for a row that was stepped over."""
    file, _, places = plain()
    state = b"}(" + b"".join(
        b"j" + struct.pack("<I", file.words[name]) + value
        for name, value in (
            ("relative_path", b"j" + struct.pack("<I", file.words["__0_0.distcp"])),
            ("offset", b"K\x07"),
            ("length", b"K\x09"),
        )
    )
    change = b"j" + struct.pack("<I", places[number]) + state + b"ub0"
    found = judge(file.end(change))
    assert not isinstance(found, str)
    assert found.chunks[number].blob.offset == 7
    assert found.chunks[number - 1].blob.offset == 70_000 + number - 1


@pytest.mark.parametrize("number", [500, 2500])
def test_a_reference_to_a_row_that_comes_later(number: int) -> None:
    """Found by the fuzzer: with rows stepped over, what is memoized later is known too early."""
    file = File()
    file.text("too early")
    file.get(file.memoized + 2 * number)  # the key or the entry of a row that is stepped over
    file.rows("state_dict_metadata", file.entry_row)
    file.rows("storage_data", lambda number: file.stored_row(number, file.sizes))
    assert "Memo value not found" in str(judge(file.end()))


@pytest.mark.parametrize("literal", [True, False])
def test_rows_that_change_what_is_not_theirs(literal: bool) -> None:
    """Each byte range puts one more entry into the table before it, or takes that from a hole."""
    file, places = File(), []
    entries = file.rows("state_dict_metadata", file.entry_row)
    other = file.rows("other", file.entry_row, 1)
    extra = b"j" + struct.pack("<I", file.words["extra"])

    def row(number: int) -> None:
        table = entries if literal or number % 2 else other
        key = f"planted{number}".encode()
        change = b"j" + struct.pack("<I", table) + b"\x8c" + bytes([len(key)]) + key + b"\x94"
        file.memoized += 1
        places.append(file.stored_row(number, file.sizes, extra + change + b"Ns"))

    # What the row memoizes in between is counted too early for its own dict, which nobody uses.
    file.rows("storage_data", row)
    found = judge(file.end())
    assert not isinstance(found, str)
    assert sum(key.startswith("planted") for key in found.entries) == (
        _ROWS if literal else _ROWS // 2
    )


@pytest.mark.parametrize("offset", [b"K\0K\0\x86", b"K\0\x85", b"]"])
def test_offsets_that_are_no_size(offset: bytes) -> None:
    file = File()
    file.rows("state_dict_metadata", file.entry_row)
    file.rows("storage_data", lambda n: file.stored_row(n, lambda: file.raw(offset)))
    assert judge(file.end()) == "has a storage_data offset that is no torch.Size"


def test_offsets_of_nothing() -> None:
    file = File()
    file.rows("state_dict_metadata", file.entry_row)
    file.rows(
        "storage_data",
        lambda n: file.stored_row(n, lambda: file.get(file.size).raw(b"N\x85R")),
    )
    assert judge(file.end()) == "has a storage_data offset that is no torch.Size"


@pytest.mark.parametrize("place", [500, 2500])
def test_keys_that_cannot_be_hashed(place: int) -> None:
    """A dict in each row with a key that the memo gives: a text mostly, and once a list."""
    file = File()
    file.text("a list")
    file.raw(b"]")
    bad = file.memo()

    def row(number: int) -> None:
        file.entry_row(number)
        key = bad if number == place else file.words["fqn" if number % 2 else "offset"]
        file.raw(b"}(").get(key).raw(b"Nub")

    file.rows("state_dict_metadata", row)
    file.rows("storage_data", lambda n: file.stored_row(n, file.sizes))
    assert judge(file.end()) == "cannot be unpickled (TypeError: unhashable type: 'list')"


def test_a_chain_of_rows_is_no_recursion() -> None:
    file, last = File(), 0

    def row(number: int) -> None:
        nonlocal last
        before, last = last, file.entry_row(number)
        file.raw(b"}(").get(file.words["extra"]).get(before).raw(b"ub")

    file.rows("state_dict_metadata", row)
    file.rows("storage_data", lambda n: file.stored_row(n, file.sizes))
    found = metadata.read(file.end(), 0)
    assert isinstance(found, bulk.BulkMetadata)
    entry = found.entries[f"entry{_ROWS - 1}"]
    for _ in range(_ROWS - 1):
        entry = entry.attributes["extra"]
    assert entry.attributes["extra"] is not None


def test_rows_inside_of_rows() -> None:
    """Each entry has byte ranges in it, of a kind that is known by then."""
    file = File()
    file.text("names")
    file.raw(b"(")
    names = [file.text(f"entry{number}") for number in range(_ROWS)]
    file.raw(b"t")
    file.rows("storage_data", lambda number: file.kept_row(names[number], number))

    def row(number: int) -> None:
        file.entry_row(number)
        file.raw(b"}")
        file.memo()
        file.raw(b"(")
        for inner in range(3):
            file.kept_row(names[number], inner)
        file.raw(b"ub")

    file.rows("state_dict_metadata", row)
    found = judge(file.end())
    assert not isinstance(found, str)
    assert len(found.entries["entry700"].attributes) == 3


@pytest.mark.parametrize("number", [500, 2500])
def test_rows_that_number_the_memo_themselves(number: int) -> None:
    """A row that memoizes into a place that is taken, and so counts as none that is new."""
    file = File()

    def row(here: int) -> None:
        file.entry_row(here)
        if here == number:
            file.raw(b"}r" + struct.pack("<I", file.words["extra"]) + b"0")

    file.rows("state_dict_metadata", row)
    file.rows("storage_data", lambda n: file.stored_row(n, file.sizes))
    found = judge(file.end())
    assert not isinstance(found, str)
    assert len(found.entries) == _ROWS


@pytest.mark.parametrize("inserted", [b"N0", b"()0", b"(1", b"NN00", b"NQ0"])
@pytest.mark.parametrize("number", [0, 1, 500, 2500])
def test_opcodes_between_rows(number: int, inserted: bytes) -> None:
    """What comes to nothing, before a row: the rows are as ever, and so is an edit of them."""
    file = File()

    def row(here: int) -> None:
        file.raw(inserted if here == number else b"")
        file.entry_row(here)

    file.rows("state_dict_metadata", row)
    file.rows("storage_data", lambda n: file.stored_row(n, file.sizes))
    data = file.end()
    found = judge(data)
    if isinstance(found, str):
        return
    gone = {f"entry{number + n}" for n in range(3)}
    agree(
        metadata.read(found.without(gone).dump(), 0),
        metadata.load(metadata.load(data).without(gone).dump()),
    )


def bounded(work: Callable[[], object]) -> None:
    """Do it in a process with no more time and memory than nobody waits for."""

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        work()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize("number", [500, 2500])
@pytest.mark.parametrize("index", [2**31 - 1, 2**31, 2**32 - 1])
def test_memo_indexes_out_of_reach(index: int, number: int) -> None:
    file = File()
    file.rows("state_dict_metadata", file.entry_row)
    file.rows(
        "storage_data",
        lambda n: file.stored_row(
            n, lambda: file.get(index) if n == number else file.get(file.words["fqn"] + n % 2)
        ),
    )
    data = file.end()
    bounded(lambda: judge(data))
    assert isinstance(judge(data), str)


def test_tuples_of_tuples_in_rows() -> None:
    """Each row has a tuple of the one before, twice: 2**3000 steps for whoever hashes it."""
    file, last = File(), 0

    def row(number: int) -> None:
        nonlocal last
        file.entry_row(number)
        file.raw(b"}(").get(file.words["extra"]).get(last).get(last).raw(b"\x86")
        last = file.memo()
        file.raw(b"ub")

    file.rows("state_dict_metadata", row)
    file.rows("storage_data", lambda n: file.stored_row(n, file.sizes))
    data = file.end()
    bounded(lambda: judge(data))
    assert judge(data) == "has a tuple of more than 20000 items"


@pytest.mark.parametrize("batch", [1000, 20_000])
def test_thousands_of_kinds_of_rows(batch: int) -> None:
    """Ten of each, so that each is worth to be learned, and rows that are like none of them."""
    file = File()

    def row(number: int) -> None:
        file.entry_row(number)
        kind = number // 10 if number < 20_000 else 10**6
        file.raw(b"}(")
        for place in range(11):
            file.get(file.words["extra"]).raw(b"N]"[kind >> place & 1 : (kind >> place & 1) + 1])
        file.raw(b"ub")

    file.text("state_dict_metadata")
    file.raw(b"}")
    file.memo()
    for first in range(0, 40_000, batch):
        file.raw(b"(")
        for number in range(first, first + batch):
            row(number)
        file.raw(b"u")
    file.rows("storage_data", lambda n: file.stored_row(n, file.sizes), 10)
    data = file.end()
    bounded(lambda: judge(data))
    found = metadata.read(data, 0)
    assert len(found.entries) == 40_000
    if isinstance(found, bulk.BulkMetadata):
        assert len(found.tables.skeleton.rows.patterns) <= 64
