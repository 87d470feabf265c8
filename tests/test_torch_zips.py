"""Only the zip that `torch.save` writes is read, so that torch finds in it what was read here."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import torch_side
import torch_zips
from conftest import Run, checkpoint_of, refused

from ckptmigrate.errors import PickleError
from ckptmigrate.pickles import torch_zip

Members = list[tuple[str, bytes]]


def members_of(data: bytes) -> Members:
    """The members of a zip that torch wrote, by Python's reader."""
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        return [(info.filename, zipped.read(info)) for info in zipped.infolist()]


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


SAVED = saved({"a": 1, "weight": torch.arange(10.0), "none": torch.empty(0)})
MEMBERS = members_of(SAVED)
# As long as the pickle that it stands in for, so that two files are alike but for these bytes.
OTHER = pickle.dumps(["what a scan does not see" + " " * 200], 2)


def read_by_torch(data: bytes) -> dict[str, bytes] | None:
    """What torch finds under each name that it lists; None where it refuses the file."""
    try:
        found = torch._C.PyTorchFileReader(io.BytesIO(data))
        return {name: found.get_record(name) for name in found.get_all_records()}
    except (RuntimeError, UnicodeDecodeError):
        return None


def read_here(data: bytes) -> dict[str, bytes] | None:
    try:
        return dict(torch_zip.read(data).members)
    except PickleError as error:
        assert str(error).startswith("is not a torch zip file (") and str(error).isprintable()
        return None


def agree(data: bytes) -> bool:
    """Whether a file is accepted here, and then torch accepts it and finds the same."""
    ours = read_here(data)
    if ours is None:
        return False
    theirs = read_by_torch(data)
    assert theirs is not None, "torch refuses it"
    assert theirs == ours
    return True


def test_the_corpus_is_built_as_torch_builds_it() -> None:
    assert torch_zips.zipped(MEMBERS) == SAVED


def test_torch_and_python_read_different_files() -> None:
    """What the corpus is for: a scan by Python's zipfile clears another pickle than torch loads."""
    assert len(OTHER) == len(MEMBERS[0][1])
    hidden = set()
    for name, data in torch_zips.differentials(MEMBERS, OTHER).items():
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as zipped:
                scanned = zipped.read("archive/data.pkl")
            loaded = torch._C.PyTorchFileReader(io.BytesIO(data)).get_record("data.pkl")
        except Exception:  # zipfile raises nearly anything on bad input
            continue
        if {scanned, loaded} == {OTHER, MEMBERS[0][1]}:
            hidden.add(name.partition(",")[0])
    assert hidden >= {"twin", "twin by case", "two files", "ZIP64 locator into a member"}


def test_what_two_readers_may_take_for_different_files_is_refused() -> None:
    found = torch_zips.differentials(MEMBERS, OTHER)
    assert len(found) > 150
    assert [name for name, data in found.items() if read_here(data) is not None] == []
    assert agree(SAVED)


def test_a_changed_byte_of_any_header_is_refused() -> None:
    changed = list(torch_zips.changed_bytes(SAVED, MEMBERS))
    assert len(changed) > 5_000
    accepted = [data for data in changed if agree(data)]
    # The name of the folder is the only part of it that torch.save takes from outside.
    assert accepted == []


def test_moved_parts_are_refused_or_read_alike() -> None:
    accepted = sum(map(agree, torch_zips.shuffled(SAVED, Random(13), 5_000)))
    assert accepted < 500  # those that change nothing


def test_any_members_are_refused_or_read_alike() -> None:
    random = Random(13)
    names = [name for name, _ in MEMBERS]
    names += [
        f"archive/{name}"
        for name in (".x", ".data/version", "data/9", "data/x", "extra", "Version")
    ]
    bodies = [body for _, body in MEMBERS] + [
        b"",
        b"1",
        b"3\n",
        b"big",
        b"64",
        b"0",
        b"99999",
        OTHER,
    ]
    accepted = 0
    for _ in range(3_000):
        members = [
            (name, body if random.random() < 0.8 else random.choice(bodies))
            for name, body in MEMBERS
            if random.random() < 0.95
        ]
        for _ in range(random.randrange(3)):
            at = random.randrange(len(members) + 1)
            members.insert(at, (random.choice(names), random.choice(bodies)))
        accepted += agree(torch_zips.zipped(members))
    assert 100 < accepted < 2_000


# -- what torch writes


def options(**given: Any) -> Any:
    return pytest.param(given, id=", ".join(f"{k}={v}" for k, v in given.items()) or "default")


@pytest.mark.parametrize("value", ["nothing", "tensors", "many"])
@pytest.mark.parametrize(
    "given",
    [
        options(),
        *(options(pickle_protocol=n) for n in (3, 4, 5)),
        options(_disable_byteorder_record=True),
        options(crc32=False),
        *(options(alignment=n) for n in (1, 32, 128, 4096, 32768)),
    ],
)
def test_what_torch_writes_is_read_and_written_back(value: str, given: dict[str, Any]) -> None:
    from torch.utils.serialization import config

    values = {
        "nothing": [],
        "tensors": [torch.arange(9), torch.zeros(3, dtype=torch.bfloat16), torch.empty(0)],
        "many": [torch.full((2,), n) for n in range(120)],
    }
    given = dict(given)
    config.save.storage_alignment = given.pop("alignment", 64)
    torch.serialization.set_crc32_options(given.pop("crc32", True))
    try:
        data = saved(values[value], **given)
    finally:
        config.save.storage_alignment = 64
        torch.serialization.set_crc32_options(True)
    assert agree(data)
    assert torch_zip.write(torch_zip.read(data)) == data
    assert torch.load(io.BytesIO(data), weights_only=False) is not None


