"""Bad input: each a clear one-line error, status 1, and nothing touched."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch_zips
from conftest import CLI, SAMPLES, Run, checkpoint_of, refused, tree_hash

from ckptmigrate import DestinationError, migrate

Copy = Callable[[str], Path]
PP_TP = "0.12.3-idle-w1"
SENTINEL = "0.18.2-idle-w1"
ENTRY = "0.19.0-idle-w1"


def both_verbs(run: Run, path: Path, *words: str) -> None:
    """inspect and a migration both refuse, and leave no trace."""
    above = path.parent
    before = tree_hash(above)
    refused(run("inspect", path), *words)
    refused(run("upgrade", path, "-o", above / "out"), *words)
    refused(run("downgrade", path, "--to", "pre-rerun", "--in-place"), *words)
    refused(run("diff", path, path), *words)
    assert tree_hash(above) == before


def test_no_directory(run: Run, tmp_path: Path) -> None:
    both_verbs(run, tmp_path / "nowhere", "nowhere", "does not exist")


def test_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    both_verbs(run, tmp_path / "file", "is a file")


def test_an_empty_directory(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    both_verbs(run, tmp_path / "empty", "latest_checkpointed_iteration.txt")


def test_no_tracker(run: Run, copy: Copy) -> None:
    root = copy(SENTINEL)
    (root / "latest_checkpointed_iteration.txt").unlink()
    both_verbs(run, root, "latest_checkpointed_iteration.txt", "--iteration 5")


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "empty"), ("\n", "empty"), ("five", "five"), ("-5", "-5"), ("\x1b[2J", "x1b")],
)
def test_bad_tracker(run: Run, copy: Copy, text: str, word: str) -> None:
    root = copy(SENTINEL)
    (root / "latest_checkpointed_iteration.txt").write_text(text)
    both_verbs(run, root, word, "--iteration 5")


def test_tracker_leads_nowhere(run: Run, copy: Copy) -> None:
    root = copy(SENTINEL)
    (root / "latest_checkpointed_iteration.txt").write_text("7")
    both_verbs(run, root, "iter_0000007", "--iteration 5")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: b"this is no pickle", "not a pickle"),
        (lambda data: pickle.dumps({"a": 1}, 4), "not checkpoint metadata"),
        (lambda data: data + b"more", "after its end"),
    ],
)
def test_bad_metadata(run: Run, copy: Copy, content: Callable[[bytes], bytes], word: str) -> None:
    root = copy(SENTINEL)
    path = checkpoint_of(root) / ".metadata"
    path.write_bytes(content(path.read_bytes()))
    both_verbs(run, root, ".metadata", word)


def test_no_metadata(run: Run, copy: Copy) -> None:
    root = copy(SENTINEL)
    (checkpoint_of(root) / ".metadata").unlink()
    both_verbs(run, root, ".metadata is missing")


def test_truncated_payload(run: Run, copy: Copy) -> None:
    root = copy(SENTINEL)
    path = checkpoint_of(root) / "__0_0.distcp"
    os.truncate(path, path.stat().st_size - 1)
    both_verbs(run, root, "__0_0.distcp", "truncated")


def test_missing_payload(run: Run, copy: Copy) -> None:
    root = copy(SENTINEL)
    (checkpoint_of(root) / "__0_0.distcp").unlink()
    both_verbs(run, root, "__0_0.distcp", "missing")


@pytest.mark.parametrize("place", ["../../etc/passwd", "/etc/passwd", "sub/x.distcp"])
def test_payload_outside(run: Run, copy: Copy, place: str) -> None:
    root = copy(SENTINEL)
    path = checkpoint_of(root) / ".metadata"
    name = b"__0_0.distcp"
    data = path.read_bytes()
    # SHORT_BINUNICODE: a length byte before the text; the frame grows by the difference.
    long = data.replace(bytes([len(name)]) + name, bytes([len(place)]) + place.encode(), 1)
    size = int.from_bytes(data[3:11], "little") + len(place) - len(name)
    path.write_bytes(long[:3] + size.to_bytes(8, "little") + long[11:])
    both_verbs(run, root, "outside the checkpoint")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no zip at all",
        pickle.dumps({"iteration": 5}, 2),
    ],
)
def test_common_is_no_torch_zip(run: Run, copy: Copy, content: bytes) -> None:
    root = copy(SENTINEL)
    (checkpoint_of(root) / "common.pt").write_bytes(content)
    both_verbs(run, root, "common.pt", "not a torch zip")


def test_common_of_a_torch_before_zips(run: Run, copy: Copy) -> None:
    root = copy(SENTINEL)
    path = checkpoint_of(root) / "common.pt"
    path.unlink()
    torch.save({"iteration": 5}, path, _use_new_zipfile_serialization=False)
    both_verbs(run, root, "common.pt", "not a torch zip")


def test_common_is_a_truncated_zip(run: Run, copy: Copy) -> None:
    root = copy(SENTINEL)
    path = checkpoint_of(root) / "common.pt"
    path.write_bytes(path.read_bytes()[:-30])
    both_verbs(run, root, "common.pt", "not a torch zip")


def test_common_is_compressed(run: Run, copy: Copy) -> None:
    root = copy(SENTINEL)
    with zipfile.ZipFile(checkpoint_of(root) / "common.pt", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("common/data.pkl", pickle.dumps({}, 2))
    both_verbs(run, root, "common.pt", "compressed")


def test_common_is_no_dict(run: Run, copy: Copy) -> None:
    root = copy(SENTINEL)
    torch.save([1, 2], checkpoint_of(root) / "common.pt")
    both_verbs(run, root, "common.pt", "does not contain a common state")


def test_common_missing_in_both_places(run: Run, copy: Copy) -> None:
    root = copy(SENTINEL)
    (checkpoint_of(root) / "common.pt").unlink()
    both_verbs(run, root, "has no common state", "common.pt", "common_state/shard_0_1")


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\xff"])
def test_bad_marker(run: Run, copy: Copy, text: str) -> None:
    root = copy(SENTINEL)
    (checkpoint_of(root) / "metadata.json").write_bytes(text.encode("latin1"))
    both_verbs(run, root, "metadata.json", "JSON")


def test_nested_checkpoint(run: Run, copy: Copy) -> None:
    root = copy(SENTINEL)
    nested = checkpoint_of(root) / "modelopt_state"
    shutil.copytree(checkpoint_of(SAMPLES / PP_TP), nested)
    both_verbs(run, nested, "nested", str(checkpoint_of(root)))


@pytest.mark.parametrize("newest", [5, 7])
def test_non_persistent_beside(run: Run, copy: Copy, newest: int) -> None:
    root = copy(SENTINEL)
    beside = root / "non_persistent" / f"iter_{newest:07d}"
    shutil.copytree(checkpoint_of(root), beside)
    both_verbs(run, root, "non-persistent", f"iteration {newest}", str(beside), "loads instead of")
    assert run("inspect", root, "--iteration", 5).returncode == 0


def test_older_non_persistent_is_no_matter(run: Run, copy: Copy) -> None:
    root = copy(SENTINEL)
    shutil.copytree(checkpoint_of(root), root / "non_persistent" / "iter_0000003")
    assert run("inspect", root).returncode == 0


def marker(directory: Path, backend: str) -> None:
    directory.mkdir(parents=True)
    (directory / "metadata.json").write_text(
        json.dumps({"sharded_backend": backend, "sharded_backend_version": 1})
    )


def test_zarr(run: Run, tmp_path: Path) -> None:
    marker(tmp_path / "z", "zarr")
    both_verbs(run, tmp_path / "z", "zarr", "0.15")
    # Its own reason for a reader that does not read it, rather than a prediction.
    for release in ("0.15.3", "0.16.1"):
        told = run("check", tmp_path / "z", "--reader", release)
        refused(told, "zarr checkpoint, which only releases up to 0.15 read")


def test_another_backend(run: Run, tmp_path: Path) -> None:
    marker(tmp_path / "z", "fancy")
    both_verbs(run, tmp_path / "z", "fancy")


def test_legacy_torch(run: Run, tmp_path: Path) -> None:
    rank = tmp_path / "root" / "iter_0000005" / "mp_rank_00"
    rank.mkdir(parents=True)
    (rank / "model_optim_rng.pt").write_bytes(b"x")
    (tmp_path / "root" / "latest_checkpointed_iteration.txt").write_text("5")
    both_verbs(run, tmp_path / "root", "legacy torch checkpoint", "torch_dist")


def test_marker_lost(run: Run, copy: Copy) -> None:
    root = copy(SENTINEL)
    (checkpoint_of(root) / "metadata.json").unlink()
    both_verbs(run, root, "metadata.json is missing", "ckptmigrate verify")


@pytest.mark.parametrize("kind", ["torch_dcp", "fsdp_dtensor"])
def test_dcp(run: Run, tmp_path: Path, kind: str) -> None:
    """Written by real torch DCP, as those formats are, with args that tell which it is."""
    import argparse

    import torch.distributed.checkpoint as dcp

    path = tmp_path / "iter_0000005"
    state = {"args": argparse.Namespace(ckpt_format=kind), "model": {"w": torch.ones(3)}}
    dcp.save(state, checkpoint_id=path, no_dist=True)
    both_verbs(run, path, f"is a {kind} checkpoint")


def test_development_snapshot(run: Run, copy: Copy) -> None:
    """A list of dicts per rank in the common state: synthesized, as December 2024 wrote it."""
    root = copy("0.10.0-idle-w1")
    path = checkpoint_of(root) / "common.pt"
    state = torch.load(path, weights_only=False)
    state["rerun_state_machine"] = [{"mode": "disabled"}]
    torch.save(state, path)
    both_verbs(run, root, "development snapshot", "December 2024")


def test_entry_of_no_release(run: Run, copy: Copy) -> None:
    root = copy("0.10.0-idle-w1")
    path = checkpoint_of(root) / "common.pt"
    state = torch.load(path, weights_only=False)
    state["rerun_state_machine"] = {"colour": "green"}
    torch.save(state, path)
    both_verbs(run, root, "no release writes")


def test_hostile_names_are_not_printed_raw(run: Run, copy: Copy) -> None:
    root = copy("0.10.0-idle-w1")
    path = checkpoint_of(root) / "common.pt"
    state = torch.load(path, weights_only=False)
    state["rerun_state_machine"] = {"\x1b]0;owned\x07": 1}
    torch.save(state, path)
    result = run("inspect", root)
    refused(result, "owned")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", result.stderr)


# -- requests that are refused


def test_unknown_layout(run: Run) -> None:
    refused(run("upgrade", SAMPLES / SENTINEL, "--to", "super-rerun"), "super-rerun", "split-rerun")


def test_wrong_direction(run: Run, tmp_path: Path) -> None:
    root = SAMPLES / SENTINEL
    refused(
        run("upgrade", root, "--to", "split-rerun", "-o", tmp_path / "x"),
        "older",
        "ckptmigrate downgrade",
        "--to split-rerun",
    )
    refused(
        run("downgrade", root, "--to", "common-state", "-o", tmp_path / "x"),
        "newer",
        "ckptmigrate upgrade",
        "--to common-state",
    )


def test_an_ambiguous_source_may_go_either_way(run: Run, tmp_path: Path) -> None:
    """Nothing on disk tells an idle none-emitting checkpoint from a pre-rerun one."""
    root = SAMPLES / "0.14.0-idle-w1"
    for number, (verb, target) in enumerate(
        [("upgrade", "split-rerun"), ("downgrade", "split-rerun"), ("downgrade", "pre-rerun")]
    ):
        done = run(verb, root, "--to", target, "-o", tmp_path / str(number))
        assert done.returncode == 0, done.stderr


def test_fault_context_is_refused_with_the_command(run: Run, tmp_path: Path) -> None:
    result = run("downgrade", SAMPLES / "0.17.1-fault-tp2pp2", "--to", "split-rerun", "--dry-run")
    refused(result, "WILL_RERUN_FROM_CHECKPOINT")
    command = result.stderr[result.stderr.index("ckptmigrate downgrade") :].strip(" `\n")
    assert command.endswith("--allow-loss fault-context")
    done = run(*command.split()[1:], "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr


def test_running_in_place_resumes_nowhere(run: Run, copy: Copy, tmp_path: Path) -> None:
    """RERUNNING_IN_PLACE, set by hand in a sample, is refused even where contexts move."""
    root = copy("0.17.1-fault-w1")
    path = checkpoint_of(root) / "common.pt"
    with zipfile.ZipFile(path) as zipped:
        members = {info.filename: zipped.read(info) for info in zipped.infolist()}
    pickled = members["common/data.pkl"]
    at = pickled.index(b"RerunState\n")
    state = pickled.index(b"K\x03", at)
    members["common/data.pkl"] = pickled[:state] + b"K\x02" + pickled[state + 2 :]
    path.write_bytes(torch_zips.zipped([*members.items()]))
    for target in ("none-emitting", "always-sentinel", "common-state"):
        result = run("upgrade", root, "--to", target, "-o", tmp_path / target)
        refused(result, "RERUNNING_IN_PLACE", "no release can resume", "--allow-loss fault-context")
        done = run(
            "upgrade",
            root,
            "--to",
            target,
            "-o",
            tmp_path / target,
            "--allow-loss",
            "fault-context",
        )
        assert done.returncode == 0, done.stderr
        shown = json.loads(run("inspect", tmp_path / target, "--json").stdout)
        assert shown["rerun"]["state"] == "idle"


def test_corrupt_names_the_missing_keys(run: Run) -> None:
    root = SAMPLES / "0.17.1-corrupt-tp2"
    for verb, target in (("upgrade", "common-state"), ("downgrade", "pre-rerun")):
        refused(
            run(verb, root, "--to", target, "--dry-run"),
            "corrupt",
            "rerun_state_machine_state/shard_0_2",
            "rerun_state_machine_state/shard_1_2",
        )
    shown = run("inspect", root)
    assert shown.returncode == 1
    assert "rerun_state_machine_state/shard_1_2" in shown.stdout


# -- destinations


def test_destination_exists(run: Run, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    before = tree_hash(tmp_path)
    refused(run("upgrade", SAMPLES / SENTINEL, "-o", tmp_path / "there"), "exists", "-o DEST")
    (tmp_path / "link").symlink_to("nowhere")
    refused(run("upgrade", SAMPLES / SENTINEL, "-o", tmp_path / "link"), "exists")
    (tmp_path / "link").unlink()
    assert tree_hash(tmp_path) == before


def test_destination_in_the_source(run: Run, copy: Copy) -> None:
    root = copy(SENTINEL)
    before = tree_hash(root)
    refused(run("upgrade", root, "-o", root / "new"), "inside the source")
    refused(run("upgrade", root, "-o", root / "iter_0000005" / "new"), "inside the source")
    assert tree_hash(root) == before


def test_destination_without_a_parent(run: Run, tmp_path: Path) -> None:
    refused(run("upgrade", SAMPLES / SENTINEL, "-o", tmp_path / "a" / "b"), "mkdir -p")


@pytest.fixture
def other_device(tmp_path: Path) -> Iterator[Path]:
    """A directory on another device than tmp_path; /dev/shm is one on every Linux."""
    place = Path("/dev/shm") / f"ckptmigrate-test-{os.getpid()}"
    place.mkdir()
    assert place.stat().st_dev != tmp_path.stat().st_dev
    yield place
    shutil.rmtree(place)


def test_hardlink_across_devices(run: Run, copy: Copy, other_device: Path) -> None:
    root = copy(SENTINEL)
    before = tree_hash(root)
    result = run("upgrade", root, "-o", other_device / "out", "--link", "hardlink")
    refused(result, "another device", "--link auto")
    assert list(other_device.iterdir()) == []
    done = run("upgrade", root, "-o", other_device / "out")
    assert done.returncode == 0, done.stderr
    assert "(data files copied)" in done.stdout
    assert tree_hash(root) == before


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that other users can reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="ckptmigrate-test-") as place:
        Path(place).chmod(0o755)
        yield Path(place).resolve()


def test_no_permission(public: Path) -> None:
    """A directory that the user may not write to; root becomes another user for it."""
    root = shutil.copytree(SAMPLES / SENTINEL, public / SENTINEL)
    for path in (public, root, checkpoint_of(root)):
        path.chmod(0o755 if os.geteuid() == 0 else 0o555)
    before = tree_hash(public)
    # The dry run first: afterwards root's own Python may be out of reach for imports.
    code = """
