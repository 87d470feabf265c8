"""Large `.metadata` made to mislead reading by rows, or to make it slow."""

from __future__ import annotations

import multiprocessing
import resource
import struct
from collections.abc import Callable

import pytest
from test_huge import agree

from ckptmigrate.checkpoint import metadata, metadata_file
from ckptmigrate.checkpoint.large import view
from ckptmigrate.checkpoint.metadata import Metadata
from ckptmigrate.errors import CkptMigrateError
from ckptmigrate.pickles.equality import equal

_DCP = "torch.distributed.checkpoint"
_BATCH = 100
_ROWS = 3 * _BATCH  # row patterns are learned in the first batch
_SECONDS, _MEMORY = 20, 1024**3  # limits of CPU and address space
# A row of the batch that patterns are learned from, and one that is stepped over.
_EITHER_BATCH = pytest.mark.parametrize("number", [_BATCH // 2, 5 * _BATCH // 2])


class File:
    """A `.metadata` that is built opcode by opcode, and the number of memoized values."""

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

    def rows(
        self, attribute: str, row: Callable[[int], object], count: int = _ROWS, batch: int = _BATCH
    ) -> int:
        """Add a table; return the memo index of its dict."""
        self.text(attribute)
        self.raw(b"}")
        table = self.memo()
        for first in range(0, count, batch):
            self.raw(b"(")
            for number in range(first, min(count, first + batch)):
                row(number)
            self.raw(b"u")
        return table

    def made(self, symbol: int) -> int:
        self.get(symbol).raw(b")\x81")
        return self.memo()

    def entry_row(self, number: int) -> int:
        """Add a key and a tensor entry without attributes; return the memo index of the entry."""
        self.text(f"entry{number}")
        return self.made(self.entry)

    def stored_row(self, number: int, offset: Callable[[], object], extra: bytes = b"") -> int:
        """Add a byte range; return the memo index of its place."""
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
        """Add the byte range of an object whose key is in the memo."""
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


def plain() -> tuple[File, list[int]]:
    """Return a file whose rows are all stepped over, and the memo indexes of its places."""
    file, places = File(), []
    file.rows("state_dict_metadata", file.entry_row)
    file.rows("storage_data", lambda number: places.append(file.stored_row(number, file.sizes)))
    return file, places


def outcome(read: Callable[[], Metadata]) -> Metadata | str:
    try:
        return read()
    except CkptMigrateError as error:
        return str(error)


def judge(data: bytes) -> Metadata | str:
    """Read by rows and as a whole, assert that both agree, and return the result."""
    found, whole = (
        outcome(lambda: metadata_file.read(data, 0)),
        outcome(lambda: metadata.load(data)),
    )
    if isinstance(found, str) or isinstance(whole, str):
        assert found == whole
        return whole if isinstance(whole, str) else str(found)
    agree(found, whole)
    for key in list(whole.entries)[:: max(1, len(whole.entries) // 50)]:
        assert equal(found.entries[key], whole.entries[key])
    return found


def test_the_file_that_is_attacked_is_read_by_rows() -> None:
    found = judge(plain()[0].end())
    assert isinstance(found, view.LargeMetadata)
    stepped = sum(len(run.ends) for run in found.tables.skeleton.rows.runs)
    assert stepped == 2 * (_ROWS - 1)  # all but the one that each kind was learned from


@_EITHER_BATCH
def test_a_row_that_is_changed_later_by_way_of_the_memo(number: int) -> None:
    """At its end the file gives a row another byte range."""
    file, places = plain()
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


@_EITHER_BATCH
def test_a_reference_to_a_row_that_comes_later(number: int) -> None:
    """Found by the fuzzer: stepping over rows made later memo indexes known too early."""
    file = File()
    file.text("too early")
    file.get(file.memoized + 2 * number)  # the key or the entry of a row that is stepped over
    file.rows("state_dict_metadata", file.entry_row)
    file.rows("storage_data", lambda number: file.stored_row(number, file.sizes))
    assert "Memo value not found" in str(judge(file.end()))


@pytest.mark.parametrize("literal", [True, False])
def test_rows_that_change_what_is_not_theirs(literal: bool) -> None:
    """Each byte range adds an entry to the table before it, or to one of two tables in turn."""
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
    assert judge(file.end()) == "has a storage_data offset that is not a torch.Size"


def test_offsets_of_nothing() -> None:
    file = File()
    file.rows("state_dict_metadata", file.entry_row)
    file.rows(
        "storage_data",
        lambda n: file.stored_row(n, lambda: file.get(file.size).raw(b"N\x85R")),
    )
    assert judge(file.end()) == "has a storage_data offset that is not a torch.Size"


@_EITHER_BATCH
def test_keys_that_cannot_be_hashed(number: int) -> None:
    """Each row has a dict whose key comes from the memo: a text, and in one row a list."""
    file = File()
    file.text("a list")
    file.raw(b"]")
    bad = file.memo()

    def row(here: int) -> None:
        file.entry_row(here)
        key = bad if here == number else file.words["fqn" if here % 2 else "offset"]
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
    found = metadata_file.read(file.end(), 0)
    assert isinstance(found, view.LargeMetadata)
    entry = found.entries[f"entry{_ROWS - 1}"]
    for _ in range(_ROWS - 1):
        entry = entry.attributes["extra"]
    assert entry.attributes["extra"] is not None


def test_rows_inside_of_rows() -> None:
    """Each entry holds byte ranges that match a known pattern."""
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
    assert len(found.entries[f"entry{_BATCH // 2}"].attributes) == 3


@_EITHER_BATCH
def test_rows_that_number_the_memo_themselves(number: int) -> None:
    """A row that overwrites a memo index adds no new one."""
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
def test_opcodes_between_rows(inserted: bytes) -> None:
    """Opcodes without effect before a row: all rows are read, and an edit of them is right."""
    for number in (0, 1, _BATCH // 2, 5 * _BATCH // 2):
        file = File()

        def row(here: int, file: File = file, number: int = number) -> None:
            file.raw(inserted if here == number else b"")
            file.entry_row(here)

        def stored(here: int, file: File = file) -> None:
            file.stored_row(here, file.sizes)

        file.rows("state_dict_metadata", row)
        file.rows("storage_data", stored)
        data = file.end()
        found = judge(data)
        if isinstance(found, str):
            continue
        gone = {f"entry{number + n}" for n in range(3)}
        agree(
            metadata_file.read(found.without(gone).dump(), 0),
            metadata.load(metadata.load(data).without(gone).dump()),
        )


def bounded(work: Callable[[], object]) -> None:
    """Call a function in a process with limits of CPU and memory."""

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        work()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == 0


@_EITHER_BATCH
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
    """Each row has a tuple of the one before, twice: hashing it takes 2**300 steps."""
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


@pytest.mark.parametrize(
    ("kinds", "batch"),
    [
        (200, 100),
        (200, 2000),
        pytest.param(2000, 1000, marks=pytest.mark.full),
        pytest.param(2000, 20_000, marks=pytest.mark.full),
    ],
)
def test_thousands_of_kinds_of_rows(kinds: int, batch: int) -> None:
    """Ten rows of each kind, enough for a pattern, then as many rows of none of these kinds."""
    file = File()

    def row(number: int) -> None:
        file.entry_row(number)
        kind = number // 10 if number < 10 * kinds else 10**6
        file.raw(b"}(")
        for place in range(11):
            file.get(file.words["extra"]).raw(b"N]"[kind >> place & 1 : (kind >> place & 1) + 1])
        file.raw(b"ub")

    file.rows("state_dict_metadata", row, 20 * kinds, batch)
    file.rows("storage_data", lambda n: file.stored_row(n, file.sizes), 10)
    data = file.end()
    bounded(lambda: judge(data))
    found = metadata_file.read(data, 0)
    assert len(found.entries) == 20 * kinds
    if isinstance(found, view.LargeMetadata):
        assert len(found.tables.skeleton.rows.patterns) <= 64
