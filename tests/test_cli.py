"""The command line as a contract: first lines, exit status, JSON, help, isolation."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import golden
import pytest
from cli_reference import commands
from conftest import CLI, INDEX, LAYOUTS, SAMPLES, Run, checkpoint_of, refused, tree_hash
from every_verb import every_verb

SENTINEL = "0.18.2-idle-tp2"


def test_inspect_text(run: Run) -> None:
    result = run("inspect", SAMPLES / SENTINEL)
    assert result.returncode == 0
    first, *rest = result.stdout.splitlines()
    assert first == (
        f"{checkpoint_of(SAMPLES / SENTINEL)}: Megatron-Core 0.18, iteration 5, rerun state idle, "
        "no problems"
    )
    text = "\n".join(rest)
    assert re.search(r"written by +Megatron-Core 0\.18 \(torch >2\.5\.1\)\n", text)
    assert re.search(r"parallelism +world size 2 = TP 2 x PP 1 x CP 1 x DP 1\n", text)
    assert re.search(r"data files +2 \(", text)
    assert re.search(r"problems +none", text)


def test_inspect_says_what_it_cannot_tell_apart(run: Run) -> None:
    result = run("inspect", SAMPLES / "0.16.1-idle-w1", "--full")
    assert re.search(r"layout +none-emitting \(0\.14 to 0\.17\)\n", result.stdout)
    assert "same rerun data as pre-rerun" in result.stdout
    assert "metadata-class MCoreMetadata absent: <0.15|>=0.16" in result.stdout
    assert "argument async_strategy absent: <0.17" in result.stdout


@pytest.mark.parametrize("sample", sorted(INDEX))
def test_inspect_json_against_the_index(run: Run, sample: str) -> None:
    """index.json was written by the real releases' jobs, not by this program."""
    result = run("inspect", SAMPLES / sample, "--json")
    row, shown = INDEX[sample], json.loads(result.stdout)
    corrupt = row["scenario"] == "corrupt"
    assert result.returncode == (1 if corrupt else 0)
    assert row["layout"] in shown["layout"]["candidates"]
    assert shown["layout"]["likely"] == [row["layout"]]
    minor = ".".join(row["release"].split(".")[:2])
    release = row["release"] if "dev" in row["release"] else minor
    # 0.8 and 0.9 leave the same traces; of every other release they are its own.
    assert shown["writer"]["releases"] == (["0.8", "0.9"] if release == "0.9" else [release])
    assert shown["writer"]["torch"] == [">=2.4", "<2.13" if row["torch"] == "2.5.1" else ">2.5.1"]
    # A pre-rerun release is run "idle" by the index, and knows no rerun state at all.
    scenario = "absent" if row["layout"] == "pre-rerun" else row["scenario"]
    assert shown["rerun"]["state"] == scenario
    assert shown["topology"] == {
        "world": row["world_size"],
        "tensor": row["tensor_parallel"],
        "pipeline": row["pipeline_parallel"],
        "data": row["data_parallel"],
        "context": row["context_parallel"],
    }
    assert shown["iteration"] == 5
    assert shown["rerun"]["shards"] == len(row["rerun_keys"])
    assert (shown["common_state"] == "common.pt") == row["common_pt"]
    assert bool(shown["anomalies"]) == corrupt
    payload = list(checkpoint_of(SAMPLES / sample).glob("*.distcp"))
    assert shown["payload"] == {
        "files": len(payload),
        "bytes": sum(path.stat().st_size for path in payload),
    }
    assert shown["migrations"] == []


def test_inspect_fault(run: Run) -> None:
    shown = json.loads(run("inspect", SAMPLES / "0.18.2-fault-cp2", "--json").stdout)
    assert shown["rerun"]["machine_state"] == "WILL_RERUN_FROM_CHECKPOINT"
    assert shown["rerun"]["grid"] == [2]
    assert shown["rerun"]["fault"] == [
        {
            "position": [1],
            "failed_call": "loss is NaN on rank 1",
            "suspicious_node": "node-017",
            "suspicious_device": "3",
            "saved_microbatches": 1,
        }
    ]