import os, sys
from ckptmigrate.cli import main
arguments, sys.argv = sys.argv, [*sys.argv, "--dry-run"]
try:
    main()
except SystemExit as stop:
    assert not stop.code
sys.argv = arguments
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
main()
"""
    for arguments in (["-o", str(public / "out")], ["--in-place"]):
        refused(CLI.run(["upgrade", str(root), *arguments], code=code), "permission")
    for path in (public, root, checkpoint_of(root)):
        path.chmod(0o755)
    assert tree_hash(public) == before


@pytest.mark.parametrize("readable", [True, False])
def test_a_source_of_another_user(readable: bool, public: Path) -> None:
    """A read-only source that, for root, belongs to another user; payload is copied."""
    root = shutil.copytree(SAMPLES / "0.16.1-idle-tp2", public / "run")
    user = 65534 if os.geteuid() == 0 else os.geteuid()
    out = public / "mine"
    out.mkdir()
    os.chown(out, user, -1)
    before = tree_hash(root)
    payload = checkpoint_of(root) / "__1_0.distcp"
    payload.chmod(0o444 if readable else 0o000)
    os.utime(payload, ns=(10**18, 10**18))
    for path in (root, checkpoint_of(root)):
        path.chmod(0o555)
    code = """
import os, sys
import ckptmigrate
words = sys.argv[1:]
ckptmigrate.plan(words[0], to="common-state")  # afterwards Python itself may be out of reach
import concurrent.futures.thread, ckptmigrate.writing.lock, getpass, pwd
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    link = ckptmigrate.Link(words[2])
    ckptmigrate.migrate(words[0], to="common-state", output=words[1] + "/out", link=link)
