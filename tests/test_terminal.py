"""No string of a checkpoint reaches the terminal as anything but text."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch_side
from conftest import SAMPLES, Run, checkpoint_of
from hostile.batch import VERBS, job, judge, root_of, run
from hostile.planting import linked, tracker, written

# ESC and CSI, OSC, C1, bell, NUL, carriage return and newlines of every kind, bidi, invisible.
NASTY = (
    "\x1b[2J\x1b]0;x\x07\x9b31m\x90\x00\r\n\x0b\x0c\x85\u2028\u202e\u2066\u200b\ufeff\U000e0041e"
)
NAME = NASTY.replace("\x00", "")  # no file system has NUL


def common(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda root: torch_side.edit_common(root, change)


def metadata(change: Callable[[Any], object]) -> Callable[[Path], None]:
    """Change `.metadata` with the real classes of torch."""

    def plant(root: Path) -> None:
        path = checkpoint_of(root) / ".metadata"
        with torch_side.megatron_names():
            found = pickle.loads(path.read_bytes())
            change(found)
            path.write_bytes(pickle.dumps(found, 4))

    return plant


def rename_entry(found: Any) -> None:
    """An entry of another name in all tables."""
    key = next(iter(found.state_dict_metadata))
    found.state_dict_metadata[NASTY] = found.state_dict_metadata.pop(key)
    for index in [i for i in found.storage_data if i.fqn == key]:
        where = found.storage_data.pop(index)
        found.storage_data[type(index)(NASTY, index.offset, index.index)] = where


def rename_class(name: bytes) -> Callable[[Path], None]:
    """A symbol of `.metadata` by another name of the same length."""

    def plant(root: Path) -> None:
        path = checkpoint_of(root) / ".metadata"
        data = path.read_bytes()
        assert data.count(b"StorageMeta\x94") == 1
        assert len(name) == len("StorageMeta")
        path.write_bytes(data.replace(b"StorageMeta\x94", name + b"\x94"))

    return plant


def file_beside(root: Path) -> None:
    (checkpoint_of(root) / NAME).write_bytes(b"x")
    (checkpoint_of(root) / os.fsdecode(b"\xff\x1b[31m.distcp")).write_bytes(b"x")


def named_iteration(root: Path) -> None:
    (root / f"iter_0000005{NAME}").mkdir()


PLANTS: dict[str, Callable[[Path], object]] = {
    "key of the common state": common(lambda state: state.update({NASTY: 1})),
    "key deep in the common state": common(lambda state: state.update(x={NASTY: {NASTY: NASTY}})),
    "argument": common(lambda state: setattr(state["args"], NASTY, NASTY)),
    "value of an argument": common(lambda state: setattr(state["args"], "rerun_mode", NASTY)),
    "sharding type": common(
        lambda state: state.update(content_metadata={"distrib_optim_sharding_type": NASTY})
    ),
    "rerun entry": common(lambda state: state.update(rerun_state_machine={NASTY: NASTY})),
    "mode": common(lambda state: state["rerun_state_machine"].update(mode=NASTY)),
    "entry": metadata(rename_entry),
    "entry without bytes": metadata(
        lambda m: m.state_dict_metadata.update({NASTY: next(iter(m.state_dict_metadata.values()))})
    ),
    "rerun shard": metadata(
        lambda m: m.state_dict_metadata.update(
            {f"rerun_state_machine_state/{NASTY}": next(iter(m.state_dict_metadata.values()))}
        )
    ),
    "attribute": metadata(lambda m: setattr(m, NASTY, {NASTY: NASTY})),
    "planner data": metadata(lambda m: setattr(m, "planner_data", {NASTY: (NASTY,)})),
    "storage meta": metadata(lambda m: setattr(m.storage_meta, "save_id", NASTY)),
    "payload file": metadata(
        lambda m: [object.__setattr__(w, "relative_path", NASTY) for w in m.storage_data.values()]
    ),
    "symbol": rename_class(b"\x1b[2J\x07\r\n\xc2\x9bxx"),
    "marker key": written(
        "metadata.json",
        json.dumps({"sharded_backend": "torch_dist", "sharded_backend_version": 1, NASTY: NASTY}),
    ),
    "backend": written("metadata.json", json.dumps({"sharded_backend": NASTY})),
    "marker that is no JSON": written("metadata.json", NASTY),
    "tracker": tracker(NASTY),
    "sidecar": written("ckptmigrate.json", json.dumps({"format": NASTY})),
    "sidecar step": written(
        "ckptmigrate.json",
        json.dumps({"format": 1, "steps": [{"verb": NASTY, "source": [NASTY], "target": NASTY,
            "version": NASTY, "time": NASTY, "losses": [NASTY], "changes": [NASTY], "files": {}}]}),
    ),
    "integrity.json": written("integrity.json", json.dumps({"algorithm": NASTY, "files": {}})),
    "files beside": file_beside,
    "link": linked("__0_0.distcp", f"/{NAME}"),
    "iteration": named_iteration,
}  # fmt: skip


@pytest.mark.costly("five verbs read 25 checkpoints")
def test_no_control_character_is_printed(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    jobs = []
    for name, plant in PLANTS.items():
        root = root_of(tmp_path, name)
        plant(root)
        jobs.append(job(name, root))
    found = run(tmp_path, jobs)
    judge(found)  # every line printable, no violation, a clear error or a result
    assert len(found["runs"]) == len(PLANTS) * len(VERBS)
    # Each plant is printed, escaped, but for those that no verb prints.
    shown = {r["name"] for r in found["runs"] if "\\x1b" in r["out"] + r["err"]}
    silent = {"iteration", "link", "marker that is no JSON", "mode"}
    assert PLANTS.keys() - shown == silent
    record_property("safety", f"{len(PLANTS)} places for terminal escapes")


def test_a_path_of_the_user_is_printed_as_text(run: Run, tmp_path: Path) -> None:
    for place in (tmp_path / NAME, tmp_path / "x" / NAME):
        result = run("inspect", place)
        assert result.returncode == 1
        assert result.stderr.rstrip("\n").isprintable(), result.stderr


def test_json_is_escaped(run: Run, tmp_path: Path) -> None:
    root = root_of(tmp_path, "json")
    PLANTS["key of the common state"](root)
    PLANTS["marker key"](root)
    for words in (("inspect",), ("check",), ("diff", SAMPLES / "0.18.2-idle-w1")):
        text = run(*words, root, "--json").stdout
        assert text.isascii(), words
        assert all(c.isprintable() or c == "\n" for c in text), words
        json.loads(text)
