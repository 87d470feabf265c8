"""The library: topology, differences, linking, the facts file, and what callers rely on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_side
from conftest import LAYOUTS, SAMPLES, checkpoint_of, tree_hash

import ckptmigrate
from ckptmigrate import Given, Link, RefusedError
from ckptmigrate.compat import compilation
from ckptmigrate.releases import facts

Copy = Callable[[str], Path]


# -- topology


def without_args(root: Path) -> None:
    torch_side.edit_common(root, lambda state: state.pop("args"))


def test_unknown_sizes_name_the_option(copy: Copy, tmp_path: Path) -> None:
    root = copy("0.16.1-idle-tp2")
    without_args(root)
    with pytest.raises(RefusedError, match="--world-size 2"):
        ckptmigrate.migrate(root, to="always-sentinel", output=tmp_path / "a")
    with pytest.raises(RefusedError, match="--pipeline-parallel"):
        ckptmigrate.migrate(root, to="split-rerun", output=tmp_path / "a")
    with pytest.raises(RefusedError, match="--tensor-parallel"):
        ckptmigrate.migrate(root, to="split-rerun", output=tmp_path / "a", given=Given(2, None, 1))
    plans = ckptmigrate.migrate(
        root, to="split-rerun", output=tmp_path / "a", given=Given(world=2, tensor=2, pipeline=1)
    )
    assert any("using validate_results" in note for note in plans[0].notes)
    result = torch_side.read(checkpoint_of(tmp_path / "a"))
    assert result.rerun_keys == {
        "rerun_state_machine_state/shard_0.0_1.2",
        "rerun_state_machine_state/shard_0.1_1.2",
    }


def test_sizes_that_are_not_needed_are_not_asked_for(copy: Copy, tmp_path: Path) -> None:
    root = copy("0.12.3-disabled-tp2")
    without_args(root)
    for target in ("pre-rerun", "sharded-rerun", "none-emitting"):
        ckptmigrate.migrate(root, to=target, output=tmp_path / target)


@pytest.mark.parametrize(
    ("given", "option"),
    [
        (Given(world=5), "--world-size"),
        (Given(tensor=4), "--tensor-parallel"),
        (Given(pipeline=2), "--pipeline-parallel"),
    ],
)
def test_contradicting_options(given: Given, option: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=option):
        ckptmigrate.migrate(
            SAMPLES / "0.16.1-idle-tp2", to="split-rerun", output=tmp_path / "a", given=given
        )


def set_argument(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda state: setattr(state["args"], name, value)


def test_args_that_contradict_the_plans(copy: Copy, tmp_path: Path) -> None:
    root = copy("0.16.1-idle-tp2")
    torch_side.edit_common(root, set_argument("world_size", 4))
    with pytest.raises(
        RefusedError, match=r"args\.world_size \(4\) contradicts the number of save.*--world"
    ):
        ckptmigrate.migrate(root, to="split-rerun", output=tmp_path / "a")
    # What the files bear out outweighs args.
    ckptmigrate.migrate(root, to="split-rerun", output=tmp_path / "a", given=Given(world=2))


def test_a_payload_file_of_a_rank_outside_of_the_world(copy: Copy, tmp_path: Path) -> None:
    """Releases up to 0.10 keep no plans; the payload file names bound the world from below."""
    root = copy("0.10.0-idle-tp2")
    torch_side.edit_common(root, set_argument("world_size", 1))
    with pytest.raises(RefusedError, match=r"data files, one of which rank 1 wrote.*--world-size"):
        ckptmigrate.migrate(root, to="always-sentinel", output=tmp_path / "a")


@pytest.mark.parametrize(
    ("mapping", "ranks"),
    [
        # rank = tp + TP*(cp + CP*(dp + DP*pp)): pp 1 starts at TP*CP*DP = 4
        (False, {"0.0_2.1": 0, "1.0_2.1": 4}),
        # rank = tp + TP*(cp + CP*(pp + PP*dp)): pp 1 starts at TP*CP = 2
        (True, {"0.0_2.1": 0, "1.0_2.1": 2}),
    ],
)
def test_rank_order(mapping: bool, ranks: dict[str, int], copy: Copy, tmp_path: Path) -> None:
    """TP 1, CP 2, DP 2, PP 2 in args and eight plans, synthesized from a sample."""
    root = copy("0.16.1-idle-w1")

    def change(state: dict[str, Any]) -> None:
        args = state["args"]
        args.world_size, args.tensor_model_parallel_size = 8, 1
        args.pipeline_model_parallel_size, args.context_parallel_size = 2, 2
        args.data_parallel_size, args.use_tp_pp_dp_mapping = 2, mapping

    torch_side.edit_common(root, change)
    path = checkpoint_of(root) / ".metadata"
    metadata = torch_side.unpickle(path.read_bytes())
    empty = type(metadata.all_local_plans[0])([])
    metadata.all_local_plans += [empty] * 7
    import pickle

    path.write_bytes(pickle.dumps(metadata, 4))
    ckptmigrate.migrate(root, to="sharded-rerun", output=tmp_path / "a")
    plans = torch_side.read(checkpoint_of(tmp_path / "a")).plan_keys()
    assert plans is not None
    placed = {
        key.rpartition("_")[0].rpartition("_")[2] + "_" + key.rpartition("_")[2]: rank
        for rank, keys in enumerate(plans)
        for key in keys
        if key.startswith("rerun_state_machine_state/")
    }
    assert placed == ranks


# -- payload fields that are not the defaults


def test_statistics_move_to_the_grid(copy: Copy, tmp_path: Path) -> None:
    """An idle payload with statistics: the rank with data parallel rank 0 carries them down."""
    counts = {"loss": {1: 2}}
    root = copy("0.18.2-idle-tp2")
    rewrite_payloads(root, lambda rank, payload: payload.update(large_value_counts={rank: counts}))
    ckptmigrate.migrate(root, to="split-rerun", output=tmp_path / "a")
    result = torch_side.read(checkpoint_of(tmp_path / "a"))
    for rank in (0, 1):
        [payload] = result.object(f"rerun_state_machine_state/shard_0.{rank}_1.2")
        assert payload["large_value_counts"] == {rank: counts}
    # Up again from there, without the sidecar, idle is the sentinel of the release.
    ckptmigrate.migrate(root, to="common-state", output=tmp_path / "b")
    result = torch_side.read(checkpoint_of(tmp_path / "b"))
    [payload] = result.object("rerun_state_machine_state/shard_1_2")
    assert payload["large_value_counts"] == {1: counts}


def rewrite_payloads(root: Path, change: Callable[[int, dict[str, Any]], None]) -> None:
    """Replace the rerun payloads of a (WORLD,) sample, each appended to its payload file."""
    import io
    import pickle

    checkpoint = checkpoint_of(root)
    contents = torch_side.read(checkpoint)
    metadata = contents.metadata
    for index, info in metadata.storage_data.items():
        if not index.fqn.startswith("rerun_state_machine_state/"):
            continue
        [payload] = contents.object(index.fqn)
        change(int(index.fqn.split("_")[-2]), payload)
        buffer = io.BytesIO()
        with torch_side.megatron_names():
            torch.save([payload], buffer)
        path = checkpoint / info.relative_path
        info.offset, info.length = path.stat().st_size, len(buffer.getvalue())
        with path.open("ab") as file:
            file.write(buffer.getvalue())
    with torch_side.megatron_names():
        (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata, 4))


def test_report_stats_mode(copy: Copy, tmp_path: Path) -> None:
    root = copy("0.16.1-idle-w1")
    torch_side.edit_common(root, set_argument("rerun_mode", "report_stats"))
    plans = ckptmigrate.migrate(root, to="always-sentinel", output=tmp_path / "a")
    assert any(
        "using args.rerun_mode (report_determinism_stats)" in note for note in plans[0].notes
    )
    entry = torch_side.read(checkpoint_of(tmp_path / "a")).common["rerun_state_machine"]
    assert entry["mode"] is torch_side.RerunMode.REPORT_DETERMINISM_STATS


# -- files


def test_unknown_files_survive(copy: Copy, tmp_path: Path) -> None:
    root = copy("0.18.2-idle-w1")
    checkpoint = checkpoint_of(root)
    (checkpoint / "run_config.yaml").write_text("a: 1\n")
    (checkpoint / "tokenizer" / "deep").mkdir(parents=True)
    (checkpoint / "tokenizer" / "deep" / "vocab").write_bytes(bytes(range(256)))
    shutil.copytree(SAMPLES / "0.12.3-idle-w1" / "iter_0000005", checkpoint / "modelopt_state")
    for link in (Link.HARDLINK, Link.COPY, Link.SYMLINK):
        ckptmigrate.migrate(root, to="pre-rerun", output=tmp_path / link.value, link=link)
        result = checkpoint_of(tmp_path / link.value)
        for path in checkpoint.rglob("*"):
            name = path.relative_to(checkpoint)
            if path.is_file() and str(name) not in (".metadata", "common.pt", "metadata.json"):
                assert (result / name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("link", [Link.AUTO, Link.HARDLINK, Link.SYMLINK, Link.COPY])
def test_changed_files_are_fresh_and_payload_is_linked(
    link: Link, copy: Copy, tmp_path: Path
) -> None:
    source = copy("0.18.2-idle-w1")
    before = tree_hash(source)
    ckptmigrate.migrate(source, to="split-rerun", output=tmp_path / "out", link=link)
    old, new = checkpoint_of(source), checkpoint_of(tmp_path / "out")
    for name in (".metadata", "common.pt"):
        assert not (new / name).is_symlink()
        assert (new / name).stat().st_nlink == 1
    payload, origin = new / "__0_0.distcp", old / "__0_0.distcp"
    assert payload.is_symlink() == (link is Link.SYMLINK)
    assert payload.samefile(origin) == (link in (Link.SYMLINK, Link.HARDLINK)) or link is Link.AUTO
    assert payload.stat().st_mtime_ns == origin.stat().st_mtime_ns
    # What a job or a person then writes into any small file does not reach the source.
    for path in new.iterdir():
        if path.is_file() and path.suffix != ".distcp":
            path.write_bytes(b"")
    assert tree_hash(source) == before


def test_metadata_is_copied_whatever_its_size(copy: Copy, tmp_path: Path) -> None:
    """A job that saves the iteration again may empty the file that is there."""
    root = copy("0.17.1-idle-w1")  # what goes down to split-rerun and back leaves all as it is
    ckptmigrate.migrate(root, to="split-rerun", in_place=True)
    marker = checkpoint_of(root) / "metadata.json"
    marker.write_bytes(marker.read_bytes() + b" " * 2**20)
    ckptmigrate.migrate(root, to="pre-rerun", output=tmp_path / "out")
    carried = checkpoint_of(tmp_path / "out") / "metadata.json"
    assert carried.read_bytes() == marker.read_bytes()
    assert not carried.samefile(marker)


def test_symlinked_payload_is_carried(copy: Copy, tmp_path: Path) -> None:
    root = copy("0.18.2-idle-w1")
    payload = checkpoint_of(root) / "__0_0.distcp"
    elsewhere = tmp_path / "elsewhere" / payload.name
    elsewhere.parent.mkdir()
    payload.rename(elsewhere)
    payload.symlink_to(elsewhere)
    ckptmigrate.migrate(root, to="pre-rerun", output=tmp_path / "out")
    result = checkpoint_of(tmp_path / "out") / "__0_0.distcp"
    assert result.read_bytes() == elsewhere.read_bytes()


def test_a_link_to_a_file_of_another_name_is_no_payload(copy: Copy, tmp_path: Path) -> None:
    """It may lead to anything that the user can read: it is refused, and never carried over."""
    root = copy("0.18.2-idle-w1")
    payload = checkpoint_of(root) / "__0_0.distcp"
    payload.rename(tmp_path / "secret")
    payload.symlink_to(tmp_path / "secret")
    with pytest.raises(ckptmigrate.DamagedError, match=r"is a link to .*, outside the checkpoint"):
        ckptmigrate.migrate(root, to="pre-rerun", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "address",
    [
        f"blobs/{'0a' * 32}",  # huggingface_hub
        f"files/md5/ab/{'c1' * 15}",  # DVC
        f"SHA256E-s269512--{'7f' * 32}/SHA256E-s269512--{'7f' * 32}.distcp",  # git-annex
    ],
)
def test_a_checkpoint_in_a_cache_is_migrated_out_of_place_alone(
    copy: Copy, tmp_path: Path, address: str
) -> None:
    """Every file is a link to one that is named by its content; none of them is written to."""
    root = copy("0.18.2-idle-w1")
    checkpoint = checkpoint_of(root)
    for number, path in enumerate(sorted(checkpoint.iterdir())):
        kept = tmp_path / str(number) / address
        kept.parent.mkdir(parents=True)
        path.rename(kept)
        path.symlink_to(os.path.relpath(kept, checkpoint))
    before = tree_hash(tmp_path)
    with pytest.raises(ckptmigrate.DestinationError, match="is a link") as refused:
        ckptmigrate.migrate(root, to="pre-rerun", in_place=True)
    assert "omit --in-place" in str(refused.value)
    assert tree_hash(tmp_path) == before
    ckptmigrate.migrate(root, to="pre-rerun", output=tmp_path / "out")
    result = checkpoint_of(tmp_path / "out")
    assert (result / "__0_0.distcp").read_bytes() == (checkpoint / "__0_0.distcp").read_bytes()
    assert not any(path.is_symlink() for path in result.iterdir())
    shutil.rmtree(tmp_path / "out")
    assert tree_hash(tmp_path) == before


def test_new_payload_collides_with_none(copy: Copy, tmp_path: Path) -> None:
    root = copy("0.16.1-idle-w1")
    for number in (2, 3):
        (checkpoint_of(root) / f"__0_{number}.distcp").write_bytes(b"an orphan")
    ckptmigrate.migrate(root, to="always-sentinel", output=tmp_path / "out")
    result = checkpoint_of(tmp_path / "out")
    assert (result / "__0_2.distcp").read_bytes() == b"an orphan"
    assert (
        torch_side.read(result)
        .metadata.storage_data[
            next(
                index
                for index in torch_side.read(result).metadata.storage_data
                if index.fqn.startswith("rerun")
            )
        ]
        .relative_path
        == "__0_4.distcp"
    )


def test_many_ranks_share_one_sentinel(tmp_path: Path) -> None:
    ckptmigrate.migrate(SAMPLES / "0.16.1-idle-tp2", to="always-sentinel", output=tmp_path / "out")
    storage = torch_side.read(checkpoint_of(tmp_path / "out")).metadata.storage_data
    ranges = {
        (info.relative_path, info.offset, info.length)
        for index, info in storage.items()
        if index.fqn.startswith("rerun_state_machine_state/")
    }
    assert len(ranges) == 1


# -- differences


def test_two_saves_differ(copy: Copy) -> None:
    found = ckptmigrate.diff(SAMPLES / "0.18.2-idle-w1", SAMPLES / "0.17.1-idle-w1")
    parts = {difference.part for difference in found}
    assert {"common", "entry", "plan", "attribute"} <= parts


def test_a_copy_is_equal_and_a_flipped_tensor_byte_is_not(copy: Copy) -> None:
    source = SAMPLES / "0.18.2-idle-w1"
    root = copy("0.18.2-idle-w1")
    assert ckptmigrate.diff(source, root) == []
    metadata = torch_side.read(checkpoint_of(root)).metadata
    index, info = next(
        (i, s) for i, s in metadata.storage_data.items() if "word_embeddings" in i.fqn
    )
    path = checkpoint_of(root) / info.relative_path
    content = bytearray(path.read_bytes())
    content[info.offset + info.length // 2] ^= 1
    path.write_bytes(content)
    [difference] = ckptmigrate.diff(source, root)
    assert (difference.sign, difference.part) == ("~", "payload")
    assert difference.name.startswith(index.fqn)


def test_an_argument_is_told_by_name(copy: Copy) -> None:
    root = copy("0.18.2-idle-w1")
    torch_side.edit_common(root, set_argument("lr", 0.125))
    torch_side.edit_common(root, lambda state: state.update(extra=[1]))
    found = {str(d) for d in ckptmigrate.diff(SAMPLES / "0.18.2-idle-w1", root)}
    assert any(line.startswith("~ common args.lr: ") and "0.125" in line for line in found)
    assert "+ common extra: list of 1" in found


def test_other_bytes_with_the_same_object_are_equal(tmp_path: Path) -> None:
    """Sentinels made anew differ in their bytes from the release's, not in meaning."""
    source = SAMPLES / "0.18.2-idle-w1"
    ckptmigrate.migrate(source, to="none-emitting", output=tmp_path / "down")
    down = checkpoint_of(tmp_path / "down")
    (down / "ckptmigrate.json").unlink()
    ckptmigrate.migrate(tmp_path / "down", to="always-sentinel", output=tmp_path / "up")
    assert ckptmigrate.diff(source, tmp_path / "up") == []


