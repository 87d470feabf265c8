"""Two runs at once, and what one leaves that was cut short: named, refused, cleaned up."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import CLI, SAMPLES, Run, checkpoint_of, refused, tree_hash

from ckptmigrate import DamagedError, DestinationError, migrate, recover, undo
from ckptmigrate.checkpoint import lock_owner, migration_state
from ckptmigrate.checkpoint.lock_owner import Holder, this_process
from ckptmigrate.storage.directories import Directory
from ckptmigrate.versions.detection import Reading, read
from ckptmigrate.writing import lock
from ckptmigrate.writing.local_publisher import LocalPublisher

SAMPLE = "0.19.0-idle-tp2"
Copy = Callable[[str], Path]


def dead() -> lock_owner.Owner:
    """Return the owner that a process which no longer exists was."""
    child = subprocess.Popen(["true"])
    child.wait()
    return replace(this_process(), pid=child.pid, ticks=1)


def put(place: Path, owner: lock_owner.Owner) -> None:
    place.symlink_to(json.dumps(asdict(owner)))


def test_who_is_alive() -> None:
    me = this_process()
    assert (me.pid, me.host) == (os.getpid(), socket.gethostname())
    assert lock_owner.holder(me) is Holder.ALIVE
    assert lock_owner.holder(dead()) is Holder.DEAD
    # The pid is used again by another process, or the machine was booted since.
    assert lock_owner.holder(replace(me, ticks=me.ticks + 1)) is Holder.DEAD
    assert lock_owner.holder(replace(me, boot="another")) is Holder.DEAD
    # Nothing that cannot be seen is taken for dead.
    for away in ({"host": "node-2"}, {"host": "localhost"}):
        assert lock_owner.holder(replace(me, boot="another", **away)) is Holder.UNKNOWN
    assert lock_owner.holder(replace(dead(), namespace="pid:[1]")) is Holder.UNKNOWN
    assert lock_owner.holder(None) is Holder.UNKNOWN


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    ticks = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
    assert lock_owner.holder(replace(this_process(), pid=child.pid, ticks=ticks)) is Holder.DEAD
    child.wait()


def test_out_of_place_twice_at_once(copy: Copy, run: Run, tmp_path: Path) -> None:
    root, out = copy(SAMPLE), tmp_path / "out"
    with lock.held(LocalPublisher(out).lock, out):
        LocalPublisher(out).stage.mkdir()
        before = tree_hash(tmp_path)
        for words in (["downgrade", root, "--to", "pre-rerun", "-o", out], ["recover", out]):
            refused(run(*words), "is locked by", f"pid {os.getpid()}", "wait until")
        assert tree_hash(tmp_path) == before


def test_a_run_on_another_host_is_not_assumed_dead(copy: Copy, run: Run) -> None:
    root = copy(SAMPLE)
    checkpoint, before = checkpoint_of(root), tree_hash(root)
    (checkpoint / ".ckptmigrate").mkdir()
    put(migration_state.lock_of(checkpoint), replace(this_process(), host="node-2", boot="another"))
    for words in (["downgrade", root, "--to", "pre-rerun", "--in-place"], ["recover", root]):
        refused(run(*words), "node-2", f"ckptmigrate recover {checkpoint} --break-lock")
    assert run("recover", root, "--break-lock").returncode == 0
    assert tree_hash(root) == before


def test_breaking_a_lock_does_not_break_a_live_one(copy: Copy, run: Run) -> None:
    root = copy(SAMPLE)
    place = migration_state.lock_of(checkpoint_of(root))
    place.parent.mkdir()
    with lock.held(place, checkpoint_of(root)):
        refused(run("recover", root, "--break-lock"), "is locked by")
        assert place.is_symlink()


def test_a_leftover_stage_is_named_and_removed(copy: Copy, run: Run, tmp_path: Path) -> None:
    root, out = copy(SAMPLE), tmp_path / "out"
    before = tree_hash(tmp_path)
    stage = LocalPublisher(out).stage
    (stage / "iter_0000005").mkdir(parents=True)
    (stage / "iter_0000005" / "common.pt").write_bytes(b"half")
    put(LocalPublisher(out).lock, dead())
    # To the same place: refused. Beside it: done, and the leftover is named.
    again = run("downgrade", root, "--to", "pre-rerun", "-o", out)
    refused(again, "was interrupted", f"`ckptmigrate recover {out}`")
    beside = run("downgrade", root, "--to", "pre-rerun", "-o", tmp_path / "other")
    assert beside.returncode == 0
    assert f"was interrupted: run `ckptmigrate recover {out}`" in beside.stdout
    shown = json.loads(run("downgrade", root, "--to", "pre-rerun", "--dry-run", "--json").stdout)
    assert shown["leftovers"] == [f"ckptmigrate recover {out}"]
    shutil.rmtree(tmp_path / "other")
    done = run("recover", out)
    assert done.stdout == (f"{stage}: removed the staging directory of an interrupted migration\n")
    assert tree_hash(tmp_path) == before


def test_a_stage_without_a_lock_is_left_alone(copy: Copy, run: Run, tmp_path: Path) -> None:
    root, out = copy(SAMPLE), tmp_path / "out"
    LocalPublisher(out).stage.mkdir()
    (LocalPublisher(out).stage / "mine").write_text("keep")
    before = tree_hash(tmp_path)
    refused(run("downgrade", root, "--to", "pre-rerun", "-o", out), "exists without a lock")
    refused(run("recover", out), "does not exist")
    assert tree_hash(tmp_path) == before


def test_recover_of_what_is_not_there_is_refused_as_by_other_verbs(run: Run, copy: Copy) -> None:
    root = copy(SAMPLE)
    nowhere, file = root.with_name("nowhere"), root / "latest_checkpointed_iteration.txt"
    for path in (nowhere, file):
        told = run("recover", path)
        refused(told, "(a checkpoint is a directory)")
        as_others = run("inspect", path).stderr
        assert told.stderr == as_others.replace("ckptmigrate inspect", "ckptmigrate recover")
    assert run("recover", root).stdout == f"{root}: nothing to recover\n"


def test_recover_of_the_source_finds_its_default_destination(copy: Copy, run: Run) -> None:
    root = copy(SAMPLE)
    before = tree_hash(root.parent)
    out = root.with_name(f"{root.name}.pre-rerun")
    LocalPublisher(out).stage.mkdir()
    put(LocalPublisher(out).lock, dead())
    assert run("recover", root).returncode == 0
    assert tree_hash(root.parent) == before


def cut(root: Path) -> None:
    """Kill an in-place migration in the middle of its swap."""
    code = (
        "import os, sys; from ckptmigrate import migrate; "
        "from ckptmigrate.writing import journal; "
        "real = journal.groups; "
        "journal.groups = lambda names: os.kill(os.getpid(), 9) if len(names) > 3 and "
        "not (path / 'metadata.json').exists() else real(names); "
        "from pathlib import Path; path = Path(sys.argv[2]); "
        "migrate(sys.argv[1], to='pre-rerun', in_place=True)"
    )
    assert CLI.run([str(root), str(checkpoint_of(root))], code=code).returncode == -9
    assert not (checkpoint_of(root) / "metadata.json").exists()


def test_verbs_that_change_it_recover_first_and_say_so(copy: Copy, run: Run) -> None:
    root = copy(SAMPLE)
    before = tree_hash(root)
    cut(root)
    half = tree_hash(root)
    for words in (["inspect"], ["check"], ["upgrade", "--dry-run"], ["undo", "--dry-run"]):
        refused(run(words[0], root, *words[1:]), "was interrupted", "ckptmigrate recover")
    assert tree_hash(root) == half
    done = run("upgrade", root, "--in-place")
    assert done.returncode == 0, done.stderr
    recovered = f"warning: {checkpoint_of(root)}: rolled back to the state before the migration"
    assert recovered in done.stdout.splitlines()
    assert tree_hash(root) == before
    cut(root)
    migrate(root, to="common-state", in_place=True)
    assert tree_hash(root) == before


def test_a_recover_that_fails_holds_no_lock_in_a_process_that_lives_on(copy: Copy) -> None:
    root = copy(SAMPLE)
    stage = checkpoint_of(root) / ".ckptmigrate" / "stage"
    stage.mkdir(parents=True)
    (stage / "journal.json").write_text("torn")
    before = tree_hash(root)
    for _ in range(2):
        with pytest.raises(DamagedError, match="is not a journal"):
            recover(root)
    assert tree_hash(root) == before


@pytest.mark.parametrize("name", [".ckptmigrate", ".ckptmigrate/stage", ".ckptmigrate/stage/.old"])
def test_a_linked_journal_moves_and_removes_nothing_elsewhere(
    name: str, copy: Copy, run: Run, tmp_path: Path
) -> None:
    """A checkpoint from a stranger, whose journal lies in somebody's home."""
    root = copy(SAMPLE)
    home = tmp_path / "home"
    (home / "stage" / ".old").mkdir(parents=True)
    (home / "0001").mkdir()
    (home / "0001" / "diary").write_text("dear diary")
    (home / "stage" / "journal.json").write_text('{"files": {}}')
    (home / "journal.json").write_text('{"files": {}}')
    place = checkpoint_of(root) / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(home)
    before = tree_hash(tmp_path)
    refused(run("recover", root), "is a link")
    refused(run("downgrade", root, "--to", "pre-rerun", "--in-place"), "is a link")
    assert tree_hash(tmp_path) == before


