"""`check` against what the real releases did, and on samples altered so that no cell knows them."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import pickle
import shutil
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_side
from conftest import HEALTHY, INDEX, SAMPLES, Run, checkpoint_of, refused, tree_hash
from real_releases import READERS as READERS_FOLDER
from real_releases import run_code, run_jobs

import ckptmigrate
from ckptmigrate import migrate
from ckptmigrate.compat import compilation
from ckptmigrate.measuring import jobs
from ckptmigrate.pickles import torch_file
from ckptmigrate.planning import fixes
from ckptmigrate.planning.planner import Plan
from ckptmigrate.releases import facts, prediction
from ckptmigrate.releases.dtypes import unnamed_class
from ckptmigrate.releases.job import Job
from ckptmigrate.releases.prediction import Verdict
from ckptmigrate.releases.readers import reader, readers
from ckptmigrate.storage.directories import LocalDirectory
from ckptmigrate.verbs.migrate import MigrationRequest
from ckptmigrate.versions import detection
from ckptmigrate.versions.detection import Reading

CELLS: list[dict[str, Any]] = json.loads((SAMPLES / "raw_matrix.json").read_text())
READERS = [row.release for row in facts.compat().readers]
Copy = Callable[[str], Path]


def ask(
    root: Path | Reading, release: str, job: Job | None = None, torch: str | None = None
) -> Verdict:
    found = read(root) if isinstance(root, Path) else root
    return prediction.check(found, reader(release, facts.compat(), torch), job)


def resuming(root: Path) -> list[str]:
    """The releases that resume from a checkpoint."""
    found = read(root)
    return [release for release in READERS if ask(found, release).resumes]


def read(root: Path) -> Reading:
    """What `ask` reads of a checkpoint; of a sample, which nothing changes, once."""
    return _sample(root) if root.parent == SAMPLES else _read(root)


def _read(root: Path) -> Reading:
    return detection.read(LocalDirectory(checkpoint_of(root)))


_sample = functools.cache(_read)


def test_every_measured_cell_is_there() -> None:
    assert len(CELLS) == 216
    assert {cell["reader"] for cell in CELLS} == set(READERS)


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: f"{c['reader']}-reads-{c['sample']}")
def test_check_agrees_with_the_measured_outcome(cell: dict[str, Any]) -> None:
    found = ask(SAMPLES / cell["sample"], cell["reader"], torch=cell["reader_torch"])
    assert found.resumes == (cell["stage"] == "ok")
    if not found.resumes:
        # The first obstacle is the error that the release died with.
        predicted = found.obstacles[0].error
        predicted = predicted.partition(" on <module")[0]  # the rest is where it was installed
        predicted = predicted.rpartition("Common file /")[2].rpartition("iter_")[2]
        assert predicted.rstrip(".'") in cell["error"]
    if "fault" in cell["sample"] and found.resumes:
        kept = cell["fault_context_kept"]
        assert ("the fault context" not in found.without) == kept


def test_the_allow_list_is_that_of_torch() -> None:
    """Every name that the installed torch allows, and no class that it does not."""
    from torch._weights_only_unpickler import _get_allowed_globals

    old = reader("0.14.0", facts.compat())
    assert [name for name in _get_allowed_globals() if not old.allows(name)] == []
    for name in ("torch._C.Generator", "torch.nn.modules.linear.Linear", "builtins.eval"):
        assert not old.allows(name)


# What a release itself has: the names on its allow-list, and of the symbols of the facts those
# that it can import, with the members of the enums. A name on the allow-list is that of the class,
# which is what a pickle names, and not that of a module that imports it, too.
_TOLD_BY_A_RELEASE = """
import enum, importlib, json, sys
try:
    from megatron.core.safe_globals import SAFE_GLOBALS as allowed
except ImportError:  # before 0.14
    allowed = []
members = {}
for path in json.load(sys.stdin):
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        continue
    is_enum = isinstance(found, enum.EnumMeta)
    members[path] = {m.name: m.value for m in found} if is_enum else {}