def test_a_plan_that_writes_otherwise_is_told(copy: Copy) -> None:
    import pickle

    root = copy("0.18.2-idle-w1")
    path = checkpoint_of(root) / ".metadata"
    metadata = torch_side.unpickle(path.read_bytes())
    plan = metadata.all_local_plans[0]
    object.__setattr__(plan, "usable", False)
    with torch_side.megatron_names():
        path.write_bytes(pickle.dumps(metadata, 4))
    [difference] = ckptmigrate.diff(SAMPLES / "0.18.2-idle-w1", root)
    assert str(difference) == "~ plan usable of rank 0: True -> False"


# -- integrity.json


def test_integrity_stays_true_and_comes_back(copy: Copy, tmp_path: Path) -> None:
    """Synthesized: the digests that 0.17.1 and later write, of every file of a sample."""
    import hashlib

    def digests(checkpoint: Path) -> dict[str, str]:
        names = [p.name for p in checkpoint.iterdir() if p.is_file()]
        kept = [n for n in names if n not in ("integrity.json", "ckptmigrate.json")]
        return {n: hashlib.sha256((checkpoint / n).read_bytes()).hexdigest() for n in kept}

    root = copy("0.19.0-idle-tp2")
    checkpoint = checkpoint_of(root)
    content = {"algorithm": "sha256", "files": digests(checkpoint)}
    (checkpoint / "integrity.json").write_text(json.dumps(content))
    before = tree_hash(root)
    for target in ("pre-rerun", "split-rerun"):
        ckptmigrate.migrate(root, to=target, output=tmp_path / target)
        result = checkpoint_of(tmp_path / target)
        shown = json.loads((result / "integrity.json").read_text())
        assert shown == {"algorithm": "sha256", "files": digests(result)}
    ckptmigrate.migrate(tmp_path / "split-rerun", to="common-state", output=tmp_path / "back")
    assert tree_hash(tmp_path / "back") == before
    (checkpoint / "integrity.json").write_text('{"algorithm": "md5", "files": {}}')
    with pytest.raises(ckptmigrate.DamagedError, match=r"integrity\.json.*md5"):
        ckptmigrate.migrate(root, to="pre-rerun", output=tmp_path / "x")


