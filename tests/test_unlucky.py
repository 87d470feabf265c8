"""What hostile and unlucky users type: odd names, files and addresses, outputs that go away."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CLI, CORRUPT, MAIN, Run, checkpoint_of, refused, tree_hash

from ckptmigrate.checkpoint import trackers
from ckptmigrate.errors import StoreError
from ckptmigrate.places import Url
from ckptmigrate.storage.urls import place

Copy = Callable[[str], Path]
PROGRAM = str(Path(sys.executable).with_name("ckptmigrate"))
BARE = f"{shlex.quote(sys.executable)} -m ckptmigrate"
SAMPLE = "0.17.1-idle-w1"
PRINTABLE = ("a b", "br[ack]et", "\u00fcn\u00ef", "-dash", "it's", "back\\slash\\", "!!", "%self")
NOT_PRINTABLE = ("new\nline", "esc\x1b[31m\x07'\\", os.fsdecode(b"bytes\xff\xfe"))


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user pastes it: bash splits its words, and `ckptmigrate` is a fork."""
    done = _bash(f"ckptmigrate() {{ printf '%s\\0' ckptmigrate \"$@\"; }}; {command}", cwd)
    program, *words = done.stdout.split("\0")
    return CLI.run(words[:-1], main=MAIN, cwd=cwd) if program == "ckptmigrate" else done


