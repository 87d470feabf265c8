"""The roots of frameworks: what a PATH means, and that every verb keeps the layout."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import framework_roots
import pytest
from conftest import Run, refused, tree_hash
from framework_roots import CASES, LAST, STATE, TRACKER, UNFINISHED
from object_stores import url
from s3_server import Bucket

import ckptmigrate
from ckptmigrate.checkpoint import lock_owner, root_kinds, sizes_file
from ckptmigrate.checkpoint.root_kinds import RootKind

pytest_plugins = ["store_fixtures"]

Make = Callable[[str], Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda name: CASES[name].make(tmp_path / name)


def places(root: Path, name: str) -> list[Path]:
    return [root / path if path else root for path in CASES[name].checkpoints]


# -- inspect, check and verify


@pytest.mark.parametrize("name", CASES)
def test_inspect_names_the_framework(name: str, make: Make, run: Run) -> None:
    case, root = CASES[name], make(name)
    said = run("--json", "inspect", root)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    several = found if isinstance(found, list) else [found]
    assert [each["path"] for each in several] == [str(each) for each in places(root, name)]
    assert {each["framework"] for each in several} == {case.framework}
    topology = several[0]["topology"]
    assert (topology["world"], topology["tensor"], topology["pipeline"]) == (1, 1, 1)
    text = run("inspect", root).stdout
    assert (f"framework    {case.framework}" in text) == (case.framework is not None)


@pytest.mark.parametrize("name", CASES)
def test_check_and_verify_find_the_checkpoints(name: str, make: Make, run: Run) -> None:
    root = make(name)
    said = run("check", root, "--reader", "0.19")
    assert all(str(each) in said.stdout for each in places(root, name)), said.stdout
    codes = {finding.code for finding in ckptmigrate.verify(root).findings}
    assert codes == ({"save-unfinished"} if name == "nemo" else set())


@pytest.mark.parametrize("deep", ["", "weights"])
def test_a_save_of_nemo_means_its_weights(deep: str, make: Make) -> None:
    root = make("nemo")
    found = ckptmigrate.inspect(root / LAST / deep)
    assert (found.path, found.framework) == (root / LAST / "weights", "NeMo 2")


def test_a_save_of_verl_and_its_parts(make: Make, run: Run) -> None:
    save = make("verl") / "global_step_10"
    for path in (save / "actor", save / "actor" / "dist_ckpt"):
        assert ckptmigrate.inspect(path).path == save / "actor" / "dist_ckpt"
    with pytest.raises(ckptmigrate.CkptMigrateError, match="has 2 checkpoints: "):
        ckptmigrate.inspect(save)
    assert run("inspect", save).stdout.count("framework    verl") == 2


def test_an_unfinished_save_is_an_error(make: Make, run: Run) -> None:
    root = make("nemo")
    said = run("verify", root / UNFINISHED)
    assert said.returncode == 1
    assert "error save-unfinished" in said.stdout
    for words in (("inspect",), ("downgrade", "--to", "0.11")):
        refused(run(words[0], root / UNFINISHED, *words[1:]), "is an unfinished save of NeMo 2")
    os.unlink(root / f"{UNFINISHED}-unfinished")
    assert run("verify", root / UNFINISHED).returncode == 0


def test_zarr_of_nemo_1_is_named_one_level_down(tmp_path: Path, run: Run) -> None:
    (tmp_path / "run" / "model_weights").mkdir(parents=True)
    (tmp_path / "run" / "model_config.yaml").write_text("tensor_model_parallel_size: 1")
    marker = '{"sharded_backend": "zarr", "sharded_backend_version": 1}'
    (tmp_path / "run" / "model_weights" / "metadata.json").write_text(marker)
    for verb in ("inspect", "verify", "check"):
        refused(run(verb, tmp_path / "run"), "run/model_weights: is a zarr checkpoint")


# -- Megatron-Bridge


def test_only_the_tracker_file_of_bridge(make: Make, run: Run) -> None:
    root = make("bridge")
    os.unlink(root / TRACKER)
    assert ckptmigrate.inspect(root).iteration == 5
    [only] = ckptmigrate.verify(root).findings
    assert (only.code, only.severity.value) == ("tracker-text-missing", "warning")
    said = run("downgrade", root, "--to", "0.11")
    assert said.returncode == 0, said.stderr
    result = root.with_name("bridge.0.11")
    assert (result / TRACKER).read_text() == "5"
    assert (result / STATE).read_bytes() == (root / STATE).read_bytes()


def test_tracker_files_that_disagree_are_refused(make: Make, run: Run) -> None:
    root = make("bridge")
    (root / TRACKER).write_text("7")
    text = f"{STATE} names 5, which Megatron-Bridge reads, and {TRACKER} names 7"
    refused(run("inspect", root), text, f"inspect {root} --iteration 5")
    assert run("inspect", root, "--iteration", "5").returncode == 0


def test_neither_args_nor_run_config(make: Make, run: Run) -> None:
    root = make("bridge")
    os.unlink(root / "iter_0000005" / "run_config.yaml")
    assert {each.code for each in ckptmigrate.verify(root).findings} == {"run-config-missing"}
    sizes = "--tensor-parallel TP --pipeline-parallel PP --world-size 1"
    refused(run("downgrade", root, "--to", "0.11"), f"downgrade {root} --to 0.11 {sizes}`")
    said = run("check", root, "--reader", "0.11")
    assert f"{sizes}`" in " ".join(said.stdout.split())
    options = sizes.replace("TP", "1").replace("PP", "1").split()
    assert run("downgrade", root, "--to", "0.11", *options).returncode == 0


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("model: {tensor_model_parallel_size: 2}", {"tensor_model_parallel_size": 2}),
        ("model: &a {tensor_model_parallel_size: 2}\nx: *a", {"tensor_model_parallel_size": 2}),
        (
            "model: !!python/object:os.system\n  tensor_model_parallel_size: 2",
            {"tensor_model_parallel_size": 2},
        ),
        (
            "x: [{model: {tensor_model_parallel_size: 3}}]\nmodel:\n  ? [a, b]\n  : 1\n"
            "  context_parallel_size: '4'",
            {"context_parallel_size": 4},
        ),
        (
            "comm_overlap: {data_parallel_size: 8}\ndist: {use_tp_pp_dp_mapping: true}",
            {"data_parallel_size": 8, "use_tp_pp_dp_mapping": True},
        ),
        ("model: {tensor_model_parallel_size: -1, context_parallel_size: 1e99}", {}),
        ("- model\n- tensor_model_parallel_size: 2", {}),
        ("", {}),
    ],
)
def test_the_sizes_in_a_run_config(content: str, found: dict[str, object], make: Make) -> None:
    place = make("bridge") / "iter_0000005"
    (place / "run_config.yaml").write_text(content)
    sizes = sizes_file.beside(place)
    assert (sizes.values, sizes.problem) == (found, None)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"model: {",
        b"a: " + b"[" * 200,
        b"[" * 100_000,
        b"x: y\n" * 300_000,
        b"a: &a [x]\n" + b"b: *c\n",
    ],
    ids=["bytes", "open", "deep", "deeper", "large", "alias"],
)
def test_a_run_config_that_cannot_be_read(content: bytes, make: Make, run: Run) -> None:
    root = make("bridge")
    (root / "iter_0000005" / "run_config.yaml").write_bytes(content)
    assert run("inspect", root).returncode == 0
    codes = {each.code for each in ckptmigrate.verify(root).findings}
    assert codes <= {"sizes-unreadable"}


# -- new roots


@pytest.mark.parametrize("batch", [False, True], ids=["one", "batch"])
@pytest.mark.parametrize("name", CASES)
def test_a_new_root_has_the_layout_and_the_files(
    name: str, batch: bool, make: Make, run: Run, tmp_path: Path
) -> None:
    case, root, out = CASES[name], make(name), tmp_path / "out"
    before = tree_hash(root)
    planned = json.loads(
        run("--json", "downgrade", root, "--to", "0.11", "--dry-run", "-o", out).stdout
    )
    options = ("-j", "2") if batch else ()
    said = run("downgrade", root, "--to", "0.11", "-o", out, *options)
    assert said.returncode == 0, said.stderr + said.stdout
    assert tree_hash(root) == before
    assert [each["result"] for each in planned["checkpoints"]] == [
        str(each) for each in places(out, name)
    ]
    for each in places(out, name):
        assert ckptmigrate.inspect(each).framework == case.framework
        assert ckptmigrate.check(each, release="0.11")[0].verdict.resumes
        codes = {finding.code for finding in ckptmigrate.verify(each).findings}
        assert codes <= {"orphan-bytes"}
    for path in case.carried:
        assert (out / path).read_bytes() == (root / path).read_bytes()
    listed = {each["name"] for each in planned["carried"]}
    assert set(case.carried) - {TRACKER, STATE} <= listed
    if case.use is not None:
        use = case.use.format(root=out)
        assert re.sub(r"['\"]", "", said.stdout).count(f"next: run the job with {use}") == 1
    else:
        assert "next: " not in said.stdout


def test_a_save_gives_a_save_or_a_root(make: Make, run: Run) -> None:
    nemo, verl = make("nemo"), make("verl")
    assert run("downgrade", nemo / LAST, "--to", "0.11").returncode == 0
    made = nemo / f"{LAST}.0.11"
    assert {each.name for each in made.iterdir()} == {"weights", "context"}
    # verl parses the step from the name of the save.
    said = run("downgrade", verl / "global_step_10" / "actor", "--to", "0.11", "-o", "out")
    assert said.returncode == 0, said.stderr
    out = verl.parent / "out"
    assert {each.name for each in (out / "global_step_10").iterdir()} == {"actor", "data.pt"}
    text = " ".join(said.stdout.split())
    assert "left behind: global_step_10/critic: it contains another checkpoint" in text


def test_what_is_left_behind_is_named(make: Make, run: Run) -> None:
    root = make("slime")
    (root / ".cache").mkdir()
    (root / "link").symlink_to("/etc")
    os.mkfifo(root / "pipe")
    shutil.copytree(root / "iter_0000005", root / "exports" / "copy")
    (root / "exports" / "notes.txt").write_text("x")
    said = run("downgrade", root, "--to", "0.11", "--dry-run")
    text = " ".join(said.stdout.split())
    for name, why in {
        ".cache": "its name starts with a dot",
        "link": "it is a link",
        "exports": "it contains another checkpoint",
        "pipe": "it is neither a file nor a directory",
    }.items():
        assert f"left behind: {name}: {why}" in text
    assert run("downgrade", root, "--to", "0.11").returncode == 0
    made = {each.name for each in root.with_name("slime.0.11").iterdir()}
    assert made == {"iter_0000005", "rollout", TRACKER}


def test_small_files_are_copied_and_large_ones_linked(make: Make, run: Run) -> None:
    root = make("slime")
    (root / "large.bin").write_bytes(bytes(2 * 1024**2))
    (root / "tool").write_bytes(bytes(2 * 1024**2))
    os.chmod(root / "tool", 0o4755)
    assert run("downgrade", root, "--to", "0.11", "--link", "hardlink").returncode == 0
    made = root.with_name("slime.0.11")
    assert (made / "large.bin").samefile(root / "large.bin")
    small = "rollout/global_dataset_state_dict_5.pt"
    assert not (made / small).samefile(root / small)
    assert not (made / "tool").samefile(root / "tool")
    assert os.stat(made / "tool").st_mode & 0o7000 == 0


def test_links_into_a_download_cache_are_carried_as_links(make: Make, run: Run) -> None:
    root = make("nemo")
    blob = root.parent / "blobs" / ("0" * 40)
    blob.parent.mkdir()
    context = root / LAST / "context" / "io.json"
    context.rename(blob)
    context.symlink_to(os.path.relpath(blob, context.parent))
    (context.parent / "other").symlink_to(os.path.relpath(root / TRACKER, context.parent))
    said = run("downgrade", root / LAST, "--to", "0.11", "-o", "out")
    why = "it is neither a file nor a directory"
    assert f"left behind: context/other: {why}" in " ".join(said.stdout.split())
    made = root.parent / "out" / "context" / "io.json"
    assert (os.readlink(made), made.read_text()) == (str(blob), "{}")


@pytest.mark.costly("starts an S3 server")
def test_new_roots_in_a_store(bucket: Bucket, make: Make, tmp_path: Path) -> None:
    for name in CASES:
        root = make(name)
        bucket.put(root, name)
        ckptmigrate.migrate(url(name), to="0.11", output=url(f"{name}-out"))
        ckptmigrate.migrate(root, to="0.11", output=tmp_path / f"{name}-local")
        stored = bucket.tree(f"{name}-out")
        local = tmp_path / f"{name}-local"
        files = {str(each.relative_to(local)) for each in local.rglob("*") if each.is_file()}
        assert set(stored) == files
        for path in CASES[name].carried:
            assert stored[path] == (root / path).read_bytes()
        ckptmigrate.migrate(url(name), to="0.11", output=tmp_path / f"{name}-down")
        down = tmp_path / f"{name}-down"
        assert {str(e.relative_to(down)) for e in down.rglob("*") if e.is_file()} == files


# -- in place


@pytest.mark.parametrize("name", CASES)
def test_in_place_and_back(name: str, make: Make, run: Run) -> None:
    root = make(name)
    before = tree_hash(root)
    assert run("downgrade", root, "--to", "0.11", "--in-place").returncode == 0
    for each in places(root, name):
        assert ckptmigrate.check(each, release="0.11")[0].verdict.resumes
    said = run("undo", root)
    assert said.returncode == 0, said.stderr
    assert tree_hash(root) == before
    assert run("recover", root).returncode == 0
    assert run("repair", root).returncode == 0
    assert tree_hash(root) == before


@pytest.mark.parametrize("name", ["nemo", "verl"])
def test_recover_finds_an_interrupted_migration(name: str, make: Make, run: Run) -> None:
    root = make(name)
    for each in places(root, name):
        (each / ".ckptmigrate" / "stage").mkdir(parents=True)
    refused(run("inspect", places(root, name)[0]), "was interrupted")
    said = run("recover", root)
    assert said.returncode == 0, said.stderr
    assert not any((each / ".ckptmigrate").exists() for each in places(root, name))


@pytest.mark.parametrize("name", ["nemo", "verl", "slime"])
def test_recover_finds_an_interrupted_task_of_a_batch(
    name: str, make: Make, tmp_path: Path
) -> None:
    """The lock and the stage of a checkpoint are beside it, in a root that has no other yet."""
    out = tmp_path / "out"
    for each in places(out, name):
        stage = each.with_name(f".{each.name}.ckptmigrate-stage")
        stage.mkdir(parents=True)
        owner = dataclasses.replace(lock_owner.this_process(), pid=2**22 + 1)
        lock = each.with_name(f".{each.name}.ckptmigrate-lock")
        lock.symlink_to(json.dumps({**dataclasses.asdict(owner), "token": "x"}))
    assert len(ckptmigrate.recover(out)) == len(places(out, name))
    assert not [each for each in out.rglob("*") if not each.is_dir()]
    assert not list(out.rglob("*stage"))


# -- a row of the table


INVENTED = RootKind(
    "Invented",
    "docs/extending.md",
    saves=re.compile(r"snapshot-(\d+)"),
    numbered="snapshot-{:d}",
    inside=("state/model",),
    trackers=(TRACKER,),
    root_signs=("invented.toml",),
    sizes=root_kinds.SizesFile("../sizes.yaml", ("parallel",)),
    resume=("--from", "{save}"),
)


def test_another_framework_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    monkeypatch.setattr(root_kinds, "KINDS", (INVENTED, *root_kinds.KINDS))
    root = tmp_path / "run"
    framework_roots.checkpoint("0.13.1-idle-w1", root / "snapshot-7" / "state" / "model")
    (root / "invented.toml").write_text("x = 1")
    (root / "snapshot-7" / "state" / "extra.bin").write_bytes(b"x")
    (root / TRACKER).write_text("7")
    place = root / "snapshot-7" / "state" / "model"
    for path in (root, root / "snapshot-7", place.parent, place):
        found = ckptmigrate.inspect(path)
        assert (found.path, found.framework) == (place, "Invented")
    assert not ckptmigrate.verify(root).findings
    assert not ckptmigrate.check(root, release="0.11")[0].verdict.resumes
    out = tmp_path / "out"
    ckptmigrate.migrate(root, to="0.11", output=out)
    assert ckptmigrate.inspect(out).path == out / "snapshot-7" / "state" / "model"
    assert (out / "snapshot-7" / "state" / "extra.bin").read_bytes() == b"x"
    assert (out / "invented.toml").exists()
    assert (out / TRACKER).read_text() == "7"
    ckptmigrate.migrate(root, to="0.11", in_place=True)
    assert ckptmigrate.check(root, release="0.11")[0].verdict.resumes
    ckptmigrate.undo(root)
    (root / TRACKER).write_text("8")
    ckptmigrate.repair(root, in_place=True)
    assert (root / TRACKER).read_text() == "7"
    assert ckptmigrate.recover(root) == {}


def test_no_other_module_names_a_framework() -> None:
    """A framework is a row: no other module compares with its name."""
    names = [kind.framework for kind in root_kinds.KINDS if kind.framework]
    package = Path(ckptmigrate.__file__).parent
    compares = re.compile(rf"(==|!=|\bin\b)\s*\(?['\"]({'|'.join(map(re.escape, names))})['\"]")
    found = [
        str(path) for path in package.rglob("*.py") if compares.search(path.read_text("utf-8"))
    ]
    assert found == []
    assert all(kind.source for kind in root_kinds.KINDS)