def test_inspect_tells_history(run: Run, tmp_path: Path) -> None:
    run("downgrade", SAMPLES / SENTINEL, "--to", "pre-rerun", "-o", tmp_path / "out")
    shown = json.loads(run("inspect", tmp_path / "out", "--json").stdout)
    assert shown["layout"]["likely"] == ["pre-rerun"]
    [step] = shown["migrations"]
    assert (step["verb"], step["from"], step["to"]) == (
        "downgrade",
        ["always-sentinel"],
        "pre-rerun",
    )
    assert shown["anomalies"] == []
    text = run("inspect", tmp_path / "out").stdout
    assert re.search(r"history +\S+ downgrade from always-sentinel to pre-rerun", text)


def test_inspect_all(run: Run) -> None:
    root = SAMPLES / "0.17.1-corrupt-tp2"
    result = run("inspect", root, "--all", "--json")
    assert result.returncode == 1
    assert [row["iteration"] for row in json.loads(result.stdout)] == [4, 5]
    assert run("inspect", root, "--iteration", 4).returncode == 0


def test_migrate_text(run: Run, tmp_path: Path) -> None:
    result = run("downgrade", SAMPLES / SENTINEL, "--to", "none-emitting", "-o", "out", "-v")
    assert result.returncode == 0, result.stderr
    first, *rest = result.stdout.splitlines()
    made = re.escape(str(tmp_path / "out"))
    target = re.escape("layout none-emitting (0.14 to 0.17)")
    assert re.fullmatch(rf"Wrote {made} for {target} \(data files [\w-]+\)", first)
    for line in (
        "  - entry rerun_state_machine_state/shard_0_2",
        "  - entry rerun_state_machine_state/shard_1_2",
        "  - plan item of rank 0: rerun_state_machine_state/shard_0_2",
        "  - plan item of rank 1: rerun_state_machine_state/shard_1_2",
    ):
        assert line in rest
    assert f"to undo: rm -r {tmp_path / 'out'}" in rest
    assert any("hard links" in line for line in rest)


def test_migrate_json(run: Run, tmp_path: Path) -> None:
    result = run("upgrade", SAMPLES / "0.12.3-idle-w1", "-o", "out", "--json")
    shown = json.loads(result.stdout)
    assert shown["done"] is True
    assert shown["destination"] == str(tmp_path / "out")
    assert shown["link"] in ("reflink", "hardlink", "copy")
    [checkpoint] = shown["checkpoints"]
    assert checkpoint["from"] == ["split-rerun"]
    assert checkpoint["layout"] == "common-state"
    files = {row["name"]: row for row in checkpoint["files"]}
    assert set(files) == {".metadata", "common.pt", "metadata.json", "__0_2.distcp"}
    assert files["common.pt"] == {"name": "common.pt", "bytes": None, "sha256": None}
    written = Path(checkpoint["result"])
    assert (written / "__0_2.distcp").stat().st_size == files["__0_2.distcp"]["bytes"]
    assert {"sign": "+", "part": "entry", "name": "common_state/shard_0_1", "detail": ""} in (
        checkpoint["changes"]
    )


def test_default_destination_is_a_root_beside(run: Run, copy: Any) -> None:
    root = copy(SENTINEL)
    result = run("downgrade", root, "--to", "pre-rerun")
    assert result.returncode == 0, result.stderr
    beside = root.with_name(root.name + ".pre-rerun")
    assert (beside / "latest_checkpointed_iteration.txt").read_text() == "5"
    assert (beside / "iter_0000005" / ".metadata").exists()
    one = run("downgrade", f"{root}/iter_0000005/", "--to", "pre-rerun")
    assert one.returncode == 0, one.stderr
    assert (root / "iter_0000005.pre-rerun" / "iter_0000005" / ".metadata").exists()


def test_dry_run_writes_nothing(run: Run, copy: Any, tmp_path: Path) -> None:
    root = copy(SENTINEL)
    before = tree_hash(tmp_path)
    for arguments in ([], ["--in-place"], ["--json"]):
        result = run("upgrade", root, "--dry-run", *arguments)
        assert result.returncode == 0, result.stderr
        assert tree_hash(tmp_path) == before
    assert run("upgrade", root, "--dry-run").stdout.startswith("Dry run: would write ")


def test_in_place_and_its_undo(run: Run, copy: Any, tmp_path: Path) -> None:
    root = copy(SENTINEL)
    before = tree_hash(root)
    result = run("downgrade", root, "--to", "split-rerun", "--in-place")
    assert result.returncode == 0, result.stderr
    assert tree_hash(root) != before
    [undo] = re.findall(r"undo: ckptmigrate (.*)", result.stdout)
    assert run(*undo.split()).returncode == 0
    assert tree_hash(root) == before


