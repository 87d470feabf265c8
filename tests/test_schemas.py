"""What every verb prints with --json, and a report in JSON, is what the published schema says."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_reference import commands
from click.testing import CliRunner
from conftest import HEALTHY, SAMPLES, Run
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from real_releases import READERS, run_jobs

from ckptmigrate import schemas
from ckptmigrate.cli import cli, console
from ckptmigrate.measuring import jobs

RUN, FAULT, BROKEN = "0.17.1-idle-w1", "0.17.1-fault-tp2pp2", "0.17.1-corrupt-tp2"
OLD = "0.12.3-idle-w1"
WRITES_NO_JSON = {"schema"}  # it prints a schema, which is no value of a verb
Copy = Callable[[str], Path]


@functools.cache
def validator(name: str) -> Draft202012Validator:
    schema = schemas.schema(name)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def printed(run: Run, name: str, *arguments: object, status: int = 0, **environment: str) -> Any:
    """What a verb prints, after it was held against its schema."""
    result = run(*name.split("-"), *arguments, "--json", **environment)
    assert result.returncode == status, (result.stdout, result.stderr)
    value = json.loads(result.stdout)
    validator(name).validate(value)
    assert ("error" in value) == bool(result.stderr)
    return value


def invoked(name: str, *arguments: object) -> Any:
    """What a verb prints in this process, after it was held against its schema."""
    console.output.reset(color=None)
    words = [*name.split("-"), *map(str, arguments), "--json"]
    value = json.loads(CliRunner().invoke(cli, words).stdout)
    validator(name).validate(value)
    return value


def test_every_verb_has_a_schema_and_every_schema_a_verb() -> None:
    verbs = {words.replace(" ", "-") for words in commands() if words}
    assert set(schemas.names()) == (verbs - WRITES_NO_JSON) | {"report"}


def objects(schema: Any) -> list[dict[str, Any]]:
    """Every schema of an object in one, at any depth."""
    rows = list(schema.values()) if isinstance(schema, dict) else schema
    found = [schema] if isinstance(schema, dict) and schema.get("type") == "object" else []
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict | list):
            found += objects(row)
    return found


@pytest.mark.parametrize("name", schemas.names())
def test_a_schema_is_closed_and_whole(name: str) -> None:
    schema = schemas.schema(name)
    Draft202012Validator.check_schema(schema)
    for row in objects(schema):
        assert row["additionalProperties"] is False or "properties" not in row
        assert set(row.get("required", ())) <= set(row.get("properties", ()))
    with pytest.raises(ValidationError):
        validator(name).validate({"surprise": 1})
    defined = set(schema["$defs"]) - {name}
    assert all(f'"#/$defs/{each}"' in json.dumps(schema) for each in defined)


@pytest.mark.parametrize("name", HEALTHY)
def test_what_is_printed_of_every_sample(name: str) -> None:
    for verb in ("inspect", "check", "verify"):
        assert "error" not in invoked(verb, SAMPLES / name)


def test_inspect(run: Run, tmp_path: Path) -> None:
    assert len(printed(run, "inspect", SAMPLES / RUN, "--all")) == 1
    found = printed(run, "inspect", SAMPLES / BROKEN, status=1)
    assert found["rerun"]["state"] == "corrupt"
    assert len(printed(run, "inspect", SAMPLES / FAULT)["rerun"]["fault"]) == 1
    assert printed(run, "inspect", tmp_path / "nothing", status=1)["error"]["path"]


def test_check(run: Run) -> None:
    assert printed(run, "check", SAMPLES / RUN, "--reader", "0.16")["resumes"]
    found = printed(run, "check", SAMPLES / FAULT, "--reader", "0.13", status=1)
    assert found["fix"]["command"] and found["obstacles"]
    printed(run, "check", SAMPLES / RUN, "--reader", "none", status=1)


def test_migrations_and_the_way_back(run: Run, tmp_path: Path, copy: Copy) -> None:
    root, old = copy(RUN), copy(OLD)
    printed(run, "upgrade", root, "--dry-run")
    assert printed(run, "upgrade", root)["destination"]
    assert printed(run, "upgrade", root, status=1)["error"]["kind"] == "DestinationError"
    printed(run, "upgrade", old, "--to", "pre-rerun", status=1)
    printed(run, "downgrade", root, "--to", "0.11.0", "--all", "-o", tmp_path / "all")
    printed(run, "downgrade", root, "--to", "0.16")
    fault = copy(FAULT)
    found = printed(run, "downgrade", fault, "--to", "0.13", status=1)
    assert found["error"]["losses"] == ["fault-context"]
    loss = ["--allow-loss", "fault-context"]
    assert printed(run, "downgrade", fault, "--to", "0.13", *loss)["checkpoints"][0]["losses"]
    found = printed(run, "upgrade", copy(BROKEN), status=1)
    assert found["error"]["kind"] == "CorruptError" and found["error"]["missing"]
    assert printed(run, "upgrade", old, "--in-place")["destination"] is None
    assert printed(run, "inspect", old)["migrations"]
    printed(run, "undo", old, "--dry-run")
    printed(run, "undo", old)
    printed(run, "undo", old, status=1)


def test_repair_recover_and_verify(run: Run, tmp_path: Path, copy: Copy) -> None:
    root = copy(BROKEN)
    assert printed(run, "verify", root, status=1)["findings"]
    printed(run, "verify", root, "--all", status=1)
    assert printed(run, "repair", root, "--dry-run")["tracker"] is None
    printed(run, "repair", root, "--in-place")
    (root / "latest_checkpointed_iteration.txt").write_text("7")
    assert printed(run, "verify", root, status=1)["findings"]
    assert printed(run, "repair", root, "--in-place")["tracker"]["before"] == "7"
    assert printed(run, "verify", root)["clean"]
    printed(run, "verify", tmp_path / "nothing", status=1)
    assert printed(run, "recover", root)["recovered"] == {}
    lost = copy(RUN)
    (lost / "iter_0000005" / "common.pt").unlink()
    printed(run, "repair", lost, status=1)


def test_diff_layouts_and_matrix(run: Run, tmp_path: Path) -> None:
    assert printed(run, "diff", SAMPLES / RUN, SAMPLES / RUN)["equal"]
    assert printed(run, "diff", SAMPLES / RUN, SAMPLES / OLD, status=1)["differences"]
    printed(run, "diff", SAMPLES / RUN, tmp_path / "nothing", status=1)
    assert len(printed(run, "layouts")) == 6
    assert len(printed(run, "matrix")) > 400
    assert printed(run, "matrix", "--writer", "0.17", "--reader", "0.11")
    printed(run, "matrix", "--scenario", "none", status=1)


@pytest.mark.costly("a real release loads a checkpoint, as it is and migrated")
def test_the_matrix_opened_and_measured(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = tmp_path / "compat_matrix.yaml"
    shutil.copy(SAMPLES.parent.parent / "compat_matrix.yaml", facts)
    found = printed(run, "matrix-add", "9.9.0", "--facts", facts)
    assert found["release"] == "9.9.0"
    # The release that loads the checkpoints is the one that the other tests share.
    monkeypatch.setattr(jobs, "run", lambda release, _, given, program: run_jobs(release, given))
    found = invoked(
        "matrix-run", "--readers", READERS, "--samples", SAMPLES, "--facts", facts,
        "--reader", "0.16.1", "--writer", "0.18.2", "--scenario", "disabled",
    )  # fmt: skip
    assert found["groups"][0]["cells"]


def test_batches(run: Run, tmp_path: Path, copy: Copy) -> None:
    """Of every verb that takes several, good and bad ones, and what an earlier run did."""
    root, old, broken = copy(RUN), copy(OLD), copy(BROKEN)
    ledger = ("--ledger", tmp_path / "ledger")
    for arguments in (
        ("inspect", root, broken),
        ("check", root, old, "--reader", "0.13"),
        ("check", root, "--all"),
        ("verify", root, broken, "--all"),
        ("upgrade", root, old, broken, tmp_path / "nothing", "--dry-run"),
        ("upgrade", root, old, broken, "-o", "out", *ledger),
        ("upgrade", root, old, broken, "-o", "out", *ledger),
        ("downgrade", broken, "--all", "--to", "pre-rerun", "-o", "one"),
        ("downgrade", old, "--to", "pre-rerun", "--all", "--in-place"),
        ("undo", old, root),
        ("repair", broken, root, "-o", "whole"),
        ("repair", broken, "--all", "--in-place"),
    ):
        report = tmp_path / "r.json"
        result = run(
            *arguments, "--json", *(() if arguments[0] == "inspect" else ("--report", report))
        )
        assert result.returncode in (0, 1), result.stderr
        value = json.loads(result.stdout)
        validator(str(arguments[0])).validate(value)
        assert value["verb"] == arguments[0]
        if arguments[0] != "inspect":
            told = json.loads(report.read_text())
            report.unlink()
            validator("report").validate(told)
            assert [each["path"] for each in told["each"]] == [
                each["path"] for each in value["checkpoints"]
            ]


def test_inspect_of_all_where_one_cannot_be_read(run: Run, copy: Copy) -> None:
    root = copy(BROKEN)
    (root / "iter_0000004" / ".metadata").write_bytes(b"no pickle")
    value = json.loads(run("inspect", root, "--all", "--json").stdout)
    validator("inspect").validate(value)
    assert "error" in value[0]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["upgrade", "--dry-run"], 0),
        (["downgrade", "--to", "0.11.0", "-o", "out"], 0),
        (["downgrade", "--to", "0.16"], 0),
        (["downgrade", "--to", "common-state"], 1),
        (["upgrade", "--in-place"], 0),
        (["check"], 0),
        (["check", "--reader", "0.11"], 1),
        (["verify"], 0),
        (["repair"], 0),
        (["undo"], 1),
    ],
)
def test_reports(run: Run, tmp_path: Path, copy: Copy, arguments: list[str], status: int) -> None:
    verb, *options = arguments
    result = run(verb, copy(RUN), *options, "--report", "r.json")
    assert result.returncode == status, result.stderr
    value = json.loads((tmp_path / "r.json").read_text())
    validator("report").validate(value)
    assert value["verb"] == verb


def test_reports_of_what_is_broken(run: Run, tmp_path: Path, copy: Copy) -> None:
    root = copy(BROKEN)
    for verb, outcome in (("verify", "failed"), ("upgrade", "refused"), ("repair", "done")):
        run(verb, root, "--report", f"{verb}.json")
        value = json.loads((tmp_path / f"{verb}.json").read_text())
        validator("report").validate(value)
        assert value["outcome"] == outcome


def test_a_schema_is_printed(run: Run) -> None:
    assert json.loads(run("schema", "upgrade").stdout) == schemas.schema("upgrade")
    assert json.loads(run("schema", "matrix", "run").stdout) == schemas.schema("matrix-run")
    result = run("schema", "nothing")
    assert result.returncode == 1
    assert "name one of inspect, check" in result.stderr