def test_common_state_in_both_places(copy: Copy, tmp_path: Path) -> None:
    """common.pt wins in every release; a target with common.pt drops the stale entry."""
    root = copy("0.19.0-idle-w1")
    ckptmigrate.migrate(root, to="always-sentinel", output=tmp_path / "down")
    common = (checkpoint_of(tmp_path / "down") / "common.pt").read_bytes()
    (checkpoint_of(root) / "common.pt").write_bytes(common)
    assert any("twice" in a for a in ckptmigrate.inspect(root).anomalies)
    for target in ("none-emitting", "always-sentinel"):
        ckptmigrate.migrate(root, to=target, output=tmp_path / target)
        result = torch_side.read(checkpoint_of(tmp_path / target))
        torch_side.consistent(result, has_plans=True)
        assert "common_state/shard_0_1" not in result.blobs
        marker = json.loads((checkpoint_of(tmp_path / target) / "metadata.json").read_text())
        assert marker["common_backend"] == "torch"


@pytest.mark.parametrize("size", [2_000_000, 10**18])
def test_absurd_sizes_are_refused(size: int, copy: Copy, tmp_path: Path) -> None:
    root = copy("0.10.0-idle-w1")
    torch_side.edit_common(root, set_argument("world_size", size))
    with pytest.raises(RefusedError, match="larger than any job"):
        ckptmigrate.migrate(root, to="always-sentinel", output=tmp_path / "out")