print(json.dumps([[f"{c.__module__}.{c.__qualname__}" for c in allowed], members]))
"""


@pytest.mark.parametrize("release", jobs.installed(READERS_FOLDER))
def test_the_symbols_are_those_of_the_release(release: str) -> None:
    """Held against the release itself: which symbols it has, allows, and what their values mean."""
    compat = facts.compat()
    paths = {row.symbol for row in compat.symbols if row.symbol.startswith("megatron.")}
    allowed, there = run_code(release, _TOLD_BY_A_RELEASE, sorted(paths))
    found = reader(release, compat)
    assert sorted(there) == sorted(path for path in paths if found.resolves(path))
    assert [path for path in allowed if not found.allows(path)] == []
    listed = {
        name for row in compat.allow_lists if found.is_in(row.releases) for name in row.symbols
    }
    # One function has two names, in numpy 1 and 2.
    assert listed - {*allowed} <= {"numpy.core.multiarray._reconstruct"}
    for path, members in there.items():
        [row] = [row for row in compat.symbol(path) if found.is_in(row.releases)]
        assert row.members in (members, {})


# -- altered samples


def test_the_model_type_of_every_training_run(copy: Copy, run: Run, tmp_path: Path) -> None:
    """`get_model` of megatron/training/training.py puts it into args, in every release; the
    samples were saved without it."""
    root = copy("0.14.0-idle-w1")
    before = resuming(root)
    model_type = torch_side.ModelType.encoder_or_decoder
    torch_side.edit_common(root, lambda state: setattr(state["args"], "model_type", model_type))
    assert resuming(root) == before
    verified = run("verify", root)
    assert (verified.returncode, "unknown-symbol" in verified.stdout) == (0, False)
    # It goes down without a loss, and a release that allows by list takes it as it is.
    done = run("downgrade", root, "--to", "0.10.0", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    args = torch_side.read_common(checkpoint_of(tmp_path / "out"))["args"]
    assert args.model_type is model_type
    [ranks] = run_jobs("0.14.0", [{"checkpoint": str(checkpoint_of(root))}])
    assert (ranks[0]["stage"], ranks[0]["error"]) == ("done", None)


def resumes_in(release: str, root: Path) -> None:
    """The real release takes a checkpoint of one rank."""
    [[rank]] = run_jobs(release, [{"checkpoint": str(checkpoint_of(root))}])
    assert (rank["stage"], rank["error"]) == ("done", None)


def dies_as_predicted(release: str, root: Path) -> Verdict:
    """The real release dies of the first obstacle that `check` tells."""
    verdict = ask(root, release)
    [[rank]] = run_jobs(release, [{"checkpoint": str(checkpoint_of(root))}])
    assert rank["stage"] != "done"
    for words in verdict.obstacles[0].error.split(" ... "):
        assert words in rank["error"]
    return verdict


@pytest.mark.parametrize(
    ("sample", "change", "release", "error", "text"),
    [
        # T5 and vision language models of 0.13; 0.16 took the member away.
        pytest.param(
            "0.13.1-idle-w1",
            {"model_type": torch_side.ModelType.encoder_and_decoder},
            "0.16.1",
            "ValueError: 2 is not a valid ModelType",
            {"model_type": "encoder_and_decoder"},
            id="model-type",
        ),
        # Retro, whose members moved with 0.14.
        pytest.param(
            "0.13.1-idle-w1",
            {"model_type": torch_side.ModelType.retro_decoder},
            "0.14.0",
            "ValueError: 4 is not a valid ModelType",
            {"model_type": "retro_decoder"},
            id="retro-of-0.13",
        ),
        pytest.param(
            "0.15.3-idle-w1",
            {"model_type": torch_side.ModelType.retro_encoder},  # 3: then it is the decoder
            "0.16.1",
            "ValueError: 3 is not a valid ModelType",
            {"model_type": "retro_decoder"},
            id="retro-of-0.15",
        ),
        pytest.param(
            "0.17.1-idle-w1",
            {"cuda_graph_scope": [torch_side.CudaGraphScope.full_iteration_inference]},
            "0.16.1",
            "ValueError: 8 is not a valid CudaGraphScope",
            {"cuda_graph_scope": ["full_iteration_inference"]},
            id="cuda-graph-scope",
        ),
    ],
)
def test_a_member_that_a_release_does_not_have(
    sample: str,
    change: dict[str, Any],
    release: str,
    error: str,
    text: dict[str, Any],
    copy: Copy,
    run: Run,
    tmp_path: Path,
) -> None:
    """`check` says so, the real release dies of it, and a migration makes it a text."""
    root = copy(sample)
    assert ask(root, release).resumes
    torch_side.edit_common(root, lambda state: vars(state["args"]).update(change))
    assert dies_as_predicted(release, root).obstacles[0].error == error
    told = json.loads(run("check", root, "--reader", release, "--json").stdout)
    assert told["fix"]["command"].endswith(f" --to {release}")
    [plan] = migrate(root, to=release, output=tmp_path / "out")
    assert plan.losses == ()
    resumes_in(release, tmp_path / "out")
    args = vars(torch_side.read_common(checkpoint_of(tmp_path / "out"))["args"])
    assert {name: args[name] for name in text} == text


def test_a_model_type_that_became_another(copy: Copy) -> None:
    """0.14 and 0.15 take 2 for a member of another name, and go on; later releases do not."""
    root = copy("0.13.1-idle-w1")
    before = resuming(root)
    model_type = torch_side.ModelType.encoder_and_decoder
    torch_side.edit_common(root, lambda state: setattr(state["args"], "model_type", model_type))
    changed = {*before} ^ {*resuming(root)}
    assert changed == {"0.16.1", "0.17.1", "0.18.2", "0.19.0", "0.20.dev0"}
    for release in ("0.14.0", "0.15.3"):
        resumes_in(release, root)


def test_a_signal_as_python_3_10_pickles_it(
    copy: Copy, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name in the module, which no release of Megatron allows, its own neither."""
    root = copy("0.16.1-idle-w1")
    assert ask(root, "0.16.1").resumes
    with monkeypatch.context() as patch:  # enum.py of Python 3.10, _reduce_ex_by_name
        patch.setattr(signal.Signals, "__reduce_ex__", lambda self, protocol: self.name)
        torch_side.edit_common(
            root, lambda state: setattr(state["args"], "exit_signal", signal.SIGTERM)
        )
    assert "GLOBAL signal.SIGTERM" in dies_as_predicted("0.16.1", root).obstacles[0].error
    verified = run("verify", root)
    assert (verified.returncode, "unknown-symbol" in verified.stdout) == (0, False)
    [plan] = migrate(root, to="0.16.1", output=tmp_path / "out")
    assert plan.losses == ()
    resumes_in("0.16.1", tmp_path / "out")
    assert torch_side.read_common(checkpoint_of(tmp_path / "out"))["args"].exit_signal == "SIGTERM"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (np.arange(3, dtype=np.float64), "Float64DType"),
        (np.array([2, 3], dtype=">i2"), "Int16DType"),
        (np.dtype("float32"), "Float32DType"),
    ],
    ids=["array", "of-big-endian", "dtype"],
)
def test_numpy_data_whose_class_no_pickle_names(
    value: object, name: str, copy: Copy, run: Run, tmp_path: Path
) -> None:
    """`numpy.dtype` is allowed, and not the class of what it makes: 0.16 allows uint32 alone."""
    root = copy("0.16.1-idle-w1")
    torch_side.edit_common(root, lambda state: setattr(state["args"], "data", value))
    found = dies_as_predicted("0.16.1", root)
    assert f"got <class 'numpy.dtypes.{name}'>" in found.obstacles[0].error
    assert ask(root, "0.16.1", torch="2.5.1").resumes
    result = run("downgrade", root, "--to", "0.16.1", "-o", tmp_path / "out")
    refused(result, f"numpy.dtypes.{name}", "--allow-loss foreign-symbols")
    migrate(root, to="0.16.1", output=tmp_path / "out", allow_loss=["foreign-symbols"])
    resumes_in("0.16.1", tmp_path / "out")
    args = torch_side.read_common(checkpoint_of(tmp_path / "out"))["args"]
    assert args.data == f"numpy.dtypes.{name}"


