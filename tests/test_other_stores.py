"""The same through multi-storage-client, and against Google's API."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gs_server
import pytest
from conftest import INDEX, SAMPLES, Run, refused
from fault_proxy import KINDS, faulty
from flaky_store import FlakyFileSystem, ServerError
from gs_server import GsBucket
from msc_profiles import msc
from object_stores import CLI, NAME, visible
from s3_server import BUCKET, Bucket, files_of

from ckptmigrate.errors import StoreError
from ckptmigrate.places import Url
from ckptmigrate.storage.store import store_of
from ckptmigrate.storage.urls import place
from ckptmigrate.writing.store_publisher import StorePublisher

pytest_plugins = ["store_fixtures"]

# -- what a web server lists


class Handler(SimpleHTTPRequestHandler):
    """Python's own server, with ranges: those that fsspec asks for."""

    def do_GET(self) -> None:
        name = self.translate_path(self.path)
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if found is None:
            super().do_GET()
            return
        first, last = int(found[1]), int(found[2])
        part = Path(name).read_bytes()[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def web_server(handler: type[SimpleHTTPRequestHandler]) -> Iterator[str]:
    """The URL of the samples."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(SAMPLES))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_a_checkpoint_behind_a_web_server_is_read(stores: Run) -> None:
    with web_server(Handler) as samples:
        told = stores("verify", f"{samples}/{NAME}")
        assert (told.returncode, told.stderr) == (0, "")
        here = stores("inspect", SAMPLES / NAME).stdout
        assert stores("inspect", f"{samples}/{NAME}").stdout == here.replace(str(SAMPLES), samples)
        refused(stores("downgrade", f"{samples}/{NAME}", "--to", "0.17", "--in-place"), "cannot be")


def test_a_web_server_without_ranges_is_not_believed(stores: Run) -> None:
    with web_server(SimpleHTTPRequestHandler) as samples:
        for verb in ("inspect", "verify"):
            refused(stores(verb, f"{samples}/{NAME}"), "requested bytes; copy the checkpoint")


# -- Megatron's own multi-storage-client


@pytest.mark.costly("each command sets up boto3 for the library")
@pytest.mark.parametrize("profile", ["disk", "moto"])
def test_multi_storage_client(
    profile: str, bucket: Bucket, port: int, s3: Run, tmp_path: Path
) -> None:
    more = msc(port, tmp_path / "msc.json")
    (tmp_path / "disk").mkdir()
    source = files_of(SAMPLES / NAME)
    run, out = f"msc://{profile}/run", f"msc://{profile}/out"
    to = ("--to", "split-rerun", "--allow-loss", "fault-context")

    def tree(name: str) -> dict[str, bytes]:
        return bucket.tree(name) if profile == "moto" else files_of(tmp_path / "disk" / name)

    def ok(*arguments: object) -> str:
        told = s3(*arguments, **more)
        assert told.returncode == 0, told.stderr
        return told.stdout

    local = tmp_path / "local"
    ok("upgrade", SAMPLES / NAME, "--to", "always-sentinel", "-o", run)
    assert visible(tree("run")) == visible(source)
    assert f"run the job with --load {out}" in ok("downgrade", run, *to, "-o", out)
    ok("migrate", out, "--to", "always-sentinel", "-o", f"{out}-back")
    assert tree("out-back") == tree("run")
    ok("downgrade", run, *to, "--in-place")
    assert ok("verify", run, "--hash").splitlines()[0].startswith(run)
    ok("undo", run)
    assert visible(tree("run")) == visible(source)
    ok("downgrade", run, *to, "-o", local)
    ok("migrate", local, "--to", "always-sentinel", "-o", tmp_path / "back")
    assert visible(files_of(tmp_path / "back")) == visible(source)


# -- gs://: Google's own servers cannot be reached from where the tests run


@pytest.fixture
def emulator() -> Iterator[dict[str, str]]:
    """A server of Google Cloud Storage's API that is not Google's, by the way to it."""
    with gs_server.served() as port:
        yield gs_server.environment(port)


def test_gs_out_of_place_in_place_and_back(
    emulator: dict[str, str], stores: Run, tmp_path: Path
) -> None:
    def ok(*arguments: object) -> None:
        told = stores(*arguments, **emulator)
        assert told.returncode == 0, told.stderr
        assert told.stderr == ""

    there = f"gs://{BUCKET}"
    to = ("--to", "split-rerun", "--allow-loss", "fault-context")
    ok("upgrade", SAMPLES / NAME, "--to", "always-sentinel", "-o", f"{there}/run")
    ok("downgrade", f"{there}/run", *to, "-o", f"{there}/out")
    ok("downgrade", f"{there}/run", *to, "--in-place")
    refused(stores("upgrade", SAMPLES / NAME, "-o", f"{there}/out", **emulator), "exists")
    ok("undo", f"{there}/run")
    back = INDEX[NAME]["layout"]
    for name in ("run", "out"):
        ok("migrate", f"{there}/{name}", "--to", back, "-o", tmp_path / name)
        assert files_of(tmp_path / name) == files_of(SAMPLES / NAME)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("403", "no permission to "), ("412 from then on", "a failed precondition")],
)
def test_gs_says_what_a_refusal_is(kind: str, message: str, stores: Run) -> None:
    """gcsfs raises the error of a file that exists, or one of no kind."""
    there = f"gs://{BUCKET}/run"
    with gs_server.served() as port:
        GsBucket(port).put_tree(files_of(SAMPLES / NAME), "run")
        for words in (("inspect", there), ("undo", there), ("upgrade", there, "-o", f"{there}.2")):
            with faulty(port, KINDS[kind], at=1) as proxy:
                told = stores(*words, **gs_server.environment(proxy.port))
            refused(told, message)
            assert "internal error" not in told.stderr
            assert "another program" not in told.stderr


def test_gs_is_handed_to_gcsfs_and_says_what_it_lacks() -> None:
    found = place("gs://bucket/run")
    assert found == Url("gs", "bucket/run")
    code = (
        "import os; os.environ['GOOGLE_APPLICATION_CREDENTIALS'] = '/nowhere.json'; "
        "import fsspec; fsspec.config.conf['gs'] = {'token': 'google_default'}; "
        "from ckptmigrate.cli import main; main()"
    )
    result = CLI.run(["inspect", "gs://bucket/run"], code=code)
    refused(result, "without credentials", "/nowhere.json", "GOOGLE_APPLICATION_CREDENTIALS")


# -- refusals


@pytest.mark.parametrize("write", ["create", "replace", "upload"])
def test_a_refusal_is_not_an_object_that_exists(
    write: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a store refuses that was not asked to refuse anything."""
    (tmp_path / "x").write_bytes(b"x")
    there = Url("flaky", "bucket/x")
    store = store_of(there)
    monkeypatch.setattr(store, "is_exclusive", False)
    writes = {
        "create": lambda: store.create(there, b"x"),
        "replace": lambda: store.replace(there, b"x"),
        "upload": lambda: store.upload(tmp_path / "x", there, lambda _: None),
    }

    def refuse(operation: str, _: str) -> None:
        if operation == "PUT":
            raise ServerError("PreconditionFailed")

    with (
        FlakyFileSystem.disturbed(before=refuse),
        pytest.raises(StoreError, match="a failed precondition"),
    ):
        writes[write]()


class PreconditionFailedError(Exception):
    """What multi-storage-client raises for a 412, by its name."""


@pytest.mark.parametrize("error", [FileExistsError, PreconditionFailedError])  # gcsfs: the first
def test_a_refused_replacement_is_not_an_object_that_exists(error: type[Exception]) -> None:
    there = Url("flaky", "bucket/x")

    def refuse(operation: str, _: str) -> None:
        if operation == "PUT":
            raise error("bucket/x")

    with (
        FlakyFileSystem.disturbed(before=refuse),
        pytest.raises(StoreError, match="a failed precondition"),
    ):
        store_of(there).replace(there, b"x")


@pytest.mark.parametrize("error", [PermissionError("x"), OSError("Forbidden: x")])  # s3fs, gcsfs
def test_a_directory_that_may_not_be_listed_has_no_known_lock(error: OSError) -> None:
    def deny(operation: str, _: str) -> None:
        if operation == "LIST":
            raise error

    with FlakyFileSystem.disturbed(before=deny):
        assert StorePublisher(Url("flaky", "bucket/runs")).leftovers() == []