def test_nothing_to_do_in_place(run: Run, copy: Any) -> None:
    root = copy("0.16.1-idle-w1")
    before = tree_hash(root)
    result = run("downgrade", root, "--to", "pre-rerun", "--in-place")
    assert result.returncode == 0
    assert result.stdout.startswith("No migration needed: ")
    assert tree_hash(root) == before


def test_all_iterations(run: Run, copy: Any, tmp_path: Path) -> None:
    root = copy(SENTINEL)
    checkpoint_of(root).with_name("iter_0000003").mkdir()
    for path in checkpoint_of(root).iterdir():
        os.link(path, root / "iter_0000003" / path.name)
    result = run("upgrade", root, "--all", "-o", "out")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "iter_0000003",
        "iter_0000005",
        "latest_checkpointed_iteration.txt",
    ]


def test_release_checkpoint(run: Run, copy: Any, tmp_path: Path) -> None:
    root = copy(SENTINEL)
    checkpoint_of(root).rename(root / "release")
    (root / "latest_checkpointed_iteration.txt").write_text("release")
    result = run("downgrade", root, "--to", "pre-rerun", "-o", "out")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out/latest_checkpointed_iteration.txt").read_text() == "release"
    assert (tmp_path / "out/release/.metadata").exists()


def test_a_directory_that_no_tracker_leads_to(run: Run, copy: Any, tmp_path: Path) -> None:
    """Its copy is such a directory, too: another framework passes its path."""
    root = copy(SENTINEL)
    checkpoint_of(root).rename(tmp_path / "best")
    result = run("downgrade", "best", "--to", "pre-rerun")
    assert result.returncode == 0, result.stderr
    made = tmp_path / "best.pre-rerun"
    assert not (made / "latest_checkpointed_iteration.txt").exists()
    assert run("inspect", made).stdout.splitlines()[0].startswith(f"{made}: ")


def test_diff_tells_the_same_in_the_same_order(start: Run) -> None:
    """Whatever the hashes of texts are, which Python draws anew when it starts."""
    roots = SAMPLES / "0.17.1-idle-w1", SAMPLES / "0.19.0-idle-tp2"
    told = [start("diff", *roots, "--json", PYTHONHASHSEED=str(seed)).stdout for seed in (1, 2, 3)]
    rows = json.loads(told[0])["differences"]
    assert sum((row["sign"], row["part"]) == ("+", "payload") for row in rows) > 3
    assert told[1:] == told[:1] * 2


def test_diff(run: Run, tmp_path: Path) -> None:
    root = SAMPLES / SENTINEL
    run("downgrade", root, "--to", "none-emitting", "-o", "out")
    same = run("diff", root, root)
    assert (same.returncode, same.stdout) == (0, "no difference\n")
    other = run("diff", root, "out")
    assert other.returncode == 1
    assert other.stdout.splitlines() == [
        "5 differences",
        "- common rerun_state_machine: {mode, state, current_iteration}",
        "- entry rerun_state_machine_state/shard_0_2",
        "- entry rerun_state_machine_state/shard_1_2",
        "- plan item of rank 0: rerun_state_machine_state/shard_0_2",
        "- plan item of rank 1: rerun_state_machine_state/shard_1_2",
    ]
    shown = json.loads(run("diff", root, "out", "--json").stdout)
    assert shown["equal"] is False
    assert len(shown["differences"]) == 5


def test_layouts(run: Run) -> None:
    text = run("layouts").stdout
    for layout in LAYOUTS:
        assert layout in text
    rows = json.loads(run("layouts", "--json").stdout)
    assert [row["layout"] for row in rows] == list(LAYOUTS)
    assert all(row["source"] and row["releases"] for row in rows)


MISTAKES = (
    [],
    ["frobnicate"],
    ["inspect"],
    ["inspect", "x", "--frobnicate"],
    ["downgrade", "x"],
    ["upgrade", "x", "--link", "teleport"],
    ["upgrade", "x", "--allow-loss", "everything"],
    ["upgrade", "x", "--in-place", "-o", "y"],
    ["upgrade", "x", "--all", "--iteration", "3"],
    ["upgrade", "x", "--world-size", "0"],
    ["diff", "x"],
)