def test_numpy_data_of_the_class_that_is_allowed(copy: Copy) -> None:
    root = copy("0.16.1-idle-w1")
    data = np.arange(3, dtype=np.uint32)
    torch_side.edit_common(root, lambda state: setattr(state["args"], "data", [data, data.dtype]))
    assert ask(root, "0.16.1").resumes
    resumes_in("0.16.1", root)


@pytest.mark.parametrize(
    "code",
    [
        *("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"),
        *("longdouble", "clongdouble", "O", "S3", "U5", "V7", "M8[s]", "m8", "<i8", ">f4"),
    ],
)
def test_the_class_of_a_dtype_is_that_of_torch(code: str) -> None:
    """torch itself names the class that it refuses to build, of the dtype and of an array."""
    dtype = np.dtype(code)
    array = np.zeros(2, dtype)
    allowed = [np.dtype, np.ndarray, array.__reduce__()[0]]
    for value in (dtype, array):
        saved = io.BytesIO()
        torch.save(value, saved)
        data = saved.getvalue()
        with (
            torch.serialization.safe_globals(allowed),
            pytest.raises(pickle.UnpicklingError) as told,
        ):
            torch.load(io.BytesIO(data), weights_only=True)
        assert f"got <class '{unnamed_class(torch_file.load(data).tree, facts.compat())}'>" in str(
            told.value
        )


def test_without_attn_backend_0_9_resumes(copy: Copy) -> None:
    root = copy("0.14.0-idle-w1")
    assert not ask(root, "0.9.0").resumes
    torch_side.edit_common(root, lambda state: setattr(state["args"], "attention_backend", "auto"))
    assert ask(root, "0.9.0").resumes


class Foreign:
    """An object of another framework."""


def with_foreign(root: Path) -> None:
    module = types.ModuleType("nemo_like")
    module.Foreign = Foreign  # type: ignore[attr-defined]
    Foreign.__module__, Foreign.__qualname__ = "nemo_like", "Foreign"
    sys.modules["nemo_like"] = module
    try:
        torch_side.edit_common(root, lambda state: setattr(state["args"], "extra", Foreign()))
    finally:
        del sys.modules["nemo_like"]