except ckptmigrate.CkptMigrateError as error:
    sys.exit(str(error))
"""
    # The owner of a file may link it even where he may not read it.
    result = CLI.run([str(root), str(out), "auto" if os.geteuid() == 0 else "copy"], code=code)
    payload.chmod(0o444)
    assert tree_hash(root) == before
    if readable:
        assert result.returncode == 0, result.stderr
        done = (checkpoint_of(out / "out") / "__1_0.distcp").stat()
        assert (done.st_uid, done.st_mode & 0o777, done.st_mtime_ns) == (user, 0o444, 10**18)
    else:
        assert result.returncode == 1
        assert f"{payload}: cannot be read (Permission denied)" in result.stderr
        assert list(out.iterdir()) == []
    for path in (root, checkpoint_of(root)):
        path.chmod(0o755)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 4, 7])
def test_no_space_left(
    copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int, in_place: bool
) -> None:
    """ENOSPC at the n-th sync: the message says it, and nothing is left."""
    root = copy(SENTINEL)
    before = tree_hash(tmp_path)
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    output = None if in_place else tmp_path / "out"
    with pytest.raises(DestinationError, match="the disk is full; nothing was changed"):
        migrate(root, to="pre-rerun", output=output, in_place=in_place)
    assert len(calls) >= nth
    assert tree_hash(tmp_path) == before


def test_write_fails_half_way(copy: Copy, tmp_path: Path) -> None:
    """A real file-size limit of the system: writes fail half-way through a file."""
    root = copy(SENTINEL)
    before = tree_hash(tmp_path)
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
        "from ckptmigrate.cli import main; main()"
    )
    for arguments in (["-o", str(tmp_path / "out")], ["--in-place"]):
        result = CLI.run(["downgrade", str(root), "--to", "pre-rerun", *arguments], code=code)
        refused(result, "cannot be written")
        assert tree_hash(tmp_path) == before