def test_usage_is_status_2(run: Run) -> None:
    for arguments in MISTAKES:
        result = run(*arguments)
        assert result.returncode == 2, arguments
        assert "Traceback" not in result.stderr


def test_errors_as_json(run: Run) -> None:
    result = run("inspect", "nowhere", "--json")
    assert result.returncode == 1
    error = json.loads(result.stdout)["error"]
    assert error["kind"] == "NotACheckpointError"
    assert error["message"] in result.stderr
    assert error["path"].endswith("nowhere")
    assert error["fix"]
    loss = run("downgrade", SAMPLES / "0.18.2-fault-w1", "--to", "pre-rerun", "--json", "--dry-run")
    assert json.loads(loss.stdout)["error"]["losses"] == ["fault-context"]


def test_an_unforeseen_error_is_one_sentence_too() -> None:
    """Simulated: something inside breaks in a way that nobody thought of."""
    code = (
        "import ckptmigrate.verbs.inspect as i, ckptmigrate.cli as c; "
        "i.inspect = lambda path: 1 / 0; c.main()"
    )
    result = CLI.run(["inspect", str(SAMPLES / SENTINEL)], code=code)
    refused(result, "ZeroDivisionError", "-v")


def test_traceback_only_when_asked(run: Run) -> None:
    assert "Traceback" not in run("inspect", "nowhere").stderr
    assert "Traceback" in run("inspect", "nowhere", "-v").stderr


def test_every_verb_has_help_with_an_example(run: Run) -> None:
    for verb in commands():
        text = run(*verb.split(), "--help-all").stdout
        assert f"Examples:\n    ckptmigrate {verb}" in text, verb
        for option in ("--json", "--no-color", "--verbose"):
            assert option in text, verb


def test_universal_help_tells_strict_readers(run: Run) -> None:
    text = " ".join(run("downgrade", "--help").stdout.split())
    assert "universal" in text
    assert "raise_all" in text


def test_colour_only_on_terminals(run: Run, tmp_path: Path) -> None:
    words = ["inspect", str(SAMPLES / SENTINEL)]
    assert "\x1b[" in golden.run(words, tmp_path, 100, NO_COLOR="")
    assert "\x1b[" not in golden.run([*words, "--no-color"], tmp_path, 100, NO_COLOR="")
    assert "\x1b[" not in golden.run(words, tmp_path, 100, NO_COLOR="1")
    assert "\x1b[" not in run("inspect", SAMPLES / SENTINEL, NO_COLOR="").stdout


def test_a_bar_shows_while_payload_is_copied(tmp_path: Path) -> None:
    words = [
        "downgrade",
        str(SAMPLES / SENTINEL),
        "--to",
        "pre-rerun",
        "--link",
        "copy",
        "-o",
        "out",
    ]
    at_once = "from ckptmigrate.cli import console\nconsole._WITHOUT_BAR = -1"
    assert "writing data files" not in golden.run([*words[:-1], "quick"], tmp_path, 100)
    shown = golden.run(words, tmp_path, 100, before=at_once)
    assert "writing data files" in shown
    # Both payload files, to the last byte, in the bar's own units.
    total = sum(p.stat().st_size for p in checkpoint_of(SAMPLES / SENTINEL).glob("*.distcp"))
    done = f"{total / 1000:.1f}/{total / 1000:.1f} kB"
    # The rate ("?" if there was no time to measure it) and the remaining time.
    assert re.search(re.escape(done) + r" +(\?|[\d.]+ [kMG]?B/s) +\S+:\d\d", shown), shown


_ISOLATED = """
import sys
from ckptmigrate.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code or sys.argv[1] in ("diff", "check"), stop.code
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"torch", "megatron", "numpy"}, loaded & {"torch", "megatron", "numpy"}
print("isolated", file=sys.stderr)
"""


def test_no_verb_imports_torch_or_megatron(tmp_path: Path) -> None:
    """The process that runs them has imported every module of the package, for each of them."""
    # `matrix run` starts processes of real releases, which import both.
    for verb, words in every_verb(tmp_path).items():
        result = CLI.run([*verb.split(), *map(str, words)], code=_ISOLATED, cwd=tmp_path)
        assert result.stderr == "isolated\n", verb
