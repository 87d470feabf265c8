"""Checkpoints inside a checkpoint: migrated, checked, verified, repaired and undone with it.

cases/modelopt has a modelopt_state that ModelOpt saved under 0.19.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SAMPLES, Run, checkpoint_of, refused, tree_hash
from object_stores import url, without_time
from real_releases import run_code, run_parts
from s3_server import Bucket, files_of

import ckptmigrate
from ckptmigrate import migrate
from ckptmigrate.errors import CkptMigrateError, DamagedError, NotACheckpointError

pytest_plugins = ["store_fixtures"]

CASE = Path(__file__).parent / "cases" / "modelopt" / "run"
NAME = "modelopt_state"
QUANTIZER = "decoder.layers.0.self_attention.linear_qkv.weight_quantizer"
# ModelOpt opens common.pt itself; Megatron-Core's own load of it comes after that.
_STATE = """
import json, sys
from pathlib import Path
import torch
from megatron.core import dist_checkpointing
place = Path(json.load(sys.stdin))
own = torch.load(place / "common.pt", weights_only=False)
core = dist_checkpointing.load_common_state_dict(place)
print(json.dumps([own, core]))
"""
SAVED = {
    "modelopt_state_dict": [["quantize", {"config": {"quant_cfg": {}}, "metadata": {}}]],
    "modelopt_version": "0.39.0",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CASE, tmp_path / "run"))


def inside(root: Path) -> Path:
    return checkpoint_of(root) / NAME


# -- real releases


def objects(root: Path, name: str = NAME) -> dict[str, object]:
    return {
        "checkpoint": str(checkpoint_of(root) / name),
        "objects": [[QUANTIZER, [1], [0]]],
    }


@pytest.mark.costly("imports a real release")
@pytest.mark.parametrize("release", ["0.13.1", "0.16.1"])
def test_a_real_release_loads_the_nested_one_after_a_downgrade(
    source: Path, release: str, tmp_path: Path
) -> None:
    before = tree_hash(source)
    migrate(source, to=release, output=tmp_path / "out")
    raw, made = run_parts(release, objects(source), objects(tmp_path / "out"))
    assert len(made["digests"]) == 1
    states = run_code(release, _STATE, str(inside(tmp_path / "out")))
    assert states == [SAVED, SAVED]
    # What it fails with otherwise is what `check` predicts.
    [(verdict, _)] = ckptmigrate.check(source, release=release)
    assert raw["error"] == verdict.obstacles[-1].error
    assert NAME in verdict.obstacles[-1].why
    assert tree_hash(source) == before


# -- verbs


def test_check_says_no_where_only_the_nested_one_is_of_a_newer_layout(
    source: Path, tmp_path: Path, run: Run
) -> None:
    migrate(source, to="0.16", output=tmp_path / "old")
    assert ckptmigrate.check(tmp_path / "old", release="0.16")[0].verdict.resumes
    shutil.rmtree(inside(tmp_path / "old"))
    shutil.copytree(inside(source), inside(tmp_path / "old"))
    (checkpoint_of(tmp_path / "old") / "ckptmigrate.json").unlink()
    shutil.rmtree(checkpoint_of(tmp_path / "old") / ".ckptmigrate")
    said = run("check", "old", "--reader", "0.16")
    assert said.returncode == 1
    assert f"in the nested checkpoint {NAME}, the release expects common.pt" in said.stdout
    [(_, fix)] = ckptmigrate.check(tmp_path / "old", release="0.16")
    assert fix.command is not None
    # The command that is advised works, and leaves the files of the parent alone.
    [plan] = migrate(tmp_path / "old", to="0.16.1", output=tmp_path / "new")
    assert sorted(plan.files) == [
        f"{NAME}/{n}" for n in (".metadata", "common.pt", "metadata.json")
    ]
    assert ckptmigrate.check(tmp_path / "new", release="0.16")[0].verdict.resumes


def test_in_place_and_undone_byte_for_byte(source: Path) -> None:
    before = tree_hash(source)
    [plan] = migrate(source, to="0.13.1", in_place=True)
    assert f"{NAME}/common.pt" in plan.files
    assert (inside(source) / "common.pt").is_file()
    assert ckptmigrate.verify(source).clean
    assert not migrate(source, to="0.13.1", in_place=True)[0].files
    ckptmigrate.undo(source)
    assert tree_hash(source) == before


def test_back_up_from_the_originals_byte_for_byte(source: Path, tmp_path: Path) -> None:
    migrate(source, to="pre-rerun", output=tmp_path / "old")
    migrate(tmp_path / "old", to="common-state", output=tmp_path / "new")
    assert tree_hash(checkpoint_of(tmp_path / "new")) == tree_hash(checkpoint_of(source))


def test_undo_is_refused_where_a_nested_file_was_changed(source: Path, run: Run) -> None:
    migrate(source, to="0.13.1", in_place=True)
    (inside(source) / "metadata.json").write_text("{}")
    refused(run("undo", source), f"{NAME}/metadata.json changed after the migration")


def test_two_folders_and_one_that_is_deeper(source: Path, tmp_path: Path) -> None:
    for name in ("old", "weights/inner"):
        shutil.copytree(inside(source), checkpoint_of(source) / name)
    before = tree_hash(source)
    migrate(source, to="0.16", output=tmp_path / "out")
    for name in (NAME, "old", "weights/inner"):
        assert (checkpoint_of(tmp_path / "out") / name / "common.pt").is_file()
    found = ckptmigrate.inspect(tmp_path / "out")
    assert [each.folder for each in found.nested] == [NAME, "old", "weights/inner"]
    assert {each.common_place for each in found.nested} == {"common.pt"}
    migrate(source, to="0.16", in_place=True)
    ckptmigrate.undo(source)
    assert tree_hash(source) == before


def test_one_that_is_in_the_wanted_layout_stays(source: Path, tmp_path: Path) -> None:
    migrate(source, to="0.16", output=tmp_path / "old")
    shutil.rmtree(inside(source))
    shutil.copytree(inside(tmp_path / "old"), inside(source))
    [plan] = migrate(source, to="0.16", output=tmp_path / "out")
    assert not [name for name in plan.files if "/" in name]
    assert tree_hash(inside(tmp_path / "out")) == tree_hash(inside(source))


def test_a_folder_of_another_format_is_carried_over(source: Path, tmp_path: Path) -> None:
    other = checkpoint_of(source) / "dataset"
    other.mkdir()
    (other / "metadata.json").write_text('{"name": "not a checkpoint"}')
    migrate(source, to="0.16", output=tmp_path / "out")
    assert tree_hash(checkpoint_of(tmp_path / "out") / "dataset") == tree_hash(other)


def test_a_lost_marker_is_found_refused_and_repaired(source: Path, run: Run) -> None:
    (inside(source) / "metadata.json").unlink()
    damaged = tree_hash(source)
    said = run("verify", source)
    assert said.returncode == 1
    assert "marker-missing" in said.stdout
    assert f"ckptmigrate repair {source}" in said.stdout
    refused(run("downgrade", source, "--to", "0.16"), str(inside(source)), "metadata.json")
    repaired = ckptmigrate.repair(source, in_place=True)
    assert repaired.migration.plans[0].files.keys() == {f"{NAME}/metadata.json"}
    assert tree_hash(inside(source)) == tree_hash(CASE / "iter_0000005" / NAME)
    ckptmigrate.undo(source)
    assert tree_hash(source) == damaged


def _truncated(folder: Path) -> None:
    payload = folder / "__0_0.distcp"
    payload.write_bytes(payload.read_bytes()[:100])


def _without_metadata(folder: Path) -> None:
    (folder / ".metadata").unlink()


def _interrupted(folder: Path) -> None:
    for name in (".metadata", "metadata.json"):
        (folder / name).unlink()


def _zarr(folder: Path) -> None:
    (folder / "metadata.json").write_text('{"sharded_backend": "zarr"}')


@pytest.mark.parametrize("damage", [_truncated, _without_metadata, _interrupted, _zarr])
def test_one_that_cannot_be_migrated_refuses_the_whole(
    damage: Callable[[Path], None], source: Path, tmp_path: Path
) -> None:
    damage(inside(source))
    before = tree_hash(tmp_path)
    for call in (
        lambda: migrate(source, to="0.16", output=tmp_path / "out"),
        lambda: migrate(source, to="0.16", in_place=True),
        lambda: ckptmigrate.check(source, release="0.16"),
        lambda: ckptmigrate.repair(source, in_place=True),
    ):
        with pytest.raises(CkptMigrateError) as raised:
            call()
        assert NAME in str(raised.value)
    assert tree_hash(tmp_path) == before
    assert not ckptmigrate.verify(source).clean


def test_a_link_to_a_checkpoint_is_not_followed(source: Path, tmp_path: Path) -> None:
    shutil.move(inside(source), tmp_path / "elsewhere")
    inside(source).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="is a link to a checkpoint"):
        migrate(source, to="0.16", output=tmp_path / "out")
    codes = [finding.code for finding in ckptmigrate.verify(source).findings]
    assert codes == ["nested-linked"]


def test_the_path_of_a_nested_one_names_the_one_around_it(source: Path) -> None:
    with pytest.raises(NotACheckpointError, match="nested in iter_0000005") as raised:
        ckptmigrate.inspect(inside(source))
    assert str(checkpoint_of(source)) in str(raised.value.fix)


def test_diff_names_the_folder(source: Path, tmp_path: Path) -> None:
    migrate(source, to="0.16", output=tmp_path / "out")
    changes = {str(each) for each in ckptmigrate.diff(source, tmp_path / "out")}
    assert f"~ common {NAME}/place: common_state/shard_0_1 -> common.pt" in changes
    shutil.rmtree(inside(source))
    assert f"+ nested {NAME}" in {str(e) for e in ckptmigrate.diff(source, tmp_path / "out")}


def test_integrity_json_of_a_nested_one_is_kept_true(source: Path, tmp_path: Path) -> None:
    import hashlib

    def digests(folder: Path) -> dict[str, str]:
        names = (p for p in sorted(folder.iterdir()) if p.name != "integrity.json")
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in names}

    content = {"algorithm": "sha256", "files": digests(inside(source))}
    (inside(source) / "integrity.json").write_text(json.dumps(content))
    migrate(source, to="0.16", output=tmp_path / "out", hash_payload=True)
    made = json.loads((inside(tmp_path / "out") / "integrity.json").read_text())
    assert made["files"] == digests(inside(tmp_path / "out"))
    (inside(source) / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist"}))
    with pytest.raises(CkptMigrateError, match=f"{NAME}/metadata.json"):
        migrate(source, to="0.16", output=tmp_path / "other")


def test_print_path_and_all_with_jobs(source: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(SAMPLES / "0.19.0-idle-w1" / "iter_0000005", source / "iter_0000004")
    for _ in range(2):  # the second run finds what the first one made
        said = run("migrate", "run", "--to", "0.16", "--print-path")
        assert said.stdout == f"{tmp_path / 'run.0.16'}\n", said.stderr
    said = run("downgrade", "run", "--to", "0.16", "--all", "--jobs", "2", "-o", "all")
    assert said.returncode == 0, said.stderr
    assert (inside(tmp_path / "all") / "common.pt").is_file()
    (inside(tmp_path / "run.0.16") / "common.pt").unlink()
    refused(run("migrate", "run", "--to", "0.16", "--print-path"), "exists")


def test_an_unknown_symbol_in_a_nested_one_is_named(source: Path) -> None:
    file = inside(source) / ".metadata"
    content = file.read_bytes()
    assert content.count(b"WriteItemType") > 0
    file.write_bytes(content.replace(b"WriteItemType", b"WriteItemTypo"))
    [anomaly] = [a for a in ckptmigrate.inspect(source).anomalies if "WriteItemTypo" in a]
    assert anomaly.startswith(f"{NAME}/.metadata names a symbol of no known writer")
    found = [f for f in ckptmigrate.verify(source).findings if f.code == "unknown-symbol"]
    assert [each.path for each in found] == [inside(source)]


# -- what a stranger's sidecar and journal may name


@pytest.mark.parametrize(
    "name", ["../x/.metadata", "/x/.metadata", "a/b/c/.metadata", ".a/.metadata"]
)
def test_a_sidecar_names_nothing_outside(name: str, source: Path) -> None:
    migrate(source, to="0.16", in_place=True)
    file = checkpoint_of(source) / "ckptmigrate.json"
    content = json.loads(file.read_text())
    content["steps"][0]["files"][name] = {"before": None, "after": None}
    file.write_text(json.dumps(content))
    with pytest.raises(DamagedError, match="is not a migration history"):
        ckptmigrate.undo(source)


def test_recover_goes_through_no_link(source: Path, tmp_path: Path) -> None:
    """A journal that names a folder which is a link moves nothing that it leads to."""
    victim = tmp_path / "victim"
    shutil.copytree(inside(source), victim)
    stage = checkpoint_of(source) / ".ckptmigrate" / "stage"
    (stage / ".old").mkdir(parents=True)
    (checkpoint_of(source) / "x").symlink_to(victim)
    row = {"before": None, "after": "0" * 64}
    (stage / "journal.json").write_text(json.dumps({"files": {"x/.metadata": row}}))
    before = tree_hash(victim)
    with pytest.raises(DamagedError, match="is a link"):
        ckptmigrate.recover(source, break_lock=True)
    assert tree_hash(victim) == before


# -- object stores


@pytest.mark.costly("starts an S3 server")
def test_in_a_store_as_locally_and_back(source: Path, bucket: Bucket, tmp_path: Path) -> None:
    shutil.copytree(inside(source), checkpoint_of(source) / "old")
    before = files_of(source)
    bucket.put(source, "run")
    migrate(url("run"), to="0.16", output=url("out"))
    migrate(source, to="0.16", output=tmp_path / "out")
    assert without_time(bucket.tree("out")) == without_time(files_of(tmp_path / "out"))
    migrate(url("run"), to="0.16", output=tmp_path / "from-store")
    assert without_time(files_of(tmp_path / "from-store")) == without_time(
        files_of(tmp_path / "out")
    )
    migrate(url("run"), to="0.16", in_place=True)
    assert f"iter_0000005/{NAME}/common.pt" in bucket.tree("run")
    ckptmigrate.undo(url("run"))
    assert bucket.tree("run") == before
