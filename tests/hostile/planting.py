"""Put hostile pickles and files into a copy of a sample."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch_side
import torch_zips
from conftest import SAMPLES, checkpoint_of
from hostile.batch import RERUN, SAMPLE
from hostile.pickles import GADGETS, slipped_into, whole


def plant_in_metadata(root: Path, body: bytes) -> None:
    path = checkpoint_of(root) / ".metadata"
    path.write_bytes(slipped_into(path.read_bytes(), body))


def plant_alone(root: Path, body: bytes) -> None:
    (checkpoint_of(root) / ".metadata").write_bytes(whole(body))


def with_gadget(archive: bytes, body: bytes) -> bytes:
    """A torch zip whose pickle also runs the gadget."""
    (name, pickled), *others = members_of(archive)
    return torch_zips.zipped([(name, slipped_into(pickled, body)), *others])


def members_of(archive: bytes) -> list[tuple[str, bytes]]:
    """The members of a torch zip by their whole names, data.pkl first."""
    with zipfile.ZipFile(io.BytesIO(archive)) as zipped:
        return [(info.filename, zipped.read(info)) for info in zipped.infolist()]


def plant_in_common(root: Path, body: bytes) -> None:
    path = checkpoint_of(root) / "common.pt"
    path.write_bytes(with_gadget(path.read_bytes(), body))


def replace_blob(root: Path, change: Callable[[bytes], bytes]) -> None:
    """Put other bytes behind the rerun shard, with the real classes of torch."""
    path = checkpoint_of(root) / ".metadata"
    metadata = torch_side.unpickle(path.read_bytes())
    for index, where in metadata.storage_data.items():
        if index.fqn == RERUN:
            payload = (path.parent / where.relative_path).read_bytes()
            blob = change(payload[where.offset : where.offset + where.length])
            metadata.storage_data[index] = dataclasses.replace(
                where, relative_path="__0_9.distcp", offset=0, length=len(blob)
            )
            (path.parent / "__0_9.distcp").write_bytes(blob)
    with torch_side.megatron_names():
        path.write_bytes(pickle.dumps(metadata, 4))


def plant_in_blob(root: Path, body: bytes) -> None:
    replace_blob(root, lambda blob: with_gadget(blob, body))


def zip_bomb(root: Path) -> None:
    with zipfile.ZipFile(checkpoint_of(root) / "common.pt", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("common/data.pkl", b"\0" * 50_000_000)


def zip_with(*names: str) -> Callable[[Path], None]:
    """common.pt with further members of these names."""

    def plant(root: Path) -> None:
        path = checkpoint_of(root) / "common.pt"
        members = members_of(path.read_bytes())
        path.write_bytes(torch_zips.zipped([*members, *((name, b"x") for name in names)]))

    return plant


def zip_read_in_two_ways(kind: str) -> Callable[[Path], None]:
    """common.pt with a second pickle, which torch or another reader finds first."""

    def plant(root: Path) -> None:
        path = checkpoint_of(root) / "common.pt"
        members = members_of(path.read_bytes())
        body = slipped_into(members[0][1], GADGETS["posix.system"])
        path.write_bytes(torch_zips.differentials(members, body)[kind])

    return plant


def zip_quoting_itself(root: Path) -> None:
    """Members that overlap: many names for one run of bytes."""
    path = checkpoint_of(root) / "common.pt"
    with zipfile.ZipFile(path, "a") as zipped:
        zipped.writestr("common/big", b"x" * 1_000_000)
        [big] = [i for i in zipped.filelist if i.filename == "common/big"]
        for number in range(3000):
            twin = zipfile.ZipInfo(f"common/{number}")
            for field in ("CRC", "file_size", "compress_size", "header_offset", "flag_bits"):
                setattr(twin, field, getattr(big, field))
            zipped.filelist.append(twin)
            zipped._didModify = True


def linked(name: str, target: str) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        path = checkpoint_of(root) / name
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return plant


def fifo(name: str) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        path = checkpoint_of(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    return plant


def folder(name: str) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        path = checkpoint_of(root) / name
        path.unlink()
        path.mkdir()

    return plant


def sparse(name: str, size: int) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        path = checkpoint_of(root) / name
        with path.open("ab") as file:
            file.truncate(size)

    return plant


def written(name: str, content: str | bytes) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (checkpoint_of(root) / name).write_bytes(data)

    return plant


def tracker(content: str) -> Callable[[Path], None]:
    return lambda root: (
        (root / "latest_checkpointed_iteration.txt").write_text(content) and None  # type: ignore[func-returns-value]
    )


def moved_to(name: str, offset: int = 0, length: int = 10) -> Callable[[Path], None]:
    """A byte range of the rerun shard that `.metadata` places elsewhere."""

    def plant(root: Path) -> None:
        path = checkpoint_of(root) / ".metadata"
        metadata = torch_side.unpickle(path.read_bytes())
        for index, where in metadata.storage_data.items():
            if index.fqn == RERUN:
                metadata.storage_data[index] = dataclasses.replace(
                    where, relative_path=name, offset=offset, length=length
                )
        with torch_side.megatron_names():
            path.write_bytes(pickle.dumps(metadata, 4))

    return plant


def sidecar(step: dict[str, Any], *, kept: Callable[[Path], None] | None = None) -> Any:
    """A sidecar of one step, and something in the place of the originals."""

    def plant(root: Path) -> None:
        row = {
            "verb": "upgrade", "source": ["pre-rerun"], "target": "always-sentinel",
            "version": "1", "time": "", "losses": [], "changes": [], "files": {},
        }  # fmt: skip
        content = {"format": 1, "steps": [{**row, **step}]}
        (checkpoint_of(root) / "ckptmigrate.json").write_text(json.dumps(content))
        if kept is not None:
            kept(root)

    return plant


def original_of(name: str) -> dict[str, Any]:
    """Digests that vouch for the file as it is, so that its original is read."""
    data = (checkpoint_of(SAMPLES / SAMPLE) / name).read_bytes()
    return {"files": {name: {"before": "0" * 64, "after": hashlib.sha256(data).hexdigest()}}}


def endless_original(root: Path) -> None:
    place = checkpoint_of(root) / ".ckptmigrate" / "0001"
    place.mkdir(parents=True)
    (place / "common.pt").symlink_to("/dev/zero")


MARKER = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
DEEP = "[" * 100_000 + "]" * 100_000

# name -> (how it is planted, whether every verb has to refuse it, as opposed to go on)
FILES: dict[str, tuple[Callable[[Path], object], bool]] = {
    "zip bomb": (zip_bomb, True),
    "zip entry with ..": (zip_with("../../../etc/cron.d/x"), True),
    "zip entry with .. inside its folder": (zip_with("common/../../x"), True),
    "zip entry, absolute": (zip_with("/etc/cron.d/x"), True),
    "zip entry twice": (zip_with("common/data.pkl"), True),
    "zip entry of NUL": (zip_with("common/a\0b"), True),
    "zip entry twice, but for case": (zip_read_in_two_ways("twin by case, Data.pkl"), True),
    "two zips in one file": (zip_read_in_two_ways("two files, the other way round"), True),
    "zip with a ZIP64 locator to elsewhere": (
        zip_read_in_two_ways("ZIP64 locator into a member"), True,
    ),
    "zip with a Unicode path": (zip_read_in_two_ways("Unicode path of a twin"), True),
    "zip with a hidden member": (zip_read_in_two_ways("a hidden member between"), True),
    "zip that quotes itself": (zip_quoting_itself, True),
    "payload is a link to /etc/passwd": (linked("__0_0.distcp", "/etc/passwd"), True),
    "payload is a link out of the root": (linked("__0_0.distcp", "../../../secret"), True),
    "payload is a link to itself": (linked("__0_0.distcp", "__0_0.distcp"), True),
    "payload is a link to a device": (linked("__0_0.distcp", "/dev/zero"), True),
    "payload is a FIFO": (fifo("__0_0.distcp"), True),
    "payload is a folder": (folder("__0_0.distcp"), True),
    "common.pt is a FIFO": (fifo("common.pt"), True),
    "common.pt is a device": (linked("common.pt", "/dev/zero"), True),
    "common.pt is a folder": (folder("common.pt"), True),
    "common.pt is a link to /etc/passwd": (linked("common.pt", "/etc/passwd"), True),
    "common.pt of a terabyte": (sparse("common.pt", 10**12), True),
    "common.pt of two gigabytes": (sparse("common.pt", 2 * 10**9), True),
    ".metadata is a FIFO": (fifo(".metadata"), True),
    ".metadata is a device": (linked(".metadata", "/dev/zero"), True),
    ".metadata is a link to /etc/passwd": (linked(".metadata", "/etc/passwd"), True),
    ".metadata of a terabyte": (sparse(".metadata", 10**12), True),
    ".metadata of two gigabytes": (sparse(".metadata", 2 * 10**9), True),
    "metadata.json is a FIFO": (fifo("metadata.json"), True),
    "metadata.json is a link to /etc/passwd": (linked("metadata.json", "/etc/passwd"), True),
    "metadata.json of a gigabyte": (sparse("metadata.json", 10**9), True),
    "metadata.json nested deeply": (written("metadata.json", DEEP), True),
    "metadata.json with a huge number": (written("metadata.json", "9" * 100_000), True),
    "metadata.json with keys twice": (
        written("metadata.json", '{"sharded_backend": "zarr", ' + json.dumps(MARKER)[1:]), False,
    ),
    "metadata.json of version 2": (
        written("metadata.json", json.dumps({**MARKER, "sharded_backend_version": 2})), True,
    ),
    "metadata.json of version true": (
        written("metadata.json", json.dumps({**MARKER, "sharded_backend_version": True})), True,
    ),
    "metadata.json of another common backend": (
        written("metadata.json", json.dumps({**MARKER, "common_backend": "evil"})), True,
    ),
    "metadata.json with a backend of megabytes": (
        written("metadata.json", json.dumps({**MARKER, "sharded_backend": "x" * 9_000_000})), True,
    ),
    "tracker with ..": (tracker("../../../etc"), True),
    "tracker, absolute": (tracker("/etc"), True),
    "tracker of NUL": (tracker("5\0"), True),
    "tracker of megabytes": (tracker("5" * 9_000_000), True),
    "tracker that starts well": (tracker("5" + " " * 100 + "/../../etc"), True),
    "byte range with ..": (moved_to("../../../../../../etc/passwd"), True),
    "byte range, absolute": (moved_to("/etc/passwd"), True),
    "byte range in NUL": (moved_to("__0_0\0.distcp"), True),
    "byte range in nothing": (moved_to(""), True),
    "byte range, negative": (moved_to("__0_0.distcp", offset=-1), True),
    "byte range, huge": (moved_to("__0_0.distcp", length=2**70), True),
    "byte range of other files": (moved_to("common.pt"), True),
    "sidecar that names ../../x": (
        sidecar({"files": {"../../x": {"before": None, "after": None}}}), False,
    ),
    "sidecar with huge numbers": (written("ckptmigrate.json", '{"format": 1e999}'), False),
    "sidecar nested deeply": (written("ckptmigrate.json", DEEP), False),
    "sidecar of a gigabyte": (sparse("ckptmigrate.json", 10**9), False),
    "sidecar is a FIFO": (fifo("ckptmigrate.json"), False),
    "sidecar is a link to /etc/passwd": (linked("ckptmigrate.json", "/etc/passwd"), False),
    "sidecar's original is a FIFO": (
        sidecar(original_of("common.pt"), kept=fifo(".ckptmigrate/0001/common.pt")), False,
    ),
    "sidecar's original is endless": (
        sidecar(original_of("common.pt"), kept=endless_original), False,
    ),
    "integrity.json nested deeply": (written("integrity.json", DEEP), False),
    "integrity.json of a gigabyte": (sparse("integrity.json", 10**9), False),
    "integrity.json with paths": (
        written("integrity.json", '{"algorithm": "sha256", "files": {"../../x": 5}}'), False,
    ),
    "integrity.json is a FIFO": (fifo("integrity.json"), False),
    "a link to a secret beside": (linked("run_config.yaml", "/etc/shadow"), False),
    "a FIFO beside": (fifo("run_config.yaml"), False),
}  # fmt: skip
