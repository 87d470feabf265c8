"""Checkpoints in object stores: a real S3 server, every sample."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import conftest
import fault_proxy
import pytest
from conftest import CORRUPT, HEALTHY, INDEX, SAMPLES, Run, checkpoint_of, refused
from object_stores import CLI, KEPT, TRACKER, url, without_time
from s3_server import BUCKET, Bucket, environment, files_of, proxied, served

import ckptmigrate
from ckptmigrate import LOSSES, Link, RefusedError, migrate
from ckptmigrate.checkpoint import migration_state
from ckptmigrate.errors import DamagedError, DestinationError, StoreError
from ckptmigrate.places import Url
from ckptmigrate.storage.urls import place
from ckptmigrate.writing import store_publisher
from ckptmigrate.writing.leftover import LOCK

pytest_plugins = ["store_fixtures"]


def target_of(name: str) -> str:
    """A layout that a sample does not have."""
    return "none-emitting" if name < "0.14" else "split-rerun"


# -- every sample

SOME = ("0.9.0-idle-w1", "0.14.0-fault-w1", "0.19.0-fault-tp2pp2")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in SOME else pytest.mark.full) for name in HEALTHY],
)
def test_as_locally_and_back_byte_for_byte(name: str, bucket: Bucket, tmp_path: Path) -> None:
    """Out of place and back, in place and undone."""
    source = files_of(SAMPLES / name)
    bucket.put(SAMPLES / name, "run")
    to, losses = target_of(name), tuple(LOSSES)
    migrate(url("run"), to=to, output=url("out"), allow_loss=losses)
    migrate(SAMPLES / name, to=to, output=tmp_path / "out", allow_loss=losses)
    assert without_time(bucket.tree("out")) == without_time(files_of(tmp_path / "out"))
    assert ckptmigrate.diff(url("out"), tmp_path / "out") == []
    with pytest.raises(RefusedError, match="was written out of place"):
        ckptmigrate.undo(url("out"))
    migrate(url("out"), to=INDEX[name]["layout"], output=url("back"))
    assert bucket.tree("back") == source
    assert bucket.tree("run") == source
    assert {key.partition("/")[0] for key in bucket.names("")} == {"run", "out", "back"}
    plans = migrate(url("run"), to=to, in_place=True, allow_loss=losses)
    assert not plans[0].changes_nothing
    migrated = bucket.tree("run")
    assert migrated != source
    payload = [key for key in source if key.endswith(".distcp")]
    assert payload
    assert all(migrated[key] == source[key] for key in payload)
    ckptmigrate.undo(url("run"))
    assert bucket.tree("run") == source


def test_the_corrupt_sample_is_repaired_and_back(bucket: Bucket, s3: Run) -> None:
    source = files_of(SAMPLES / CORRUPT)
    bucket.put(SAMPLES / CORRUPT, "run")
    refused(s3("downgrade", url("run"), "--to", "pre-rerun"), "has a corrupt rerun state")
    assert bucket.tree("run") == source
    assert s3("verify", url("run")).returncode == 1
    assert s3("repair", url("run"), "--in-place").returncode == 0
    assert s3("verify", url("run")).returncode == 0
    assert s3("undo", url("run")).returncode == 0
    assert bucket.tree("run") == source


@pytest.mark.parametrize("name", ["0.18.2-fault-dp2", "0.19.0-idle-tp2", CORRUPT])
def test_the_reading_verbs_say_what_they_say_locally(name: str, bucket: Bucket, s3: Run) -> None:
    bucket.put(SAMPLES / name, "run")
    for verb in (("inspect",), ("check",), ("verify", "--hash"), ("check", "--reader", "0.14.0")):
        here, there = s3(*verb, SAMPLES / name), s3(*verb, url("run"))
        assert there.stdout == here.stdout.replace(str(SAMPLES / name), url("run")), verb
        assert there.returncode == here.returncode


# -- between kinds of places


def test_local_to_a_store_and_from_a_store_to_local(
    bucket: Bucket, s3: Run, tmp_path: Path
) -> None:
    name = "0.18.2-idle-tp2"
    source, layout = files_of(SAMPLES / name), INDEX[name]["layout"]

    def move(path: object, to: str, output: object) -> None:
        assert s3("migrate", path, "--to", to, "-o", output).returncode == 0

    move(SAMPLES / name, "split-rerun", url("up"))
    move(url("up"), layout, url("back"))
    assert bucket.tree("back") == source
    move(url("back"), "split-rerun", tmp_path / "down")
    move(tmp_path / "down", layout, tmp_path / "back")
    assert files_of(tmp_path / "back") == source


def test_progress_tells_every_byte_of_payload(bucket: Bucket, tmp_path: Path) -> None:
    name = "0.18.2-idle-tp2"
    told: dict[str, list[int]] = {"up": [], "inside": [], "down": []}
    out = {"up": url("up"), "inside": url("inside"), "down": str(tmp_path / "down")}
    start: str | Path = SAMPLES / name
    for step, output in out.items():
        migrate(start, to="pre-rerun", output=output, progress=told[step].append)
        start = output
    size = sum(len(v) for k, v in files_of(SAMPLES / name).items() if k.endswith(".distcp"))
    assert all(sum(counts) >= size for counts in told.values()), told


def test_file_urls_are_local_paths(s3: Run, tmp_path: Path) -> None:
    name = "0.16.1-idle-w1"
    out = tmp_path / "with space"
    told = s3("upgrade", f"file://{SAMPLES / name}", "-o", f"file://{tmp_path}/with%20space")
    assert told.returncode == 0, told.stderr
    assert checkpoint_of(out).is_dir()
    assert place(f"file://{out}") == out


def test_memory_is_a_store(tmp_path: Path) -> None:
    import fsspec

    name = "0.18.2-fault-w1"
    memory = fsspec.filesystem("memory")
    memory.put(f"{SAMPLES / name}/", "/tests/run/", recursive=True)
    found = ckptmigrate.inspect("memory://tests/run")
    assert found.layouts == ckptmigrate.inspect(SAMPLES / name).layouts
    migrate("memory://tests/run", to="pre-rerun", in_place=True, allow_loss=["fault-context"])
    migrate(
        "memory://tests/run", to="split-rerun", output=tmp_path / "out", allow_loss=tuple(LOSSES)
    )
    ckptmigrate.undo("memory://tests/run")
    memory.get("/tests/run/", f"{tmp_path}/back/", recursive=True)
    assert files_of(tmp_path / "back") == files_of(SAMPLES / name)
    memory.rm("/tests", recursive=True)


# -- only what is needed is read


@pytest.mark.parametrize("name", ["0.18.2-fault-dp2", "0.19.0-idle-tp2"])
def test_inspect_reads_kilobytes(
    name: str, bucket: Bucket, port: int, s3: Run, record_property: Callable[[str, str], None]
) -> None:
    bucket.put(SAMPLES / name, "run")
    checkpoint = f"run/{checkpoint_of(SAMPLES / name).name}"
    large = f"{checkpoint}/__0_0.distcp"
    put = bucket.client.put_object
    put(Bucket=BUCKET, Key=large, Body=bucket.get(large) + bytes(8 * 1024 * 1024))
    small = sum(len(bucket.get(f"{checkpoint}/{n}")) for n in (".metadata", "metadata.json"))
    with proxied(port) as proxy:
        told = s3("inspect", url("run"), **environment(proxy.port))
    assert told.returncode == 0, told.stderr
    assert small < proxy.received < small + 128 * 1024
    assert proxy.writes == 0
    record_property(
        "safety",
        f"object stores: inspect of {name} with 8 MiB of payload read {proxy.received} bytes "
        f"in {len(proxy.requests)} requests",
    )


def test_payload_is_copied_by_the_server(bucket: Bucket, port: int) -> None:
    name = "0.18.2-idle-w1"
    bucket.put(SAMPLES / name, "run")
    key = f"run/{checkpoint_of(SAMPLES / name).name}/__0_0.distcp"
    content = bucket.get(key) + bytes(16 * 1024 * 1024)
    bucket.client.put_object(Bucket=BUCKET, Key=key, Body=content)
    code = """
