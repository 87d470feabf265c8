"""Keys of a store that are no path below a directory: refused by name, never left out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import flaky_store
import pytest
import torch_side
from conftest import CLI, SAMPLES, Run
from flaky_store import FlakyFileSystem, below
from gcp_storage_emulator.server import create_server
from object_stores import url
from s3_server import BUCKET, Bucket, files_of

import ckptmigrate
from ckptmigrate import CkptMigrateError, UnsupportedFormatError, migrate
from ckptmigrate.places import Url
from ckptmigrate.storage.directories import is_dir

pytest_plugins = ["store_fixtures"]

SAMPLE = "0.18.2-idle-w1"
CHECKPOINT = "iter_0000005"
PUT = "import fsspec, sys; fsspec.filesystem('gs').pipe_file(sys.argv[1], sys.argv[2].encode())"


@pytest.mark.parametrize("key", ["/x", "/deeper/x", "/", "sub//x", "../x", "./x", "sub/../x"])
@pytest.mark.parametrize("where", [f"run/{CHECKPOINT}", "run"])
def test_every_verb_names_it(key: str, where: str, tmp_path: Path) -> None:
    run = flaky_store.put(SAMPLES / SAMPLE, "run")
    FlakyFileSystem.objects[f"bucket/{where}/{key}"] = b"x"
    before = below("")
    verbs = {
        "out": lambda: migrate(run, to="pre-rerun", output="flaky://bucket/out"),
        "down": lambda: migrate(run, to="pre-rerun", output=tmp_path / "out"),
    }
    deep = key.startswith("sub") or where == "run"  # what a look at the checkpoint does not list
    if not deep:
        verbs["in place"] = lambda: migrate(run, to="pre-rerun", in_place=True)
        verbs["inspect"] = lambda: ckptmigrate.inspect(run)
        verbs["verify"] = lambda: ckptmigrate.verify(run)
        verbs["repair"] = lambda: ckptmigrate.repair(run)
    if where == "run":
        verbs = {"all": lambda: ckptmigrate.verify(run, every=True)} if not deep else {}
    for name, verb in verbs.items():
        with pytest.raises(CkptMigrateError, match="contains an object with the part '") as caught:
            verb()
        assert caught.value.fix, name
        assert below("") == before, name
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "key", ["common.pt/x", "metadata.json/x", "x?versionId=1", "common.pt?versionId=null", "\ud800"]
)
def test_what_no_file_can_be_named(key: str, tmp_path: Path) -> None:
    """A file and a directory in one, a version of another object, no UTF-8."""
    run = flaky_store.put(SAMPLES / SAMPLE, "run")
    FlakyFileSystem.objects[f"bucket/run/{CHECKPOINT}/{key}"] = b"x"
    before = below("")
    verbs = {
        "out": lambda: migrate(run, to="pre-rerun", output="flaky://bucket/out"),
        "down": lambda: migrate(run, to="pre-rerun", output=tmp_path / "out"),
        "in place": lambda: migrate(run, to="pre-rerun", in_place=True),
        "inspect": lambda: ckptmigrate.inspect(run),
        "verify": lambda: ckptmigrate.verify(run),
        "repair": lambda: ckptmigrate.repair(run),
    }
    for name, verb in verbs.items():
        with pytest.raises(CkptMigrateError, match=r"an object (with the part|and a dir)"):
            verb()
        assert below("") == before, name
    assert not list(tmp_path.iterdir())


ODD = [
    "a\nb", "a\r", "\t", "\x1b[31m", "\x7f", "a\x85", "\u202e", "\U0001f600", "%FF%FE", "%2e%2e",
    "a%2Fb",
    "x#1", "x?y", "*", "[a]", "a\\b", " x ", "a+b", "~", "a::b", "<&>", "-rf", "$(x)", "n" * 255,
]  # fmt: skip


def test_odd_names_are_carried(tmp_path: Path) -> None:
    run = flaky_store.put(SAMPLES / SAMPLE, "run")
    odd = {f"{CHECKPOINT}/{name}": name.encode() for name in ODD}
    for name, content in odd.items():
        FlakyFileSystem.objects[f"bucket/run/{name}"] = content
    migrate(run, to="pre-rerun", output="flaky://bucket/out")
    migrate(run, to="pre-rerun", output=tmp_path / "out")
    migrate(tmp_path / "out", to="split-rerun", output="flaky://bucket/back")
    assert odd.items() <= files_of(tmp_path / "out").items()
    for made in ("out", "back"):
        assert all(below(made)[name] == content for name, content in odd.items())


def test_a_name_that_is_too_long_for_a_file(tmp_path: Path) -> None:
    run = flaky_store.put(SAMPLES / SAMPLE, "run")
    FlakyFileSystem.objects[f"bucket/run/{CHECKPOINT}/{'n' * 256}"] = b"x"
    migrate(run, to="pre-rerun", output="flaky://bucket/out")
    with pytest.raises(CkptMigrateError, match="n: has a name of more than 255 bytes"):
        migrate(run, to="pre-rerun", output=tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["iter_", "iter_0000005/iter_", "iter_0000005/__"])
def test_a_number_of_5000_digits(name: str) -> None:
    """More than Python converts to an integer."""
    run = flaky_store.put(SAMPLES / SAMPLE, "run")
    FlakyFileSystem.objects[f"bucket/run/{name}{'1' * 5000}_0.distcp"] = b"x"
    FlakyFileSystem.objects[f"bucket/run/{name}{'1' * 5000}/x"] = b"x"
    assert ckptmigrate.inspect(run).layouts
    assert ckptmigrate.verify(run, every=True).clean
    migrate(run, to="pre-rerun", output="flaky://bucket/out", every=True)


def test_an_iteration_of_5000_digits(tmp_path: Path) -> None:
    """Of a checkpoint that is named itself, and whose common state names no iteration."""
    shutil.copytree(SAMPLES / SAMPLE, tmp_path / "run")
    torch_side.edit_common(tmp_path / "run", lambda state: state.pop("iteration"))
    there = flaky_store.put(tmp_path / "run" / CHECKPOINT, f"iter_{'1' * 5000}")
    assert ckptmigrate.inspect(there).iteration is None


def test_thousands_of_directories_are_not_searched() -> None:
    """Each is a request, and could be a nested checkpoint."""
    run = flaky_store.put(SAMPLES / SAMPLE, "run")
    for number in range(200):
        FlakyFileSystem.objects[f"bucket/run/{CHECKPOINT}/d{number}/x"] = b"x"
    assert ckptmigrate.inspect(run).layouts
    for number in range(200, 3000):
        FlakyFileSystem.objects[f"bucket/run/{CHECKPOINT}/d{number}/x"] = b"x"
    before = below("")
    verbs = {
        "out": lambda: migrate(run, to="pre-rerun", output="flaky://bucket/out"),
        "in place": lambda: migrate(run, to="pre-rerun", in_place=True),
        "inspect": lambda: ckptmigrate.inspect(run),
        "verify": lambda: ckptmigrate.verify(run),
        "repair": lambda: ckptmigrate.repair(run),
    }
    for name, verb in verbs.items():
        FlakyFileSystem.requests.clear()
        with pytest.raises(CkptMigrateError, match="contains more than 200 directories"):
            verb()
        assert len(FlakyFileSystem.requests) < 2 * 250, name
        assert below("") == before, name


def test_a_zarr_checkpoint_is_named_before_its_directories_are_searched() -> None:
    run = flaky_store.put(SAMPLES / SAMPLE, "run")
    objects = FlakyFileSystem.objects
    del objects[f"bucket/run/{CHECKPOINT}/.metadata"]
    objects[f"bucket/run/{CHECKPOINT}/metadata.json"] = (
        b'{"sharded_backend": "zarr", "sharded_backend_version": 1}'
    )
    for number in range(300):
        objects[f"bucket/run/{CHECKPOINT}/d{number}/.zarray"] = b"{}"
    FlakyFileSystem.requests.clear()
    with pytest.raises(UnsupportedFormatError, match="is a zarr checkpoint"):
        migrate(run, to="pre-rerun", output="flaky://bucket/out")
    assert len(FlakyFileSystem.requests) < 30


def test_an_object_that_stands_for_a_directory_is_none(tmp_path: Path) -> None:
    """Consoles make an empty object named `run/`, which no migration carries over."""
    run = flaky_store.put(SAMPLES / SAMPLE, "run")
    for name in ("run/", f"run/{CHECKPOINT}/"):
        FlakyFileSystem.objects[f"bucket/{name}"] = b""
    assert ckptmigrate.inspect(run).layouts
    migrate(run, to="pre-rerun", output="flaky://bucket/out")
    migrate(run, to="pre-rerun", in_place=True)
    FlakyFileSystem.objects[f"bucket/run/{CHECKPOINT}/"] = b"not empty"
    with pytest.raises(CkptMigrateError, match="with the part ''"):
        ckptmigrate.inspect(run)


def test_what_lies_beside_the_checkpoint_is_not_its_business() -> None:
    run = flaky_store.put(SAMPLES / SAMPLE, "run")
    FlakyFileSystem.objects["bucket//x"] = b"x"
    FlakyFileSystem.objects["bucket/other//x"] = b"x"
    migrate(run, to="pre-rerun", output="flaky://bucket/out")
    place = Url("flaky", "bucket/other")
    assert is_dir(place)
    assert not is_dir(place.with_name("nothing"))


def test_a_real_server(bucket: Bucket, s3: Run) -> None:
    bucket.put(SAMPLES / SAMPLE, "run")
    bucket.client.put_object(Bucket=BUCKET, Key=f"run/{CHECKPOINT}/", Body=b"")
    assert s3("inspect", url("run")).returncode == 0
    bucket.client.put_object(Bucket=BUCKET, Key=f"run/{CHECKPOINT}//x", Body=b"x")
    told = s3("inspect", url("run"))
    assert told.returncode == 1
    assert f"{url('run')}/{CHECKPOINT}: contains an object with the part ''" in told.stderr


@pytest.mark.full
@pytest.mark.costly("gcsfs takes seconds to be imported")
def test_google_cloud_storage(run: Run) -> None:
    """gcsfs names a placeholder and an empty part alike."""
    there = f"gs://{BUCKET}/run"
    with create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET) as server:
        told = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{server._api._httpd.server_port}"}
        made = run("downgrade", SAMPLES / SAMPLE, "--to", "split-rerun", "-o", there, **told)
        assert made.returncode == 0, made.stderr
        for key, content, status in (("/", "", 0), ("//x", "x", 1)):
            words = [f"{there}/{CHECKPOINT}{key}", content]
            put = CLI.run(words, code=PUT, env={**os.environ, **told})
            assert put.returncode == 0, put.stderr
            found = run("inspect", there, **told)
            assert found.returncode == status, found.stderr
            assert ("with the part ''" in found.stderr) == bool(status)