def test_originals_that_no_sidecar_tells_of_are_kept(copy: Copy) -> None:
    root = copy(SAMPLE)
    migrate(root, to="pre-rerun", in_place=True)
    (checkpoint_of(root) / "ckptmigrate.json").unlink()
    before = tree_hash(root)
    reason = r"0001: contains original files that ckptmigrate\.json"
    with pytest.raises(DestinationError, match=reason):
        migrate(root, to="common-state", in_place=True)
    assert tree_hash(root) == before


@pytest.mark.parametrize("verb", ["downgrade", "undo"])
def test_what_changes_while_a_plan_is_made_is_not_lost(
    copy: Copy, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Another file, between the look at a checkpoint and the end of the plan made from it."""
    from ckptmigrate.planning import planner, undo_plan

    root = copy("0.19.0-idle-tp2")
    migrate(root, to="split-rerun", in_place=True)
    other = checkpoint_of(SAMPLES / "0.13.1-idle-tp2") / "common.pt"
    after: list[str] = []

    def late(directory: Directory, *, unmarked: bool = False) -> Reading:
        found = read(directory, unmarked=unmarked)
        if not after:
            shutil.copy(other, checkpoint_of(root))
            after.append(tree_hash(root))
        return found

    for module in (planner, undo_plan):
        monkeypatch.setattr(module, "read", late)
    with pytest.raises(DestinationError, match=r"common\.pt changed while"):
        if verb == "undo":
            undo(root)
        else:
            migrate(root, to="pre-rerun", in_place=True)
    assert [tree_hash(root)] == after


def test_a_checkpoint_that_changed_since_it_was_planned(copy: Copy) -> None:
    from ckptmigrate.verbs import changes
    from ckptmigrate.verbs.migrate import MigrationRequest, prepare

    root = copy(SAMPLE)
    planned = prepare(root, MigrationRequest("pre-rerun", in_place=True))
    shutil.copy(checkpoint_of(SAMPLES / "0.18.2-idle-tp2") / ".metadata", checkpoint_of(root))
    before = tree_hash(root)
    with pytest.raises(DestinationError, match=r"\.metadata changed while"):
        changes.carry_out(planned)
    assert tree_hash(root) == before