def test_a_foreign_class_is_named_and_refused(copy: Copy, run: Run, tmp_path: Path) -> None:
    root = copy("0.14.0-idle-w1")
    with_foreign(root)
    for release in ("0.12.3", "0.14.0", "0.19.0"):
        found = ask(root, release)
        assert not found.resumes
        assert "nemo_like" in found.obstacles[0].error
    result = run("downgrade", root, "--to", "0.12.3", "-o", tmp_path / "out")
    refused(result, "nemo_like.Foreign", "--allow-loss foreign-symbols")
    done = run(
        "downgrade", root, "--to", "0.12.3", "-o", tmp_path / "out",
        "--allow-loss", "foreign-symbols",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    args = torch_side.read_common(checkpoint_of(tmp_path / "out"))["args"]
    assert args.extra == "nemo_like.Foreign"
    # And back again on the way up, byte for byte.
    migrate(tmp_path / "out", to="none-emitting", output=tmp_path / "back")
    assert tree_hash(tmp_path / "back") == tree_hash(root)


def released(root: Path) -> Path:
    """The root, its one checkpoint as `release`."""
    checkpoint_of(root).rename(root / "release")
    (root / "latest_checkpointed_iteration.txt").write_text("release")
    return root


def test_a_release_checkpoint_is_asked_for_weights_alone(copy: Copy) -> None:
    """`not release` stands in every condition of load_checkpoint (core_v0.9.0 to core_v0.19.0)."""
    idle, optimizer = copy("0.9.0-idle-w1"), copy("0.13.1-idle-dopt")
    assert not ask(idle, "0.10.0").resumes  # for want of rerun shards
    assert not ask(optimizer, "0.16.1").resumes  # for its flattened ranges
    assert ask(released(idle), "0.10.0").resumes
    assert ask(released(optimizer), "0.16.1").resumes
    # 0.12 and 0.13 take up the mode in the common state all the same, without its shards.
    [obstacle] = ask(released(copy("0.12.3-idle-w1")), "0.12.3").obstacles
    assert "KeyError: 'sharded'" in obstacle.error


NO_RNG = "Unable to load rng state from checkpoint"


def test_what_was_not_saved_is_not_to_be_looked_for(copy: Copy, tmp_path: Path) -> None:
    """load_checkpoint of megatron/training/checkpointing.py, core_v0.9.0 to core_v0.19.0."""
    root = copy("0.17.1-idle-w1")
    torch_side.edit_common(root, lambda state: vars(state["args"]).update(no_save_optim=True))
    for release in READERS:
        found = ask(root, release).obstacles[-1]
        assert (found.error, found.flag) == ("KeyError: 'optimizer'", "--no-load-optim")
        tuned = ask(root, release, Job(finetune=True)).obstacles
        assert not any("optimizer" in obstacle.error for obstacle in tuned)
    torch_side.edit_common(
        root, lambda state: vars(state["args"]).update(no_save_optim=False, no_save_rng=True)
    )
    for release in READERS:
        asked = [o.error for o in ask(root, release).obstacles if "rng" in o.error]
        exits = release in ("0.9.0", "0.10.0", "0.11.0", "0.12.3", "0.13.1")
        assert [error[:40] for error in asked] == [
            "Unable to load rng state from checkpoint"
        ] * exits
    # A release gets it all the same: nothing is lost that was ever there.
    torch_side.edit_common(root, lambda state: vars(state["args"]).update(no_save_optim=True))
    [plan] = migrate(root, to="0.11.0", output=tmp_path / "out")
    assert plan.losses == ()
    job = Job(no_load_optim=True, no_load_rng=True)
    assert ask(tmp_path / "out", "0.11.0", job).resumes
    found = detection.read(LocalDirectory(checkpoint_of(root)))
    fix = fixes.advise(found, ask(root, "0.11.0"), Job())
    assert fix.command is not None and "--to 0.11.0" in fix.command
    assert fix.flags == ("--no-load-optim", "--no-load-rng")


def test_another_tp_or_pp_needs_no_load_rng_up_to_0_13() -> None:
    bare, there = SAMPLES / "0.9.0-idle-w1", Job(tensor=2, world=2)
    [obstacle] = ask(bare, "0.13.1", there).obstacles
    assert obstacle.error.startswith(NO_RNG)
    assert obstacle.flag == "--no-load-rng"
    assert ask(bare, "0.14.0", there).resumes


def test_another_topology(copy: Copy) -> None:
    fault = SAMPLES / "0.18.2-fault-cp2"
    assert ask(fault, "0.18.2").without == ()
    assert ask(fault, "0.18.2", Job(world=4)).without == ("the fault context",)
    assert ask(fault, "0.18.2", Job(rerun_mode="disabled")).without == ("the fault context",)
    assert ask(fault, "0.18.2", Job(finetune=True)).without == ("the fault context",)
    # 0.12 with another grid takes up the lone mode and dies, with exit status 0.
    split = SAMPLES / "0.12.3-idle-w1"
    found = ask(split, "0.12.3", Job(tensor=2, world=2))
    assert "KeyError: 'sharded'" in found.obstacles[0].error
    there = Job(tensor=2, world=2, no_load_rng=True)
    assert ask(split, "0.12.3", dataclasses.replace(there, rerun_mode="disabled")).resumes
    # 0.10 does not ask where the grid is another one, or the request is lenient.
    bare = SAMPLES / "0.9.0-idle-w1"
    assert not ask(bare, "0.10.0").resumes
    assert ask(bare, "0.10.0", there).resumes
    assert ask(bare, "0.10.0", Job(strictness="log_all")).resumes


@pytest.mark.parametrize(
    ("sample", "release", "resumes"),
    [
        # FORMAT: an idle always-sentinel checkpoint does not load strictly, not even in 0.18.2.
        ("0.18.2-idle-w1", "0.18.2", False),
        ("0.18.2-fault-w1", "0.18.2", True),
        ("0.17.1-idle-w1", "0.17.1", True),
        ("0.12.3-idle-w1", "0.12.3", True),
        ("0.12.3-idle-w1", "0.14.0", False),
        ("0.10.0-idle-w1", "0.12.3", False),
        ("0.10.0-idle-w1", "0.10.0", True),
    ],
)
def test_strict(sample: str, release: str, resumes: bool) -> None:
    found = ask(SAMPLES / sample, release, Job(strictness="raise_all"))
    assert found.resumes == resumes
    if not resumes:
        assert found.obstacles[-1].error == (
            "Missing keys (for all ranks): {'rerun_state_machine_state'}"
        )
    assert ask(SAMPLES / sample, release, Job(strictness="raise_unexpected")).resumes


@pytest.mark.parametrize(
    ("kind", "good", "bad", "error"),
    [
        ("fully_sharded_model_space", "0.15.3", "0.16.1", "flattened_range is not supported"),
        ("fully_sharded_bucket_space", "0.14.0", "0.15.3", "Unknown sharding_type"),
        ("dp_zero_gather_scatter", "0.19.0", None, ""),
        ("dp_reshardable", "0.15.3", "0.14.0", "Unknown sharding_type: dp_reshardable"),
        ("fully_reshardable", "0.16.1", "0.13.1", "Unknown sharding_type: fully_reshardable"),
    ],
)
def test_optimizer_sharding(kind: str, good: str, bad: str | None, error: str, copy: Copy) -> None:
    root = copy("0.14.0-idle-w1")
    torch_side.edit_common(
        root,
        lambda state: state["content_metadata"].update(distrib_optim_sharding_type=kind),
    )
    assert ask(root, good).resumes
    if bad is not None:
        [obstacle] = ask(root, bad).obstacles
        assert error in obstacle.error
        assert (obstacle.flag, obstacle.metadata_only) == ("--no-load-optim", False)
        assert ask(root, bad, Job(no_load_optim=True)).resumes


def test_the_samples_with_a_distributed_optimizer() -> None:
    assert not ask(SAMPLES / "0.13.1-idle-dopt", "0.16.1").resumes
    assert ask(SAMPLES / "0.13.1-idle-dopt", "0.14.0").resumes
    assert not ask(SAMPLES / "0.17.1-idle-dopt", "0.13.1").resumes
    assert ask(SAMPLES / "0.17.1-idle-dopt", "0.15.3", torch="2.5.1").resumes


def test_optimizer_state_is_a_named_loss(run: Run, tmp_path: Path) -> None:
    arguments = ("downgrade", SAMPLES / "0.17.1-idle-dopt", "--to", "0.14.0", "-o", tmp_path / "o")
    refused(run(*arguments), "dp_reshardable", "--no-load-optim", "--allow-loss optimizer-state")
    done = run(*arguments, "--allow-loss", "optimizer-state")
    assert done.returncode == 0, done.stderr
    assert ask(tmp_path / "o", "0.14.0", Job(no_load_optim=True)).resumes


# -- release targets


LOSSES = ("fault-context", "optimizer-state")


@pytest.mark.parametrize("sample", HEALTHY)
def test_every_release_resumes_after_one_command(sample: str, tmp_path: Path) -> None:
    """Planned for every release, and judged with the files of the plan among those of the sample.

    The first plan that changes anything is carried out; the rest of them where all tests run.
    """
    outcomes = plans_for_every_release(sample)
    for number, (plan, releases) in enumerate(outcomes):
        assert plan.satisfied == (not plan.files)
        root = shutil.copytree(SAMPLES / sample, tmp_path / str(number))
        for name, content in plan.files.items():
            (checkpoint_of(root) / name).unlink(missing_ok=True)
            if content is not None:
                (checkpoint_of(root) / name).write_bytes(content)
        check_every_release(root, releases)
        check_args(SAMPLES / sample, root)
    for release in [next(iter(each)) for plan, each in outcomes if not plan.satisfied][:1]:
        carry_out_and_back(sample, release, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("sample", HEALTHY)
def test_every_release_resumes_from_what_is_written(sample: str, tmp_path: Path) -> None:
    source = SAMPLES / sample
    for number, (plan, releases) in enumerate(plans_for_every_release(sample)):
        place = tmp_path / str(number)
        place.mkdir()
        if plan.satisfied:
            check_every_release(source, releases)
        else:
            check_every_release(carry_out_and_back(sample, next(iter(releases)), place), releases)


def plans_for_every_release(sample: str) -> list[tuple[Plan, dict[str, Job]]]:
    """Plans that differ in what they write, and the releases that each is for, with their job."""
    found: dict[object, tuple[Plan, dict[str, Job]]] = {}
    for release in READERS:
        plan = ckptmigrate.plan(SAMPLES / sample, to=release, allow_loss=LOSSES)
        _, releases = found.setdefault(tuple(plan.files.items()), (plan, {}))
        releases[release] = Job(no_load_optim="optimizer-state" in plan.losses)
    return [*found.values()]


def check_every_release(root: Path, releases: dict[str, Job]) -> None:
    found = read(root)
    for release, job in releases.items():
        assert ask(found, release, job).resumes, release


def check_args(source: Path, root: Path) -> None:
    """args keeps every attribute; those that changed became the names of enum members."""
    before, after = (
        vars(torch_side.read_common(checkpoint_of(each))["args"]) for each in (source, root)
    )
    assert before.keys() == after.keys()
    for name, value in after.items():
        if torch_side.plain(value) != torch_side.plain(before[name]):
            assert value == before[name].name


def carry_out_and_back(sample: str, release: str, place: Path) -> Path:
    """Migrate a sample, check the result and its way back, and return the result."""
    source, result = SAMPLES / sample, place / "out"
    [plan] = migrate(source, to=release, output=result, allow_loss=LOSSES)
    assert not plan.satisfied
    check_args(source, result)
    # The way back is the original, whatever the release changed.
    migrate(result, to=INDEX[sample]["layout"], output=place / "back")
    assert tree_hash(place / "back") == tree_hash(source)
    return result


def test_native_and_strict(tmp_path: Path) -> None:
    source = SAMPLES / "0.17.1-idle-w1"
    for release in ("0.12.3", "0.18.2"):
        [plan] = migrate(source, to=release)
        assert plan.satisfied
        assert not source.with_name(f"{source.name}.{release}").exists()
    strict = SAMPLES / "0.18.2-idle-w1"

    MigrationRequest("0.12.3", output=tmp_path / "n", native=True).run(source)
    result = torch_side.read(checkpoint_of(tmp_path / "n"))
    assert set(result.common["rerun_state_machine"]) == {"mode"}
    MigrationRequest("0.18.2", output=tmp_path / "s", strict=True).run(strict)
    assert ask(tmp_path / "s", "0.18.2", Job(strictness="raise_all")).resumes
    assert torch_side.read(checkpoint_of(tmp_path / "s")).rerun_keys == set()


def test_torch_of_the_reader() -> None:
    """0.16 allows by list from torch 2.6 on; under an older torch it resolves what it can."""
    root = SAMPLES / "0.17.1-idle-w1"
    assert not ask(root, "0.14.0").resumes
    assert ask(root, "0.14.0", torch="2.5.1").resumes
    # And 0.10, written for the torch of its day, needs help under a new one.
    assert not ask(SAMPLES / "0.10.0-idle-w1", "0.10.0", torch="2.13.0").resumes


def test_a_new_release_is_an_edit_of_the_facts_alone(run: Run, tmp_path: Path) -> None:
    """What the README says of a release whose layout is known, done on a copy of the facts."""
    edited = tmp_path / "compat_matrix.yaml"
    text = (Path(__file__).parent.parent / "compat_matrix.yaml").read_text()
    edited.write_text(text)
    (tmp_path / "ckptmigrate" / "data").mkdir(parents=True)
    done = run("matrix", "add", "0.21.0", "--torch", "2.14.0", "--facts", edited)
    assert done.returncode == 0, done.stderr
    # Lines were added, and none was lost or moved but that of the known releases.
    kept = [line for line in text.splitlines() if not line.startswith("known_releases")]
    lines = iter(edited.read_text().splitlines())
    assert all(line in lines for line in kept)
    compiled = json.loads((tmp_path / "ckptmigrate/data/releases.json").read_text())
    compat = facts.from_sections(compiled)
    newest = readers(compat)[-1]
    assert (newest.release, newest.layout, newest.torch) == ("0.21.0", "common-state", "2.14.0")
    found = detection.read(LocalDirectory(checkpoint_of(SAMPLES / "0.9.0-idle-w1")))
    assert prediction.check(found, newest).resumes
    _, matrix = compilation.parse(edited.read_text())
    mine = [group for group in matrix.matrix if group.writer == "0.21.0"]
    assert [group.scenario for group in mine] == ["idle", "disabled", "fault"]
    refused(run("matrix", "add", "0.21.0", "--facts", edited), "among the readers already")


# -- the verb


def test_verb(run: Run) -> None:
    root = SAMPLES / "0.17.1-idle-w1"
    result = run("check", root)
    assert result.returncode == 0  # a list is an answer
    first, *lines, note, how = result.stdout.splitlines()
    assert first == f"{checkpoint_of(root)}: 7 of 12 releases resume"
    assert "numpy._core.multiarray._reconstruct: only NumPy >=1.26.1 has" in note
    assert how == "hint: add --reader RELEASE for the reason and the fix"
    assert [line.split()[0] for line in lines] == READERS
    one = run("check", root, "--reader", "0.11")
    assert one.returncode == 1
    assert one.stdout.startswith(
        f"Megatron-Core 0.11.0 cannot resume from {checkpoint_of(root)} (assuming torch 2.5.1)"
    )
    assert "Missing key in checkpoint state_dict: rerun_state_machine_state/shard_0.0_1.1" in (
        one.stdout
    )
    fix = one.stdout.partition("fix: ckptmigrate ")[2].strip().split()
    assert run(*fix, "--dry-run").returncode == 0
    good = run("check", root, "--reader", "0.19.0")
    assert good.returncode == 0
    assert good.stdout.startswith("Megatron-Core 0.19.0 can resume from ")
    shown = json.loads(run("check", root, "--reader", "0.11.0", "--json").stdout)
    assert shown["resumes"] is False
    assert shown["obstacles"][0]["error"].startswith("RuntimeError: Missing key")


def test_nothing_is_written_where_nothing_is_needed(run: Run, tmp_path: Path) -> None:
    root = SAMPLES / "0.17.1-idle-w1"
    result = run("upgrade", root, "--to", "0.19.0")
    assert result.returncode == 0, result.stderr
    said = f"No migration needed: Megatron-Core 0.19.0 can resume from {root}\n"
    assert result.stdout == said
    assert not root.with_name(f"{root.name}.0.19.0").exists()
    # A script that goes on with DEST finds it.
    out = tmp_path / "out"
    result = run("upgrade", root, "--to", "0.19.0", "-o", out, "--json")
    assert json.loads(result.stdout)["load"] == str(out)
    assert tree_hash(out) == tree_hash(root)


def test_a_torch_that_is_none(run: Run) -> None:
    asked = ("--reader", "0.14", "--torch", "banana")
    refused(run("check", SAMPLES / "0.17.1-idle-w1", *asked), "'banana' is not a version of torch")


@pytest.mark.parametrize(
    "name",
    ["013", "13", " 13", "0", "0.x", "1..2", "99999999999", "core_v", "mcore-0.13", "x0.13"],
)
def test_what_is_no_release_is_not_taken_for_one(run: Run, name: str) -> None:
    """Least of all for one that is newer than all, from which everything resumes."""
    sample = SAMPLES / "0.19.0-idle-w1"
    refused(run("check", sample, "--reader", name), "is not a release", "such as 0.13.1", "`")
    for verb in ("upgrade", "downgrade"):
        result = run(verb, sample, "--to", name, "--dry-run")
        refused(result, f"{name.strip()!r} is not a ", "such as 0.13.1", "`")


@pytest.mark.parametrize("name", ["core_v0.13.1", "core_r0.13.1", "v0.13.1", " 0.13.1 "])
def test_a_release_as_its_tag_spells_it(copy: Copy, run: Run, name: str) -> None:
    root = copy("0.19.0-idle-w1")
    told = run("check", root, "--reader", name)
    assert told.stdout == run("check", root, "--reader", "0.13.1").stdout
    assert told.stdout.startswith("Megatron-Core 0.13.1 cannot resume ")
    done = run("downgrade", root, "--to", name)
    assert done.returncode == 0, done.stderr
    assert f"Wrote {root}.0.13.1 for Megatron-Core 0.13.1 (" in done.stdout
    assert run("explain", name).stdout.startswith("0.13.1: a release")
    cell = run("matrix", "--writer", name, "--reader", name)
    assert cell.stdout.startswith("0.13.1 -> 0.13.1")


def test_every_patch_runs_under_the_torch_of_its_minor_release() -> None:
    compat = facts.compat()
    for known in compat.readers:
        major, minor = known.release.split(".")[:2]
        assert reader(f"{major}.{minor}.0", compat).torch == known.torch
    assert reader("v0.13", compat) == reader("0.13.1", compat)


def test_a_wrong_grid(copy: Copy) -> None:
    """Rerun shards of another grid than the job's: told as the real release tells it."""
    root = copy("0.13.1-idle-tp2")
    path = checkpoint_of(root) / ".metadata"
    names = {
        f"rerun_state_machine_state/shard_0.{rank}_1.2": (
            f"rerun_state_machine_state/shard_{rank}.0_2.1"
        )
        for rank in (0, 1)
    }
    metadata = torch_side.unpickle(path.read_bytes())
    entries, storage = metadata.state_dict_metadata, metadata.storage_data
    for old, new in names.items():
        entries[new] = entries.pop(old)
        [index] = [index for index in storage if index.fqn == old]
        storage[dataclasses.replace(index, fqn=new)] = storage.pop(index)
        for plan in metadata.all_local_plans:
            plan.items[:] = [
                dataclasses.replace(item, index=dataclasses.replace(item.index, fqn=new))
                if item.index.fqn == old
                else item
                for item in plan.items
            ]
    with torch_side.megatron_names():
        path.write_bytes(pickle.dumps(metadata))
    verdict = ask(root, "0.13.1")
    assert not verdict.resumes
    predicted = verdict.obstacles[0].error
    job = {"checkpoint": str(checkpoint_of(root)), "tensor_parallel": 2}
    [ranks] = run_jobs("0.13.1", [job])
    assert predicted.rstrip(".") in ranks[0]["error"]
    assert "Missing key in checkpoint state_dict" in predicted
    # Readers that ask for no idle grid do not mind.
    assert ask(root, "0.16.1").resumes


def test_all_releases_name_the_way_to_the_command(run: Run) -> None:
    told = run("check", SAMPLES / "0.17.1-idle-w1").stdout
    assert told.splitlines()[-1].startswith("hint: add --reader RELEASE")
    assert "--reader" not in run("check", SAMPLES / "0.17.1-idle-w1", "--reader", "0.17").stdout


def test_a_release_that_nobody_knows_is_told_as_that(run: Run, tmp_path: Path) -> None:
    sample = SAMPLES / "0.19.0-idle-w1"
    told = run("check", sample, "--reader", "0.99")
    assert told.returncode == 0
    assert "0.99 is newer than every known release" in told.stdout
    assert "the result for 0.20.dev0" in told.stdout
    assert json.loads(run("check", sample, "--reader", "0.99", "--json").stdout)["like"] == (
        "0.20.dev0"
    )
    assert json.loads(run("check", sample, "--reader", "0.19", "--json").stdout)["like"] is None
    several = run("check", sample, sample.with_name("0.18.2-idle-w1"), "--reader", "0.99")
    assert several.stdout.count("the result for 0.20.dev0") == 2
    report = tmp_path / "r.json"
    run("check", sample, "--reader", "0.99", "--report", report)
    assert "loads like 0.20.dev0" in json.loads(report.read_text())["answer"]
    planned = run("upgrade", sample, "--to", "0.99", "--dry-run")
    assert "note: 0.99 is newer than every known release" in planned.stdout
    for known in ("0.20.0", "0.19.7", "0.19"):
        assert "newer" not in run("check", sample, "--reader", known).stdout
        assert "newer" not in run("upgrade", sample, "--to", known, "--dry-run").stdout


@pytest.mark.parametrize("candidate", ["0.13.0rc3", "0.14.0rc7", "0.16.0rc0", "0.18.0rc1"])
def test_a_release_candidate_is_like_its_release(candidate: str) -> None:
    compat, final = facts.compat(), candidate.partition("rc")[0]
    asked, like = reader(candidate, compat, "2.13.0"), reader(final, compat, "2.13.0")
    assert (asked.release, asked.layout) == (candidate, like.layout)
    for row in compat.symbols:
        assert asked.resolves(row.symbol) == like.resolves(row.symbol)
        assert asked.allows(row.symbol) == like.allows(row.symbol)


@pytest.mark.parametrize(
    ("torch", "by_list"),
    [
        ("2.5.0a0+e000cf0ad9.nv24.10", False),
        ("2.6.0a0+ecf3bae40a.nv25.01", True),
        ("2.6.0+cu124", True),
    ],
)
def test_the_torch_of_a_container(torch: str, by_list: bool) -> None:
    assert reader("0.14.0", facts.compat(), torch).weights_only is by_list


def t5(root: Path, **sizes: int) -> Path:
    """Args of a job of T5 whose encoder has parallel sizes of its own."""
    torch_side.edit_common(root, lambda state: vars(state["args"]).update(sizes))
    return root


def test_the_stages_of_an_encoder_count(copy: Copy, tmp_path: Path) -> None:
    """mpu counts them in PP (core_v0.10.0 parallel_state.py), args beside it."""
    sizes = {"encoder_pipeline_model_parallel_size": 1, "encoder_tensor_model_parallel_size": 1}
    root = t5(copy("0.9.0-idle-w1"), world_size=2, **sizes)
    migrate(root, to="sharded-rerun", output=tmp_path / "out")
    keys = torch_side.read(checkpoint_of(tmp_path / "out")).metadata.state_dict_metadata
    assert [key for key in keys if key.startswith("rerun")] == [
        f"rerun_state_machine_state/shard_{stage}.0_2.1" for stage in (0, 1)
    ]


@pytest.mark.parametrize("own", [{"tensor_model_parallel_size": 2}, {"use_tp_pp_dp_mapping": True}])
def test_an_encoder_of_other_sizes_has_no_one_grid(
    own: dict[str, int], copy: Copy, run: Run, tmp_path: Path
) -> None:
    sizes = {"encoder_pipeline_model_parallel_size": 1, "encoder_tensor_model_parallel_size": 1}
    root = t5(copy("0.9.0-idle-w1"), world_size=3, **sizes, **own)
    for target in ("sharded-rerun", "0.11"):
        result = run("upgrade", root, "--to", target, "-o", tmp_path / "out")
        refused(result, "there is no single (PP, TP) grid", "encoder_tensor_model_parallel_size")
    # 0.12 asks for none, and gets none.
    assert run("check", root, "--reader", "0.12.3").returncode == 0
    assert run("upgrade", root, "--to", "0.12.3").returncode == 0