def test_commands_are_quoted_for_a_shell(copy: Copy, tmp_path: Path) -> None:
    import shlex
    import subprocess

    root = copy("0.18.2-idle-w1").rename(tmp_path / "it's $(touch owned) here")
    from ckptmigrate.verbs.migrate import MigrationRequest

    prepared = MigrationRequest("pre-rerun").run(root)
    [undo] = prepared.undo()
    assert shlex.split(undo) == ["rm", "-r", f"{root}.pre-rerun"]
    subprocess.run(undo, shell=True, check=True, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [root.name]


# -- the facts file


def test_the_shipped_facts() -> None:
    compat = facts.compat()
    assert tuple(row.layout for row in compat.layouts) == LAYOUTS
    # Every known release writes exactly one layout.
    for release in compat.known_releases:
        fitting = [r.layout for r in compat.layouts if facts.matches(release, r.releases)]
        assert len(fitting) == 1, release
    # Presence and absence of a sign part the releases, but where absence says nothing.
    for row in compat.writer_signs:
        if row.absent == ">=0":
            continue
        for release in compat.known_releases:
            present, absent = (facts.matches(release, s) for s in (row.present, row.absent))
            assert present != absent, (row.sign, release)


def shipped() -> str:
    return (Path(__file__).parent.parent / "compat_matrix.yaml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("schema: 1", "schema: 2", "schema is not 1"),
        ("  - layout: pre-rerun", "  - layuot: pre-rerun", "unknown key 'layuot'"),
        ('    releases: "<0.10"', '    releases: "lower than 0.10"', "not a version specifier"),
        ('    releases: "<0.10"', "    releases: 0.10", "is not text"),
        ("layouts:", "layouts: [", "line"),
        ("layouts:", "layouts:\n  - just text", "is not a mapping"),
        ("    summary: no rerun state\n", "", "'summary' is missing"),
        ('known_releases: ["0.8",', "known_releases: [0.8,", "not a list of quoted text"),
    ],
)
def test_a_mistake_in_the_facts_names_its_line(old: str, new: str, word: str) -> None:
    text = shipped()
    assert old in text
    with pytest.raises(ckptmigrate.CompatError, match=r"line \d+") as error:
        compilation.parse(text.replace(old, new, 1))
    assert word in str(error.value)
    line = int(str(error.value).partition("line ")[2].partition(":")[0])
    near = text[: text.index(old)].count("\n") + 1
    assert abs(line - near) <= 2