PLAIN = {"a": 1, "b": [1, 2, "x"]}
_LITTLE, _VERSION, _ID = ("byteorder", b"little"), ("version", b"3\n"), ".data/serialization_id"
# What a release writes beside data.pkl, and the SHA-256 of the PLAIN file that it wrote.
RELEASES = {
    "1.13.1": (
        [_VERSION],
        "142db0b2d049d9094a657f789b755405016488cbe9c842ac6e38cd5e5d1cfe64",
    ),
    "2.1.2, 2.4.1, 2.5.1": (
        [_LITTLE, _VERSION, (_ID, b"0636457737946401051300000012752430158542")],
        "56a794851ef1adb911ce3b8828c56967c37abc10ec7feab39502ebab942becca",
    ),
    "2.7.1, 2.13.0, 2.14.1": (
        [
            (".format_version", b"1"),
            (".storage_alignment", b"64"),
            _LITTLE,
            _VERSION,
            (_ID, b"0290846867776292310400052645689442859913"),
        ],
        "e2f4d2e37594b408fc9d83f5b1ef11682e1e5e3d7c00ebaa1d50198424024be6",
    ),
}


@pytest.mark.parametrize("release", RELEASES)
def test_what_other_releases_of_torch_write_is_read(release: str) -> None:
    others, digest = RELEASES[release]
    members = [("data.pkl", pickle.dumps(PLAIN, 2)), *others]
    data = torch_zips.zipped([(f"archive/{name}", body) for name, body in members])
    assert hashlib.sha256(data).hexdigest() == digest
    assert agree(data)
    assert torch_zip.write(torch_zip.read(data)) == data


@pytest.mark.parametrize("name", ["common.pt", "no suffix", "a.b.c", "ünï cödé.pt", "x" * 200])
def test_any_name_of_a_file(tmp_path: Path, name: str) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    assert agree(data)
    assert torch_zip.write(torch_zip.read(data)) == data


def test_a_file_of_more_members_than_a_zip_counts() -> None:
    members = [("archive/data.pkl", pickle.dumps([], 2)), ("archive/version", b"3\n")]
    members += [(f"archive/data/{n}", b"x") for n in range(70_000)]
    data = torch_zips.zipped(members)
    found = torch_zip.read(data)
    assert len(found.members) == len(members)
    assert torch_zip.write(found) == data
    assert torch._C.PyTorchFileReader(io.BytesIO(data)).get_record("data/69999") == b"x"


def test_a_wrong_content_is_seen_by_its_checksum() -> None:
    data = bytearray(SAVED)
    data[data.index(MEMBERS[0][1]) + 5] ^= 1
    with pytest.raises(PickleError, match=r"the CRC or size after data\.pkl, at byte \d+"):
        torch_zip.read(bytes(data))


# -- through the verbs


@pytest.mark.parametrize("name", ["twin by case, Data.pkl", "two files, the other way round"])
def test_verify_tells_of_a_sharded_object_with_two_pickles(
    run: Run, copy: Callable[[str], Path], name: str
) -> None:
    root = copy("0.19.0-idle-w1")
    path = checkpoint_of(root) / ".metadata"
    metadata = torch_side.unpickle(path.read_bytes())
    index, where = next(
        (index, where)
        for index, where in metadata.storage_data.items()
        if index.fqn == "common_state/shard_0_1"
    )
    payload = (path.parent / where.relative_path).read_bytes()
    members = members_of(payload[where.offset : where.offset + where.length])
    data = torch_zips.differentials(members, members[0][1])[name]
    (path.parent / "__0_9.distcp").write_bytes(data)
    metadata.storage_data[index] = dataclasses.replace(
        where, relative_path="__0_9.distcp", offset=0, length=len(data)
    )
    with torch_side.megatron_names():
        path.write_bytes(pickle.dumps(metadata, 4))
    result = run("verify", root)
    assert result.returncode == 1
    assert "is not a torch zip" in result.stdout
    refused(run("inspect", root), "is not a torch zip", "common_state/shard_0_1")


class Sparse:
    """A file that keeps only what is not a long run of zeros."""

    def __init__(self) -> None:
        self.size = 0
        self.parts: list[tuple[int, bytes]] = []

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if len(view) < 2**20:
            self.parts.append((self.size, bytes(view)))
        else:
            assert view[0] == 0 == view[-1]
        self.size += len(view)
        return len(view)

    def flush(self) -> None:
        pass

    def read(self, offset: int, size: int) -> bytes:
        data = bytearray(size)
        for start, part in self.parts:
            first, end = max(start, offset), min(start + len(part), offset + size)
            if first < end:
                data[first - offset : end - offset] = part[first - start : end - start]
        return bytes(data)


@pytest.mark.costly("torch saves four gibibytes")
@pytest.mark.parametrize("count", [2**30 - 1, 2**30 + 5])
def test_files_of_four_gibibytes_are_outlined(count: int) -> None:
    """Below 4 GiB, the offsets of later members are in ZIP64 fields; above, the sizes are, too."""
    file = Sparse()
    torch.save([torch.zeros(count), torch.arange(10.0), torch.arange(3.0)], file)  # type: ignore[arg-type]
    found = torch_zip.outline(file.read, file.size)
    stored = [body for _, body in found.members if isinstance(body, torch_zip.Stored)]
    assert [body.size for body in stored] == [4 * count, 40, 12]
    for body, expected in zip(stored[1:], (torch.arange(10.0), torch.arange(3.0)), strict=True):
        data = file.read(body.offset, body.size)
        assert data == expected.numpy().tobytes()
        assert body.checksum == zlib.crc32(data)
    assert found.length == file.size