import sys, s3fs.core
s3fs.core.MANAGED_COPY_THRESHOLD = 8 * 2**20  # so that 16 MiB are large
from ckptmigrate import migrate
migrate(sys.argv[1], to="split-rerun", output=sys.argv[2])
"""
    with proxied(port) as proxy:
        there = {**os.environ, **environment(proxy.port)}
        done = CLI.run([url("run"), url("out")], code=code, env=there)
    assert done.returncode == 0, done.stderr
    assert proxy.received < 1024 * 1024
    assert any("uploadId" in each.path for each in proxy.requests if each.method == "PUT")
    assert bucket.get(key.replace("run/", "out/")) == content


# -- refusals


def test_nothing_is_overwritten(bucket: Bucket, s3: Run) -> None:
    bucket.put(SAMPLES / "0.18.2-idle-w1", "run")
    bucket.client.put_object(Bucket=BUCKET, Key="out/mine", Body=b"keep")
    before = bucket.tree("")
    for out, why in ((url("out"), "exists"), (url("run/in"), "inside the source")):
        refused(s3("downgrade", url("run"), "--to", "pre-rerun", "-o", out), why)
    refused(s3("downgrade", url("run"), "--to", "pre-rerun", "-o", f"s3://{BUCKET}"), "bucket")
    for link in (Link.REFLINK, Link.HARDLINK, Link.SYMLINK):
        result = s3("downgrade", url("run"), "--to", "pre-rerun", "--link", link.value)
        refused(result, f"--link {link.value}", "no links", "--link auto")
    assert bucket.tree("") == before


def test_a_destination_that_appears_meanwhile_is_left_alone(
    bucket: Bucket, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put(SAMPLES / "0.18.2-idle-w1", "run")
    checkpoint = checkpoint_of(SAMPLES / "0.18.2-idle-w1").name
    real = store_publisher._create_checkpoint

    def late(*arguments: object) -> None:
        bucket.client.put_object(Bucket=BUCKET, Key=f"out/{checkpoint}/mine", Body=b"keep")
        bucket.client.put_object(Bucket=BUCKET, Key=f"out/{TRACKER}", Body=b"7")
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store_publisher, "_create_checkpoint", late)
    with pytest.raises(DestinationError, match="another program"):
        migrate(url("run"), to="pre-rerun", output=url("out"))
    assert bucket.tree("out") == {f"{checkpoint}/mine": b"keep", TRACKER: b"7"}


UNREACHABLE = {
    "no bucket": (
        "s3://no-such-bucket/run",
        {},
        ("s3://no-such-bucket: does not exist",),
    ),
    "no root": (url("nowhere"), {}, ("does not exist (a checkpoint is",)),
    "no bucket's name": ("s3://", {}, ("does not contain a bucket",)),
    "no store": ("nostore://a/run", {}, ("Protocol not known: nostore",)),
    "no server": (
        url("run"),
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"},
        ("cannot be reached", "AWS_ENDPOINT_URL"),
    ),
    "no credentials": (
        url("run"),
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_CONFIG_FILE": os.devnull},
        ("cannot be reached without credentials", "AWS_PROFILE"),
    ),
    "no profile": (
        url("run"),
        {"AWS_PROFILE": "nobody"},
        ("could not be found", "AWS_PROFILE"),
    ),
    "no profile of msc": ("msc://nobody/run", {}, ('Profile "nobody" not found',)),
}


@pytest.mark.parametrize("why", UNREACHABLE)
def test_what_keeps_a_store_from_being_read_is_one_sentence(
    why: str, bucket: Bucket, s3: Run
) -> None:
    place, more, words = UNREACHABLE[why]
    refused(s3("inspect", place, **more), *words)


@pytest.mark.parametrize(
    ("module", "place", "packages"),
    [
        ("s3fs", "s3://b/run", "s3fs"),
        ("gcsfs", "gs://b/run", "gcsfs"),
        ("multistorageclient", "msc://b/run", "multi-storage-client fsspec"),
        ("fsspec", "s3://b/run", "s3fs"),
        ("fsspec", "zzz://b/run", "fsspec"),
    ],
)
def test_a_missing_library_is_installed_where_it_is_looked_for(
    module: str, place: str, packages: str
) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from ckptmigrate.cli import main; main()"
    result = conftest.CLI.run(["inspect", place], code=code)
    flag = "-P" if sys.version_info >= (3, 11) else "-I"
    refused(result, "not installed", f"`{sys.executable} {flag} -m pip install {packages}`")


def test_access_denied_is_one_sentence(bucket: Bucket, port: int, s3: Run) -> None:
    with fault_proxy.faulty(port, fault_proxy.KINDS["403"], at=1) as proxy:
        told = s3("inspect", url("run"), **environment(proxy.port))
    refused(told, "no permission to", "AWS_PROFILE")


@pytest.mark.full
def test_a_server_that_knows_no_such_user(s3: Run) -> None:
    with served(INITIAL_NO_AUTH_ACTION_COUNT="0") as strict:
        told = s3("inspect", url("run"), **environment(strict))
    refused(told, "no permission to", "AWS_PROFILE")


def test_local_work_imports_no_store(tmp_path: Path) -> None:
    code = (
        "import sys; from ckptmigrate import migrate; migrate(sys.argv[1], to='pre-rerun', "
        "output=sys.argv[2]); print([m for m in sys.modules if m.partition('.')[0] in "
        "('fsspec', 's3fs', 'gcsfs', 'multistorageclient', 'boto3', 'aiohttp')])"
    )
    arguments = [str(SAMPLES / "0.18.2-idle-w1"), str(tmp_path / "out")]
    done = conftest.CLI.run(arguments, code=code)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# -- commands that are printed


@pytest.mark.parametrize("in_a_shell", [False, pytest.param(True, marks=pytest.mark.full)])
def test_the_undo_that_is_printed_works(
    in_a_shell: bool, bucket: Bucket, port: int, s3: Run
) -> None:
    def printed(told: subprocess.CompletedProcess[str]) -> str:
        line = next(line for line in told.stdout.splitlines() if line.startswith("to undo: "))
        return line.removeprefix("to undo: ")

    def perform(command: str) -> None:
        there = {**os.environ, **environment(port)}
        if in_a_shell:
            subprocess.run(command, shell=True, env=there, check=True)
            return
        program, *words = shlex.split(command)
        if program == "ckptmigrate":
            assert s3(*words).returncode == 0
        else:
            isolated, option, code, *rest = words
            assert (program, option) == (sys.executable, "-c")
            assert isolated == ("-P" if sys.version_info >= (3, 11) else "-I")
            assert CLI.run(rest, code=code, env=there).returncode == 0

    source = files_of(SAMPLES / "0.18.2-idle-w1")
    bucket.put(SAMPLES / "0.18.2-idle-w1", "run")
    perform(printed(s3("downgrade", url("run"), "--to", "pre-rerun", "-o", url("out"))))
    assert bucket.names("out") == []
    assert bucket.tree("run") == source
    bucket.client.put_object(Bucket=BUCKET, Key=f"run/{TRACKER}", Body=b"99")
    command = printed(s3("repair", url("run"), "--in-place"))
    assert bucket.get(f"run/{TRACKER}") == source[TRACKER]
    assert s3("inspect", url("run")).returncode == 0
    perform(command)
    assert bucket.get(f"run/{TRACKER}") == b"99"


# -- locks


def test_two_runs_are_kept_apart(bucket: Bucket, s3: Run) -> None:
    bucket.put(SAMPLES / "0.18.2-idle-w1", "run")
    checkpoint = f"run/{checkpoint_of(SAMPLES / '0.18.2-idle-w1').name}"
    owner = {"user": "ann", "host": "node-2", "pid": 7, "since": "2026-01-01T00:00:00+00:00",
             "boot": "another", "namespace": "x", "ticks": 1}  # fmt: skip
    put = bucket.client.put_object
    put(Bucket=BUCKET, Key=f"{checkpoint}/{KEPT}lock", Body=json.dumps(owner))
    put(Bucket=BUCKET, Key="." + f"out{LOCK}", Body=json.dumps(owner))
    before = bucket.tree("")
    change = ("downgrade", url("run"), "--to", "pre-rerun")
    refused(s3(*change, "--in-place"), "ann on node-2 (pid 7", "--break-lock")
    refused(s3(*change, "-o", url("out")), "ann on node-2 (pid 7", "--break-lock")
    refused(s3("recover", url("run")), "--break-lock")
    assert bucket.tree("") == before
    assert s3("recover", url("run"), "--break-lock").returncode == 0
    assert s3("recover", url("out"), "--break-lock").returncode == 0
    assert bucket.tree("run") == files_of(SAMPLES / "0.18.2-idle-w1")
    assert s3(*change, "-o", url("out")).returncode == 0


def test_a_recover_that_fails_holds_no_lock_in_a_process_that_lives_on(bucket: Bucket) -> None:
    bucket.put(SAMPLES / "0.18.2-idle-w1", "run")
    journal = f"run/iter_0000005/{KEPT}stage/journal.json"
    bucket.client.put_object(Bucket=BUCKET, Key=journal, Body=b"torn")
    before = bucket.tree("")
    for _ in range(2):
        with pytest.raises(DamagedError, match="is not a journal"):
            ckptmigrate.recover(url("run"))
    assert bucket.tree("") == before


def test_a_library_user_gets_the_parts_of_the_sentence(port: int) -> None:
    with pytest.raises(StoreError) as caught:
        ckptmigrate.inspect("s3://no-such-bucket/run")
    assert caught.value.path == Url("s3", "no-such-bucket")
    assert migration_state.stage_of(Url("s3", "b/run")) == Url("s3", "b/run/.ckptmigrate/stage")
