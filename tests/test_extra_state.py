"""The `_extra_state` of Transformer Engine: what jobs request, and migrations that change it.

Jobs without Transformer Engine are those of real releases (readers/models.py); real releases wrote
the samples. What Transformer Engine does is read from its source, because it runs on GPUs alone.
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_side
from conftest import HEALTHY, SAMPLES, Run, checkpoint_of, tree_hash
from real_releases import run_models
from test_check import ask
from test_explain_logs import found as explained
from test_huge import always_by_rows  # noqa: F401  # a fixture

import ckptmigrate
from ckptmigrate.checkpoint.extra_state import Content, content_of, new_object, stored
from ckptmigrate.checkpoint.manifest import Manifest
from ckptmigrate.releases import transformer_engine
from ckptmigrate.releases.check_answer import CheckAnswer
from ckptmigrate.releases.facts import compat
from ckptmigrate.releases.job import Job
from ckptmigrate.releases.readers import Reader, reader
from ckptmigrate.storage import directories
from ckptmigrate.versions.detection import read

OPTIMIZER = Path(__file__).parent / "optimizer"
DENSE, EXPERTS = OPTIMIZER / "0.16.1-optim-dp2", OPTIMIZER / "0.17.1-optim-moe-ep2"
OLD = OPTIMIZER / "0.13.1-optim-dp2"
NORM, ATTENTION = "final_layernorm", "core_attention"
MISSING = "Missing key in checkpoint state_dict: "
Copy = Callable[[str], Path]


def manifest(root: Path) -> Manifest:
    return read(directories.directory(checkpoint_of(root))).manifest


def of_release(release: str) -> Reader:
    return reader(release, compat())


def tables(checkpoint: Path) -> bytes:
    """The bytes of .metadata: every table spells its keys there."""
    return (checkpoint / ".metadata").read_bytes()


def as_json(run: Run, *arguments: object, status: int = 0) -> Any:
    done = run(*arguments, "--json")
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


# -- what a job requests


@pytest.mark.parametrize(
    "root",
    [SAMPLES / name for name in HEALTHY]
    + sorted(path.parent for path in OPTIMIZER.glob("*/iter_*")),
    ids=lambda root: root.name,
)
def test_a_job_without_transformer_engine_requests_what_a_release_saved(root: Path) -> None:
    found = manifest(root)
    wanted = transformer_engine.requested(found, None, transformer_engine.WITHOUT)
    assert wanted.keys.keys() == stored(found.metadata).keys() != set()
    # The rank that writes the weight of a layer plans its object, too.
    plans = found.metadata.planned
    assert plans is None or all(rank < len(plans) for rank in wanted.keys.values())


NAMES = {"core_attention", "core_attention.fused_attention", "final_layernorm"}


@pytest.mark.parametrize(
    ("release", "engine", "expected"),
    [
        ("0.13.1", "none", set()),
        ("0.13.1", "1.5", set()),
        ("0.13.1", "1.7", {"core_attention.fused_attention"}),
        ("0.13.1", "1.8", {"core_attention"}),
        ("0.13.1", "1.12", {"core_attention"}),
        ("0.13.1", "1.13.0", {"core_attention", "final_layernorm"}),
        ("0.14.0", "2.18.0+e7c550c5", {"core_attention", "final_layernorm"}),
        ("0.15.3", "1.12", set()),
        ("0.16.1", "2.8", {"final_layernorm"}),
        ("0.20.dev0", "2.5.0.dev0", {"final_layernorm"}),
    ],
)
def test_the_modules_that_a_job_with_transformer_engine_requests_besides(
    release: str, engine: str, expected: set[str]
) -> None:
    wanted = transformer_engine.requested(manifest(DENSE), of_release(release), engine)
    found = {name for name in NAMES for module in wanted.modules if module.endswith(f".{name}")}
    assert found == expected
    layers = {"decoder.layers.self_attention.linear_qkv", "decoder.layers.mlp.linear_fc2"}
    assert layers < wanted.modules.keys()


def test_experts_have_an_object_per_layer_and_expert() -> None:
    keys = transformer_engine.requested(manifest(EXPERTS), None, "2.8").keys
    fc1 = "decoder.layers.mlp.experts.experts.linear_fc1._extra_state"
    assert {k for k in keys if fc1 in k} == {
        f"{fc1}/shard_{layer}.{expert}_2.4" for layer in range(2) for expert in range(4)
    }
    assert "decoder.final_layernorm._extra_state/shard_0_1" in keys
    assert not [key for key in keys if "router" in key or "output_layer" in key]


def test_a_layer_without_the_weight_gets_no_object(tmp_path: Path) -> None:
    """A model whose first layer is dense has the weights of experts in the others alone."""
    root = shutil.copytree(EXPERTS, tmp_path / "run")
    weight = "decoder.layers.mlp.experts.experts.linear_fc1.weight"

    def without_layer_0(found: Any) -> None:
        entry = found.state_dict_metadata[weight]
        entry.chunks = [each for each in entry.chunks if each.offsets[0] == 1]
        gone = [i for i in found.storage_data if i.fqn == weight and i.offset[0] == 0]
        for index in gone:
            del found.storage_data[index]

    torch_side.edit_metadata(root, without_layer_0)
    wanted = transformer_engine.requested(manifest(root), None, "2.8")
    assert {k[0] for k in wanted.modules[weight.removesuffix(".weight")].ranks} == {1}


# -- the values that mean "no state"


def saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save([value], stream)
    return stream.getvalue()


def pickled(value: Any) -> torch.Tensor:
    return torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)


def in_stream(value: Any) -> io.BytesIO:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream


FP8 = {"scale_fwd": torch.ones(3), "amax_history_fwd": torch.zeros(16, 3)}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, Content.NONE),
        (torch.empty(0, dtype=torch.uint8), Content.EMPTY),
        (torch.Tensor(), Content.EMPTY),
        (pickled(None), Content.NO_STATE),
        (pickled({}), Content.NO_STATE),
        (in_stream(None), Content.NO_STATE),
        (pickled(FP8), Content.STATE),
        (in_stream(FP8), Content.STATE),
        (pickled(0), Content.STATE),
        (torch.zeros(100_000), Content.STATE),
        ([None, None], Content.STATE),
        ("text", Content.STATE),
    ],
)
def test_the_content_of_an_object_as_torch_saves_it(
    value: Any, expected: Content, tmp_path: Path
) -> None:
    root = with_object(tmp_path, saved(value))
    assert content_of(manifest(root), KEY) is expected


KEY = "decoder.layers.mlp.linear_fc1._extra_state/shard_0_2"


def with_object(place: Path, content: bytes, key: str = KEY) -> Path:
    """A copy of a sample in which an object has other bytes."""
    root = shutil.copytree(DENSE, place / "run")
    name = "__9_0.distcp"
    (checkpoint_of(root) / name).write_bytes(content)

    def move(found: Any) -> None:
        where = next(i for i in found.storage_data if i.fqn == key)
        stored = found.storage_data[where]
        stored.relative_path, stored.offset, stored.length = name, 0, len(content)

    torch_side.edit_metadata(root, move)
    return root


@pytest.mark.parametrize("content", [Content.NONE, Content.EMPTY])
def test_torch_loads_the_new_objects(content: Content) -> None:
    [value] = torch.load(io.BytesIO(new_object(content)), weights_only=True)
    if content is Content.NONE:
        assert value is None
    else:
        assert value.dtype == torch.uint8
        assert value.numel() == 0


@pytest.mark.parametrize(
    ("engine", "content"),
    [
        ("none", Content.NONE),
        ("1.13", Content.NONE),
        ("2.3", Content.NONE),
        ("2.4", Content.EMPTY),
        ("2.4.1", Content.EMPTY),
        ("2.5", Content.NONE),
        ("2.18", Content.NONE),
    ],
)
def test_the_value_that_a_version_takes_as_no_state(engine: str, content: Content) -> None:
    assert transformer_engine.no_state(engine) is content


# -- predictions, and the errors of real releases


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str], Path]:
    """A sample as it is, without any `_extra_state`, or with that of every module."""
    made: dict[tuple[Path, str], Path] = {}

    def variant(root: Path, what: str) -> Path:
        if what == "whole":
            return root
        if (root, what) not in made:
            output = tmp_path_factory.mktemp("variant") / "run"
            ckptmigrate.migrate(root, to=None, extra_state=what, output=output)
            made[root, what] = output
        return made[root, what]

    return variant


@pytest.mark.parametrize(
    ("root", "release"), [(OLD, "0.13.1"), (DENSE, "0.16.1")], ids=["0.13.1", "0.16.1"]
)
@pytest.mark.costly("a real release loads a model 12 times, in one process")
def test_a_real_job_without_transformer_engine_does_what_check_predicts(
    root: Path, release: str, variants: Callable[[Path, str], Path]
) -> None:
    jobs = [
        (what, strictness)
        for what in ("whole", "drop", "add")
        for strictness in ("assume_ok_unexpected", "raise_unexpected", "raise_all", "log_all")
    ]
    outcomes = run_models(
        release,
        *(
            {
                "checkpoint": str(checkpoint_of(variants(root, what))),
                "strictness": strictness,
                "with_extra_state": [],
            }
            for what, strictness in jobs
        ),
    )
    failures = 0
    for (what, strictness), outcome in zip(jobs, outcomes, strict=True):
        found = manifest(variants(root, what))
        predicted = transformer_engine.problems(found, of_release(release), "none", strictness)
        if strictness == "raise_all":  # it refuses the optimizer and more, which the model skips
            assert "Missing keys (for all ranks)" in outcome["error"]
        else:
            assert (outcome["error"] is None) is not predicted, (what, strictness, outcome)
        for each in predicted:
            failures += 1
            assert_same(each.error, outcome["error"], found)
            if strictness != "raise_all":
                assert explained(outcome["error"]) == [explained(each.error)[0]]
    assert failures == 4


def assert_same(predicted: str, error: str, found: Manifest) -> None:
    """A release prints a set in any order, and of the missing keys that which it needs first."""
    title, _, names = predicted.partition("{")
    if names:
        assert title in error
        real = error.partition(title)[2].partition("}")[0].strip("{").split(", ")
        # With raise_all it names what the job does not load here, such as the optimizer, too.
        assert {*names.rstrip("}").split(", ")} == {each for each in real if "_extra_state" in each}
        return
    title, _, key = predicted.rpartition(" ")
    real, _, needed = error.rpartition(" ")
    assert title == real
    assert key not in found.metadata.entries
    assert needed.rstrip(".") not in found.metadata.entries
    assert "._extra_state/shard_" in needed


@pytest.mark.parametrize(
    ("root", "release", "engine", "modules"),
    [
        (OLD, "0.13.1", "2.3", [ATTENTION, NORM]),
        (OLD, "0.13.1", "1.12", [ATTENTION]),
        (DENSE, "0.16.1", "2.8", [NORM]),
    ],
)
@pytest.mark.costly("a real release loads a model 4 times, in one process")
def test_modules_with_extra_state_in_a_real_job(
    root: Path, release: str, engine: str, modules: list[str], tmp_path: Path
) -> None:
    """Modules of the release that have an _extra_state stand for those of Transformer Engine."""
    output = tmp_path / "added"
    ckptmigrate.migrate(
        root, to=release, extra_state="add", transformer_engine=engine, output=output
    )
    found = manifest(root)
    jobs = [
        {"checkpoint": str(checkpoint_of(place)), "strictness": policy, "with_extra_state": modules}
        for place in (root, output)
        for policy in ("assume_ok_unexpected", "raise_unexpected")
    ]
    *before, after, after_strict = run_models(release, *jobs)
    for job, outcome in zip(jobs, before, strict=False):
        [problem] = transformer_engine.problems(
            found, of_release(release), engine, job["strictness"]
        )
        assert_same(problem.error, outcome["error"], found)
        kind = "strict-extra-state" if job["strictness"] == "raise_unexpected" else "no-extra-state"
        assert explained(outcome["error"]) == [kind]
    wanted = transformer_engine.requested(manifest(output), of_release(release), engine)
    assert after == after_strict
    assert after["error"] is None
    assert {*after["received"].values()} == {"None"}
    others = {m for m in wanted.modules if m.endswith(("layernorm", "core_attention"))}
    assert {name.replace("layers.0.", "layers.").replace("layers.1.", "layers.") for name in
            after["received"]} >= others  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "content", "error"),
    [
        ("2.4", Content.NONE, "RuntimeError: Unsupported checkpoint format."),
        ("2.3", Content.EMPTY, "EOFError: Ran out of input"),
        ("2.5", Content.NONE, None),
        ("2.4", Content.EMPTY, None),
        ("none", Content.EMPTY, None),
    ],
)
def test_a_value_that_a_version_does_not_load(
    engine: str, content: Content, error: str | None, tmp_path: Path, run: Run
) -> None:
    """Sources: extra_state_values of compat_matrix.yaml."""
    root = tmp_path / "run"
    other = "2.4" if content is Content.EMPTY else "2.8"
    ckptmigrate.migrate(DENSE, to="0.16", extra_state="add", transformer_engine=other, output=root)
    found = manifest(root)
    problems = transformer_engine.problems(found, of_release("0.16.1"), engine, "log_all")
    assert [each.error for each in problems] == ([] if error is None else [error])
    if error is None:
        return
    shown = as_json(
        run, "check", root, "--reader", "0.16", "--transformer-engine", engine, status=1
    )
    assert shown["fix"]["command"].endswith(f"--extra-state add --transformer-engine {engine}")
    again = tmp_path / "again"
    made = as_json(
        run, "migrate", root, "--to", "0.16", "--extra-state", "add",
        "--transformer-engine", engine, "-o", again,
    )  # fmt: skip
    # A migration starts from the original, in which all objects are None.
    assert made["checkpoints"][0]["extra_state"]["replaced"] == (8 if engine == "2.4" else 0)
    assert not transformer_engine.problems(manifest(again), of_release("0.16.1"), engine, "log_all")
    torch_side.consistent(torch_side.read(checkpoint_of(again)), has_plans=True)


def test_check_never_says_yes_for_transformer_engine(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "run"
    engine = ("--transformer-engine", "2.8")
    no = run("check", DENSE, "--reader", "0.16", *engine)
    assert no.returncode == 1
    assert "decoder.final_layernorm._extra_state/shard_0_1" in no.stdout
    fix = "--extra-state add --transformer-engine 2.8"
    assert f"fix: ckptmigrate migrate {DENSE}" in no.stdout or fix in no.stdout
    added = run("migrate", DENSE, "--to", "0.16", "--extra-state", "add", *engine, "-o", root)
    assert added.returncode == 0, added.stderr
    assert "from source, not run" in added.stdout
    for options in (engine, ()):
        done = run("check", root, "--reader", "0.16", *options)
        assert done.returncode == 0
        assert "Megatron-Core 0.16.1 can likely resume" in done.stdout
        assert "is read from its source, not run" in done.stdout
    shown = as_json(run, "check", root, "--reader", "0.16", *engine)
    assert (shown["answer"], shown["resumes"], bool(shown["likely"])) == ("likely", False, True)
    # Without a question about Transformer Engine, the answer is the measured one.
    assert as_json(run, "check", DENSE, "--reader", "0.16")["likely"] is None


@pytest.mark.parametrize(
    ("strictness", "release", "engine", "errors", "flag"),
    [
        ("assume_ok_unexpected", "0.13.1", "2.8", [MISSING], "log_unexpected"),
        ("assume_ok_unexpected", "0.12.3", "2.8", [MISSING], None),
        ("raise_unexpected", "0.13.1", "2.8", ["Unexpected keys (for this rank): "], "log_unex"),
        ("log_unexpected", "0.13.1", "2.8", [], None),
        ("log_all", "0.13.1", "1.8", [], None),
        ("log_unexpected", "0.12.3", "2.8", ["Missing key(s) in state_dict: "], None),
        ("log_unexpected", "0.12.3", "1.8", [], None),
        ("return_all", "0.12.3", "none", [], None),
        ("assume_ok_unexpected", "0.20.dev0", "2.8", [MISSING], "log_unexpected"),
    ],
)
def test_the_strictness_of_the_job(
    strictness: str, release: str, engine: str, errors: list[str], flag: str | None
) -> None:
    """Sources: load_checkpoint of megatron/training, and the hooks of Transformer Engine."""
    found = transformer_engine.problems(manifest(OLD), of_release(release), engine, strictness)
    assert len(found) == len(errors)
    for each, error in zip(found, errors, strict=True):
        assert error in each.error
        assert (flag or "") in (each.flag or "")
        assert (each.flag is None) is (flag is None)


def test_a_strict_job_refuses_what_it_does_not_request(run: Run, tmp_path: Path) -> None:
    """0.15 and later do not request the core attention of Transformer Engine."""
    root, output = tmp_path / "run", tmp_path / "strict"
    ckptmigrate.migrate(OLD, to=None, extra_state="add", transformer_engine="1.12", output=root)
    found = manifest(root)
    [problem] = transformer_engine.problems(found, of_release("0.16.1"), "1.12", "raise_all")
    module = "decoder.layers.self_attention.core_attention"
    assert problem.error == f"Missing keys (for all ranks): {{'{module}._extra_state'}}"
    assert not transformer_engine.problems(found, of_release("0.16.1"), "1.12", "raise_unexpected")
    (checkpoint_of(root) / "ckptmigrate.json").unlink()  # as if Transformer Engine had saved it
    made = as_json(
        run, "migrate", root, "--to", "0.14", "--extra-state", "drop",
        "--transformer-engine", "none", "-o", output,
    )  # fmt: skip
    assert made["checkpoints"][0]["extra_state"]["dropped"] == 2
    assert b"core_attention" not in tables(checkpoint_of(output))
    assert stored(manifest(output).metadata).keys() == stored(manifest(OLD).metadata).keys()


def test_a_norm_in_front_of_experts_has_another_key(run: Run) -> None:
    """Megatron-LM pull request 6270: such a checkpoint lacks more than an _extra_state."""
    found = transformer_engine.problems(
        manifest(EXPERTS), of_release("0.17.1"), "2.18", "assume_ok_unexpected"
    )
    assert found[0].error == f"RuntimeError: {MISSING}decoder.layers.pre_mlp_layernorm.weight."
    assert found[0].change is None
    assert not transformer_engine.problems(
        manifest(EXPERTS), of_release("0.17.1"), "none", "assume_ok_unexpected"
    )


# -- migrations


@pytest.mark.parametrize("sample", ["0.10.0-idle-tp2", "0.13.1-idle-w1", "0.17.1-idle-w1"])
def test_drop_leaves_no_key_in_any_table(sample: str, run: Run, copy: Copy, tmp_path: Path) -> None:
    """Out of place, in place, and back byte by byte."""
    root = copy(sample)
    before = tree_hash(root)
    assert tables(checkpoint_of(root)).count(b"_extra_state") > 8
    output = tmp_path / "out"
    made = as_json(run, "migrate", root, "--extra-state", "drop", "-o", output)
    [plan] = made["checkpoints"]
    assert plan["extra_state"] == {
        "transformer_engine": None, "dropped": 8, "added": 0, "replaced": 0, "from_source": False,
    }  # fmt: skip
    assert plan["losses"] == []
    assert [c["detail"] for c in plan["changes"] if c["name"] == "_extra_state"] == ["8 objects"]
    assert tree_hash(root) == before
    assert b"_extra_state" not in tables(checkpoint_of(output))
    contents = torch_side.read(checkpoint_of(output))
    torch_side.consistent(contents, has_plans=sample[:4] != "0.10")
    assert run("verify", output).returncode == 0

    done = run("migrate", root, "--extra-state", "drop", "--in-place")
    assert done.returncode == 0, done.stderr
    assert "for --extra-state drop" in done.stdout
    assert tables(checkpoint_of(root)) == tables(checkpoint_of(output))
    assert "log_unexpected" in done.stdout
    undone = run("undo", root)
    assert undone.returncode == 0, undone.stderr
    assert "--extra-state drop" in undone.stdout
    assert tree_hash(root) == before


@pytest.mark.parametrize("sample", ["0.10.0-idle-w1", "0.17.1-idle-w1", "0.19.0-idle-tp2"])
def test_add_and_back(sample: str, run: Run, copy: Copy) -> None:
    root = copy(sample)
    before = tree_hash(root)
    engine = ("--transformer-engine", "2.3")
    done = run("migrate", root, "--extra-state", "add", *engine, "--in-place")
    assert done.returncode == 0, done.stderr
    found = manifest(root)
    assert len(stored(found.metadata)) == 11
    contents = torch_side.read(checkpoint_of(root))
    torch_side.consistent(contents, has_plans=sample[:4] != "0.10")
    assert run("verify", root).returncode == 0
    again = run("migrate", root, "--extra-state", "add", *engine, "--in-place")
    assert again.returncode == 0, again.stderr
    undone = run("undo", root)
    assert undone.returncode == 0, undone.stderr
    assert "--extra-state add --transformer-engine 2.3" in undone.stdout
    assert tree_hash(root) == before


def test_a_later_migration_keeps_the_change(run: Run, copy: Copy) -> None:
    root = copy("0.17.1-idle-w1")
    engine = ("--transformer-engine", "2.3")
    assert run("migrate", root, "--extra-state", "add", *engine, "--in-place").returncode == 0
    done = run("migrate", root, "--to", "0.13", "--in-place")
    assert done.returncode == 0, done.stderr
    assert len(stored(manifest(root).metadata)) == 11
    assert ask(root, "0.13.1", Job(transformer_engine="2.3")).answer is CheckAnswer.LIKELY
    other = run("migrate", root, "--to", "0.16", "--extra-state", "drop", "--in-place")
    assert other.returncode == 0, other.stderr
    assert b"_extra_state" not in tables(checkpoint_of(root))


def test_a_migration_says_what_the_job_cannot_load(run: Run, tmp_path: Path) -> None:
    words = ("migrate", DENSE, "--to", "0.16", "--dry-run", "--transformer-engine", "2.8")
    note = "a job with Transformer Engine 2.8 requests an _extra_state of decoder.final_layernorm"
    kept = run(*words)
    assert kept.returncode == 0, kept.stderr
    assert note in kept.stdout
    assert "pass --extra-state add" in kept.stdout
    assert note not in run(*words, "--extra-state", "add").stdout


@pytest.mark.usefixtures("always_by_rows")
@pytest.mark.parametrize("change", ["drop", "add"])
def test_a_large_metadata_file(change: str, tmp_path: Path) -> None:
    """A large file is edited by insertions into its bytes; here all files count as large."""
    output = tmp_path / "out"
    ckptmigrate.migrate(SAMPLES / "0.17.1-idle-w1", extra_state=change, output=output)
    contents = torch_side.read(checkpoint_of(output))
    torch_side.consistent(contents, has_plans=True)
    keys = {key for key in contents.metadata.state_dict_metadata if "_extra_state" in key}
    assert len(keys) == (0 if change == "drop" else 13)  # with those of 1.6 and 1.7


def test_fp8_state_is_dropped_only_if_it_is_allowed(run: Run, tmp_path: Path) -> None:
    root = with_object(tmp_path, saved(pickled(FP8)))
    output = tmp_path / "out"
    drop = ("migrate", root, "--to", "0.16", "--extra-state", "drop", "-o", output)
    refused = run(*drop)
    assert refused.returncode == 1
    assert "FP8 state of Transformer Engine" in refused.stderr
    assert "--extra-state drop --allow-loss extra-state" in refused.stderr
    assert not output.exists()
    assert run(*drop, "--allow-loss", "extra-state").returncode == 0
    assert b"_extra_state" not in tables(checkpoint_of(output))


def test_without_a_version_add_covers_every_version(tmp_path: Path) -> None:
    output = tmp_path / "out"
    ckptmigrate.migrate(DENSE, to="0.16", extra_state="add", output=output)
    for engine in ("1.5", "1.12", "2.3", "2.18", "none"):
        verdict = ask(output, "0.16.1", Job(transformer_engine=engine))
        assert verdict.answer is CheckAnswer.LIKELY
        assert not verdict.resumes


@pytest.mark.parametrize("arguments", [
    ("check", "PATH", "--reader", "0.16", "--transformer-engine", "new"),
    ("migrate", "PATH", "--to", "0.16", "--extra-state", "add", "--transformer-engine", "new"),
])  # fmt: skip
def test_what_is_no_version(arguments: tuple[str, ...], run: Run) -> None:
    done = run(*(DENSE if word == "PATH" else word for word in arguments))
    assert done.returncode == 1
    assert "'new' is not a version of Transformer Engine" in done.stderr
    assert "--transformer-engine none" in done.stderr


def test_a_history_with_other_changes_is_not_followed(copy: Copy, run: Run) -> None:
    """The history is a file of the checkpoint, and anybody can write it."""
    root = copy("0.17.1-idle-w1")
    assert run("migrate", root, "--extra-state", "drop", "--in-place").returncode == 0
    history = checkpoint_of(root) / "ckptmigrate.json"
    history.write_text(history.read_text().replace('"extra_state": "drop"', '"extra_state": "-o"'))
    undone = run("undo", root, "--dry-run")
    assert undone.returncode == 0, undone.stderr
    assert "-o" not in undone.stdout.split()