def start_in_shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command whose `ckptmigrate` is a process that bash starts."""
    return _bash(f'ckptmigrate() {{ {BARE} "$@"; }}; {command}', cwd)


def _bash(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=120,
        check=False,
    )


# -- names


@pytest.mark.parametrize("program", ["bash", "zsh", "fish", "dash"])
def test_commands_with_odd_names_work_as_pasted(
    program: str, copy: Copy, run: Run, tmp_path: Path
) -> None:
    first = copy(SAMPLE)
    for name in (*PRINTABLE, *NOT_PRINTABLE):
        shutil.copytree(first, tmp_path / "runs" / name)
    before = tree_hash(tmp_path / "runs")
    result = run("downgrade", "runs/*", "--to", "0.11", "-o", "out")
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    undo = [line[9:] for line in result.stdout.splitlines() if line.startswith("to undo: ")]
    assert len(undo) == len(os.listdir(tmp_path / "out")) == len(PRINTABLE) + len(NOT_PRINTABLE)
    for command in undo:
        subprocess.run([program, "-c", command], cwd=tmp_path, check=True)
    # Names that cannot be printed are left to somebody who looks at them.
    assert {*os.listdir(tmp_path / "out")} == {*NOT_PRINTABLE}
    for command in undo:
        glob = command.rpartition(" run rm -r ")[2] if command.startswith("#") else "."
        subprocess.run([program, "-c", f"ls -d {glob}"], cwd=tmp_path, check=True)
    assert tree_hash(tmp_path / "runs") == before


def test_what_goes_on_stands_before_the_end_of_options(copy: Copy, run: Run) -> None:
    root = copy(CORRUPT)
    root.rename(root.with_name("-bad"))
    result = run("verify", "--json", "--jobs", 1, "--", "-bad")
    again = json.loads(result.stdout)["resume"]
    assert again == "ckptmigrate verify --json --jobs 1 --ledger ledger.jsonl -- -bad"
    assert shell(again, root.parent).returncode == 1
    assert (root.parent / "ledger.jsonl").is_file()


def test_two_stars_do_not_follow_links_for_ever(copy: Copy, run: Run) -> None:
    root = copy(SAMPLE)
    for name in ("one", "two"):
        (root.parent / name).symlink_to(".")
    result = run("inspect", f"{root.parent}/**", "--all")
    assert f"ok           {checkpoint_of(root)}: Megatron-Core 0.17, iteration 5" in result.stdout
    assert "/one" not in result.stdout.replace("/one:", "")


# -- where it goes


@pytest.mark.parametrize("inside", ["", "iter_0000005", "non_persistent"])
def test_no_new_root_comes_into_another_path(copy: Copy, run: Run, inside: str) -> None:
    a, b = copy(SAMPLE), copy("0.19.0-idle-tp2")
    before = tree_hash(a.parent)
    for words in ([a, b], [b, a]):
        refused(run("downgrade", *words, "--to", "0.11", "-o", b / inside), "is inside", "-o DIR")
    assert tree_hash(a.parent) == before


def test_a_pattern_that_matches_its_own_output(copy: Copy, run: Run) -> None:
    copy(SAMPLE)
    words = ("downgrade", "*", "--to", "0.11", "-o", "out", "--ledger", "ledger")
    for expected in ("1 done", "1 skipped"):
        result = run(*words)
        assert result.returncode == 0, result.stderr
        assert expected in result.stdout


def test_undo_of_one_checkpoint_by_two_names_is_one_step(copy: Copy, run: Run) -> None:
    root = copy("0.12.3-idle-w1")
    (root.parent / "link").symlink_to(root)
    for target in ("pre-rerun", "sharded-rerun"):
        verb = "downgrade" if target == "pre-rerun" else "upgrade"
        assert run(verb, root, "--to", target, "--in-place").returncode == 0
    result = run("undo", root, "link", f"{root.parent}/./{root.name}")
    assert "1 checkpoint: 1 done" in result.stdout, result.stderr
    assert re.search(r"layout +pre-rerun ", run("inspect", root).stdout)


@pytest.mark.parametrize("target", ["<script>", "a/b", "..", "", "split-rerun/.."])
def test_a_target_that_is_no_name(copy: Copy, run: Run, target: str) -> None:
    refused(run("downgrade", copy(SAMPLE), "--to", target), "is not a layout", "`")


# -- the wrong place, and the command at the end of what is said of it


def pasted(result: subprocess.CompletedProcess[str], cwd: Path) -> str:
    """What the last command of a refusal prints, which is to work."""
    assert result.returncode == 1
    again = shell(result.stderr.rstrip().split("`")[-2], cwd)
    assert again.returncode == 0, again.stderr
    return again.stdout


def test_a_file_of_a_checkpoint_means_what_it_is_in(copy: Copy, run: Run) -> None:
    root = copy(SAMPLE)
    for name in ("iter_0000005/common.pt", "iter_0000005/.metadata", trackers.TRACKER_FILE):
        assert "iter_0000005: Megatron-Core 0.1" in pasted(run("inspect", root / name), root.parent)


def test_an_iteration_that_is_not_there_beside_some_that_are(copy: Copy, run: Run) -> None:
    root = copy(SAMPLE)
    for name in ("iter_5", "iter_0000006", "iter_0000005.0.13"):
        result = run("inspect", root / name)
        assert "(there is iteration 5)" in result.stderr
        assert "iter_0000005: Megatron-Core 0.1" in pasted(result, root.parent)
    shutil.copytree(root / "iter_0000005", root / "iter_0000007")
    assert "(there are iterations 5, 7)" in run("inspect", root, "--iteration", "6").stderr
    for number in range(10, 20):
        (root / f"iter_{number:07d}").mkdir()
    result = run("inspect", root / "iter_5")
    assert "(there are 12 iterations, the newest 15, 16, 17, 18, 19)" in result.stderr


def test_a_tracker_that_names_a_half_written_iteration(copy: Copy, run: Run) -> None:
    root = copy(SAMPLE)
    (root / "iter_0000009").mkdir()
    (root / trackers.TRACKER_FILE).write_text("9")
    result = run("inspect", root)
    refused(result, "no metadata.json and no .metadata", "may be incomplete")
    told = shell(result.stderr.split("`")[-2], root.parent).stdout
    assert "tracker-half-written" in told
    assert shell(told.split("`")[1], root.parent).returncode == 0
    assert "iter_0000005: Megatron-Core 0.1" in run("inspect", root).stdout


def test_a_destination_in_a_file(copy: Copy, run: Run) -> None:
    root = copy("0.19.0-idle-w1")
    (root.parent / "file").touch()
    for name in ("file/out", "file/more/out"):
        result = run("downgrade", root, "--to", "0.13", "--dry-run", "-o", root.parent / name)
        assert "file is a file" in result.stderr
        assert "Dry run: would write " in pasted(result, root.parent)


# -- the ledger


def test_a_ledger_in_a_checkpoint_or_root(copy: Copy, run: Run) -> None:
    root = copy(SAMPLE)
    before = tree_hash(root)
    (root.parent / "link").symlink_to(root)
    for name in ("ledger", "iter_0000005/common.pt", "latest_checkpointed_iteration.txt"):
        for folder in (root, root.parent / "link"):
            result = run("verify", root, "--ledger", folder / name)
            refused(result, "where a ledger cannot be", "--ledger FILE")
    assert tree_hash(root) == before


def test_a_ledger_that_is_another_file(copy: Copy, run: Run, tmp_path: Path) -> None:
    root = copy(SAMPLE)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "thesis").write_text("precious")
    (tmp_path / "settings").write_text('{\n  "format": 1\n}\n')
    for name in ("fifo", "/dev/zero", "/dev/full", "/dev/null", "thesis", "settings"):
        refused(run("verify", root, "--ledger", name), "cannot be written", "--ledger FILE")
    assert (tmp_path / "thesis").read_text() == "precious"


@pytest.mark.parametrize("left", [b"", b'{"form', b"\0" * 700, b"\0" * 700 + b"\n", b"\n"], ids=len)
def test_a_ledger_whose_first_line_a_crash_has_torn(
    left: bytes, copy: Copy, run: Run, tmp_path: Path
) -> None:
    """What was not on disk yet may be cut, or zeros."""
    words = ("check", copy(SAMPLE), "--reader", "0.17", "--ledger", "ledger")
    (tmp_path / "ledger").write_bytes(left)
    assert "1 ok" in run(*words).stdout
    assert (tmp_path / "ledger").read_bytes().startswith(left)
    assert "1 skipped" in run(*words).stdout


@pytest.mark.parametrize(
    "changed",
    [
        {"text": 5},
        {"text": None},
        {"result": 5},
        {"result": "/etc"},
        {"tracker": "../../x"},
        {"tracker": 3},
        {"link": {}},
        {"digests": None},
        {"digests": []},
        {"digests": {}},
        {"digests": {"a": 5}},
        {"digests": {"a\0b": {"c": "d"}}},
        {"digests": {"s3://nowhere/run": {".metadata": "0"}}},
        {"format": 2},
    ],
    ids=str,
)
def test_a_line_that_nobody_wrote_is_not_believed(
    copy: Copy, run: Run, tmp_path: Path, changed: dict[str, object]
) -> None:
    words = ("check", copy(SAMPLE), "--reader", "0.17", "--ledger", "ledger")
    assert "1 ok" in run(*words).stdout
    row = json.loads((tmp_path / "ledger").read_text())
    (tmp_path / "ledger").write_text(
        f"{json.dumps(row | changed)}\n\0\xff\n[1]\nnull\n{'[' * 9999}"
    )
    result = run(*words)
    assert "1 checkpoint: 1 ok" in result.stdout, result.stdout
    assert "1 checkpoint: 1 skipped" in run(*words).stdout


def test_the_ledger_that_is_named_is_outside_of_the_root(copy: Copy, run: Run) -> None:
    root = copy(CORRUPT)
    result = shell("ckptmigrate verify . --all --jobs 1 --json", root)
    again = json.loads(result.stdout)["resume"]
    assert shell(again, root).returncode == 1
    assert (root.parent / "ledger.jsonl").is_file()
    assert not (root / "ledger.jsonl").exists()


def test_a_part_with_too_many_digits(copy: Copy, run: Run) -> None:
    result = run("verify", copy(SAMPLE), "--shard", f"{'9' * 5000}/{'9' * 5001}")
    assert result.returncode == 2
    assert "must be I/N" in result.stderr


# -- URLs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sftp://user:passw0rd@host/run", "contains a password"),
        ("https://user:pass:w@rd@host/run", "contains a password"),
        ("https://host/run?X-Amz-Signature=t0ken&X-Amz-Expires=60", "contains a query"),
        ("abfs://files@account/run?sp=r&sig=t0k/t0ken%3D", "contains a query"),
        ("simplecache::https://user:passw0rd@host/run?sig=t0ken", "is not the URL of a store"),
        ("zip://run::https://user:passw0rd@host/a.zip?sig=t0ken", "contains a password"),
        ("simplecache::s3://bucket/run", "is not the URL of a store"),
        ("://bucket/run", "is not the URL of a store"),
        ("zip://run::file:///archive.zip", "is a chain of URLs"),
        ("s3://bucket/a/../b", "contains the part '..'"),
        ("s3://bucket//run", "contains the part ''"),
        ("s3://bucket/./run", "contains the part '.'"),
        ("file://host/run", "is not a path on this host"),
        ("file://run", "is not a path on this host"),
        ("file://", "is not a path on this host"),
    ],
)
def test_urls_that_are_refused(run: Run, tmp_path: Path, text: str, words: str) -> None:
    before = tree_hash(tmp_path)
    with pytest.raises(StoreError, match=words) as caught:
        place(text)
    assert caught.value.fix
    for verb in (["inspect", text], ["verify", text, "--report", "r.md"], ["inspect", text, "x"]):
        result = run(*verb)
        refused(result, words)
        assert not any(secret in result.stderr for secret in ("passw0rd", "w@rd", "t0ken"))
    told = json.loads(run("downgrade", "x", "--to", "0.11", "-o", text, "--json").stdout)
    assert words in told["error"]["reason"]
    assert tree_hash(tmp_path) == before


def test_urls_of_files_name_what_they_say() -> None:
    assert place("file:///runs/a#2?b") == Path("/runs/a#2?b")
    assert place("FILE://localhost/a%20b%23") == Path("/a b#")
    assert place("file:///a\nb/%ff") == Path(os.fsdecode(b"/a\nb/\xff"))
    assert place("s3://bucket/a#2?b:c@d") == Url("s3", "bucket/a#2?b:c@d")
    assert place("s3:///run").root == Url("s3", "")


# -- the output goes away


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("explain split-rerun", 0),
        ("layouts", 0),
        ("downgrade RUN --to 0.11 --dry-run", 0),
        ("verify RUN --json", 0),
        ("check RUN", 0),
        ("inspect nowhere --json", 1),
    ],
)
def test_the_reader_of_a_pipe_goes_away(copy: Copy, words: str, status: int) -> None:
    root = copy(SAMPLE)
    words = words.replace("RUN", str(root))
    found = start_in_shell(f"ckptmigrate {words} | true; exit ${{PIPESTATUS[0]}}", root)
    assert found.returncode == status
    assert "Traceback" not in found.stderr and "rror: " not in found.stderr


@pytest.mark.parametrize("words", ["layouts", "inspect RUN --json", "verify RUN --json", "--help"])
def test_there_is_no_room_for_the_output(copy: Copy, words: str) -> None:
    root = copy(SAMPLE)
    found = start_in_shell(f"ckptmigrate {words} > /dev/full".replace("RUN", str(root)), root)
    refused(found, "the output cannot be written (No space left on device)", "ckptmigrate inspect")


@pytest.mark.parametrize(
    "words",
    [["inspect", "--json"], ["--json", "downgrade", "x"], ["verify", "x", "--jobs", "0", "--json"]],
)
def test_a_usage_error_is_json_too(run: Run, words: list[str]) -> None:
    result = run(*words)
    assert result.returncode == 2
    error = json.loads(result.stdout)["error"]
    assert error["message"] in result.stderr.replace("Error: ", "")
    assert set(error) == {"kind", "message", "reason"}


def test_options_before_the_verb_do_not_hide_the_command(copy: Copy, run: Run) -> None:
    root = copy(SAMPLE)
    root.with_name("new").mkdir()
    result = run("--no-color", "downgrade", root, "--to", "0.11", "-o", "new")
    refused(result, f"`ckptmigrate --no-color downgrade {root} --to 0.11 --output")
    command = result.stderr.split("`")[1]
    assert shell(command, root).returncode == 0


@pytest.mark.parametrize("program", [["-m", "ckptmigrate"], [PROGRAM]])
def test_ctrl_c_while_the_program_is_still_imported(program: list[str], tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    result = subprocess.run(
        [sys.executable, *program, "inspect", "run"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_nohup_stays_in_force(tmp_path: Path) -> None:
    """A hangup that is ignored before the start stays so, also in a batch."""
    code = (
        "import signal; from ckptmigrate import cli; from ckptmigrate.batch.executors import Stop\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "seen = []\n"
        "cli.cli.main = lambda **_: seen.append(signal.getsignal(signal.SIGHUP))\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "with Stop().listening(): seen.append(signal.getsignal(signal.SIGHUP))\n"
        "assert seen == [signal.SIG_IGN] * 2, seen\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)


def test_signals_to_all_do_not_reach_processes_that_start(copy: Copy) -> None:
    """Ctrl-C while they import what they need; the end of a Slurm job step, before a task."""
    code = (
        "import os, signal, subprocess, sys\n"
        "from ckptmigrate.verbs.inspect import InspectRequest\n"
        "from ckptmigrate.batch.processes import Processes\n"
        "from ckptmigrate.batch.executors import Stop\n"
        "from ckptmigrate.batch.tasks import Task\n"
        "class Signalled(subprocess.Popen):\n"
        "    def __init__(self, *words, **options):\n"
        "        super().__init__(*words, **options)\n"
        "        for number in map(signal.Signals, numbers): self.send_signal(number)\n"
        "subprocess.Popen = Signalled\n"
        "numbers = [int(word) for word in sys.argv[1].split()]\n"
        "outcomes = Processes(2)([Task(path, InspectRequest()) for path in sys.argv[2:]], Stop())\n"
        "print(*(outcome.status.value for _, outcome in outcomes))\n"
    )
    paths = [str(checkpoint_of(copy(name))) for name in (SAMPLE, "0.12.3-idle-w1")]
    for numbers, told in (
        ((signal.SIGINT, signal.SIGHUP), "ok ok\n"),
        ((signal.SIGTERM,), "interrupted interrupted\n"),
    ):
        words = " ".join(str(int(number)) for number in numbers)
        found = subprocess.run(
            [sys.executable, "-c", code, words, *paths],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert (found.stdout, found.stderr) == (told, "")


def unprivileged() -> str:
    """Return the command, for root without the capabilities that open every file."""
    if os.geteuid() != 0:
        return BARE
    return f"setpriv --bounding-set=-dac_override,-dac_read_search {BARE}"


def test_a_wrong_name_in_a_directory_that_may_not_be_listed(copy: Copy, tmp_path: Path) -> None:
    """What is wrong is told of PATH, and not of what is around it."""
    root = copy(SAMPLE)
    root.chmod(0o311)
    try:
        found = shell(f"{unprivileged()} inspect {root}/iter_5 --json", tmp_path)
    finally:
        root.chmod(0o755)
    error = json.loads(found.stdout)["error"]
    assert error["path"] == f"{root}/iter_5"
    assert error["reason"] == "does not exist (a checkpoint is a directory)"


def test_what_the_system_refuses_ends_with_what_to_do(copy: Copy, tmp_path: Path) -> None:
    """A directory that may not be read, also by root: without its capabilities."""
    root, other = copy(SAMPLE), copy("0.12.3-idle-w1")
    root.chmod(0)
    try:
        for words in (f"{root} --json", f"{root} {other} --json"):
            found = shell(f"{unprivileged()} inspect {words}", tmp_path)
            told = json.loads(found.stdout)
            error = told.get("error") or told["checkpoints"][0]["error"]
            assert found.returncode == 1
            assert error["path"].startswith(str(root))
            assert error["reason"] == "the operating system reports: Permission denied"
            assert error["fix"] == "fix that, then run the command again"
    finally:
        root.chmod(0o755)


# -- checkpoints


@pytest.mark.parametrize("backend", ["zarr", "fsdp_dtensor", "", None, 5])
def test_verify_calls_no_other_format_clean(copy: Copy, run: Run, backend: object) -> None:
    root = copy(SAMPLE)
    marker = checkpoint_of(root) / "metadata.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"sharded_backend": backend}))
    inspected, verified = run("inspect", root), run("verify", root)
    refused(verified, "torch_dist")
    assert verified.stderr == inspected.stderr


def test_repair_passes_over_another_format(copy: Copy, run: Run) -> None:
    root = copy(SAMPLE)
    later = root / "iter_0000009"
    shutil.copytree(checkpoint_of(root), later)
    (later / "metadata.json").write_text('{"sharded_backend": "zarr"}')
    (root / "latest_checkpointed_iteration.txt").write_text("12")
    result = run("repair", root, "--in-place")
    assert result.returncode == 0, result.stderr
    assert (root / "latest_checkpointed_iteration.txt").read_text().strip() == "5"


@pytest.mark.parametrize("words", ["explain", "check RUN --reader", "downgrade RUN --to"])
def test_a_release_of_too_many_digits(copy: Copy, run: Run, words: str) -> None:
    root = copy(SAMPLE)
    refused(run(*words.replace("RUN", str(root)).split(), "9" * 5000), "`ckptmigrate ")


def test_the_matrix_writes_over_pages_alone(copy: Copy, run: Run, tmp_path: Path) -> None:
    root = copy(SAMPLE)
    before = tree_hash(root)
    for option in ("--html", "--into"):
        refused(run("matrix", option, checkpoint_of(root) / "common.pt"), f"with {option} FILE")
    assert tree_hash(root) == before
    for _ in range(2):
        assert run("matrix", "--html", "matrix.html").returncode == 0
    assert (tmp_path / "matrix.html").read_text().startswith("<!DOCTYPE html>")


def test_a_checkpoint_without_a_root_is_found(copy: Copy, run: Run, tmp_path: Path) -> None:
    """As unknown frameworks have it, which keep it below a step and write no tracker file."""
    step = tmp_path / "step_5"
    (step / "model").mkdir(parents=True)
    checkpoint_of(copy(SAMPLE)).rename(step / "model" / "state")
    told = run("inspect", step).stderr
    find = told[told.index("`") + 1 : told.rindex("`")]
    found = subprocess.run(shlex.split(find), capture_output=True, text=True, check=True).stdout
    assert found == f"{step}/model/state/metadata.json\n"
    assert run("inspect", Path(found.strip()).parent).returncode == 0