# -- the sidecar


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format": 2, "steps": []}',
        b'{"format": 1, "steps": [{}]}',
        json.dumps(
            {
                "format": 1,
                "steps": [
                    {
                        "verb": "upgrade",
                        "source": [],
                        "target": "x",
                        "version": "1",
                        "time": "",
                        "losses": [],
                        "changes": [],
                        "files": {"../../etc/passwd": {"before": None, "after": None}},
                    }
                ],
            }
        ).encode(),
    ],
)
def test_a_bad_sidecar_is_named(content: bytes, copy: Copy, tmp_path: Path) -> None:
    root = copy("0.18.2-idle-w1")
    (checkpoint_of(root) / "ckptmigrate.json").write_bytes(content)
    before = tree_hash(root)
    reason = r"ckptmigrate\.json.*migration history.*rm -rf "
    with pytest.raises(ckptmigrate.DamagedError, match=reason):
        ckptmigrate.migrate(root, to="pre-rerun", output=tmp_path / "out")
    assert any("migration history" in a for a in ckptmigrate.inspect(root).anomalies)
    assert tree_hash(root) == before


def test_errors_carry_their_parts(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as error:
        ckptmigrate.migrate(
            SAMPLES / "0.12.3-fault-w1", to="always-sentinel", output=tmp_path / "out"
        )
    assert error.value.layout == "always-sentinel"
    assert error.value.losses == ("fault-context",)
    assert error.value.path == checkpoint_of(SAMPLES / "0.12.3-fault-w1")
    assert "--allow-loss fault-context" in str(error.value.fix)
    assert os.fspath(error.value.path) in str(error.value)
