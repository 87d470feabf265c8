"""Conversions of the optimizer of checkpoints in an object store, on a real S3 server."""

from __future__ import annotations

import shutil
from pathlib import Path

import optimizer_side
import pytest
from conftest import Run
from object_stores import url, without_time
from s3_server import Bucket, files_of
from test_optimizer_migration import BUCKETS, DAMAGED, OLD, check_elements

import ckptmigrate
from ckptmigrate import DamagedError, migrate

pytest_plugins = ["store_fixtures"]
SAMPLES = optimizer_side.SAMPLES
TARGETS = {OLD: "0.16", BUCKETS: "0.13"}


def download(bucket: Bucket, name: str, sample: str, parent: Path) -> Path:
    """Return a local copy of a root in the bucket, in a directory with the name of its sample."""
    root = parent / sample
    shutil.rmtree(root, ignore_errors=True)
    for key, content in bucket.tree(name).items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(OLD, marks=pytest.mark.costly("conversions through the server, three times")),
        pytest.param(BUCKETS, marks=pytest.mark.full),
    ],
)
def test_as_locally(name: str, bucket: Bucket, s3: Run, tmp_path: Path) -> None:
    """Out of place and in place, undone byte for byte, and with the originals given up."""
    source = files_of(SAMPLES / name)
    bucket.put(SAMPLES / name, "run")
    to, out = TARGETS[name], tmp_path / "out"
    migrate(url("run"), to=to, optimizer="convert", output=url("out"))
    migrate(SAMPLES / name, to=to, optimizer="convert", output=out)
    assert without_time(bucket.tree("out")) == without_time(files_of(out))
    assert bucket.tree("run") == source
    check_elements(download(bucket, "out", name, tmp_path), name)
    assert ckptmigrate.diff(url("out"), url("run"), values=True) != []
    assert ckptmigrate.diff(url("out"), out, values=True) == []
    verified = s3("verify", url("out"), "--optimizer")
    assert verified.returncode == 0, verified.stdout
    # In place.
    migrate(url("run"), to=to, optimizer="convert", in_place=True)
    check_elements(download(bucket, "run", name, tmp_path), name)
    ckptmigrate.undo(url("run"))
    assert bucket.tree("run") == source
    done = s3("migrate", url("run"), "--to", to, "--optimizer", "convert", "--in-place")
    assert done.returncode == 0, done.stderr
    forgotten = s3("undo", url("run"), "--forget")
    assert forgotten.returncode == 0, forgotten.stderr
    assert not any(".ckptmigrate" in key or "ckptmigrate.json" in key for key in bucket.tree("run"))
    check_elements(download(bucket, "run", name, tmp_path), name)


def test_between_a_directory_and_a_store(bucket: Bucket, tmp_path: Path) -> None:
    migrate(SAMPLES / OLD, to="0.16", optimizer="convert", output=url("up"))
    check_elements(download(bucket, "up", OLD, tmp_path), OLD)
    migrate(url("up"), to="0.13", output=tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(SAMPLES / OLD)


def test_a_damaged_source_is_refused_with_nothing_written(bucket: Bucket, s3: Run) -> None:
    bucket.put(SAMPLES / DAMAGED, "run")
    before = bucket.tree("")
    with pytest.raises(DamagedError, match=r"releases 0\.15 to 0\.19 write it damaged"):
        migrate(url("run"), to="0.13", optimizer="convert", output=url("out"))
    assert s3("verify", url("run"), "--optimizer").returncode == 1
    assert bucket.tree("") == before
