"""Reports: what they tell, where they go, and that a checkpoint's strings stay text in them."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch_side
from browser import CONTRASTS, PHONE, SCHEMES, in_context, opened, started, watched
from conftest import SAMPLES, Run, checkpoint_of, refused, tree_hash
from markdown_it import MarkdownIt
from playwright.sync_api import Browser, ViewportSize, expect

import ckptmigrate
from ckptmigrate.report import output_file
from ckptmigrate.report.document import CommandOutcome, Document, Report
from ckptmigrate.storage.urls import place as place_of
from ckptmigrate.verbs.migrate import MigrationRequest, prepare
from ckptmigrate.writing.store_publisher import StorePublisher

RUN, FAULT, BROKEN = "0.17.1-idle-w1", "0.17.1-fault-tp2pp2", "0.17.1-corrupt-tp2"
Copy = Callable[[str], Path]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def report_of(run: Run, tmp_path: Path, *arguments: object, status: int = 0) -> dict[str, Any]:
    """The report in JSON of a run that ends with that status."""
    file = tmp_path / "report.json"
    result = run(*arguments, "--report", file)
    assert result.returncode == status, (result.stdout, result.stderr)
    found = json.loads(file.read_text())
    file.unlink()
    assert isinstance(found, dict)
    assert found["version"] == ckptmigrate.__version__
    return found


# -- what is told


def test_a_migration_tells_digests_that_are_true_and_how_to_undo_it(
    run: Run, tmp_path: Path, copy: Copy
) -> None:
    root = copy(RUN)
    before = tree_hash(root)
    told = report_of(run, tmp_path, "downgrade", root, "--to", "0.11.0", "-o", "out")
    assert (told["verb"], told["outcome"], told["paths"]) == ("downgrade", "done", [str(root)])
    [found], [change] = told["found"], told["changes"]
    assert found["path"] == change["path"] == str(checkpoint_of(root))
    assert found["facts"]["layout"] == ["none-emitting (0.14 to 0.17)"]
    assert found["facts"]["iteration"] == ["5"]
    assert "+ entry rerun_state_machine_state/shard_0.0_1.1" in change["differences"]
    made = checkpoint_of(tmp_path / "out")
    assert change["result"] == str(made)
    names = {file["name"] for file in change["files"]}
    assert names == {".metadata", "__0_1.distcp", "ckptmigrate.json"}
    for file in change["files"]:
        source = checkpoint_of(root) / file["name"]
        assert file["before"] == (sha256(source) if source.exists() else None)
        assert file["after"] == sha256(made / file["name"])
        assert file["bytes"] == (made / file["name"]).stat().st_size
    assert {"purpose": "undo", "command": f"rm -r {tmp_path / 'out'}"} in told["steps"]
    assert tree_hash(root) == before


def test_in_place_and_its_undo_tell_what_was_there_before(
    run: Run, tmp_path: Path, copy: Copy
) -> None:
    root = copy("0.12.3-idle-w1")
    small = {p.name: sha256(p) for p in checkpoint_of(root).iterdir() if p.suffix != ".distcp"}
    there = report_of(run, tmp_path, "upgrade", root, "--in-place")
    assert there["found"][0]["facts"]["layout"] == ["split-rerun (0.12 to 0.13)"]
    [undo] = [step["command"] for step in there["steps"] if step["purpose"] == "undo"]
    assert undo == f"ckptmigrate undo {checkpoint_of(root)}"
    back = report_of(run, tmp_path, "undo", root)
    assert back["found"][0]["facts"]["layout"] == ["common-state (0.19 and later)"]
    ways = [{f["name"]: f for f in each["changes"][0]["files"]} for each in (there, back)]
    assert ways[0].keys() == ways[1].keys() >= {".metadata", "common.pt", "ckptmigrate.json"}
    for name, file in ways[0].items():
        assert file["before"] == small.get(name)
        assert (file["before"], file["after"]) == (ways[1][name]["after"], ways[1][name]["before"])


def test_a_dry_run_and_a_run_without_work_say_so(run: Run, tmp_path: Path, copy: Copy) -> None:
    root = copy(RUN)
    told = report_of(run, tmp_path, "downgrade", root, "--to", "0.11.0", "--dry-run")
    assert told["outcome"] == "planned"
    assert len(told["changes"][0]["files"]) == 3
    assert not (tmp_path / f"{RUN}.0.11.0").exists()
    told = report_of(run, tmp_path, "downgrade", root, "--to", "0.16")
    assert (told["outcome"], told["steps"]) == ("unchanged", [])


def test_losses_have_their_meaning(run: Run, tmp_path: Path, copy: Copy) -> None:
    told = report_of(
        run, tmp_path, "downgrade", copy(FAULT), "--to", "0.13", "--allow-loss", "fault-context"
    )
    [loss] = told["changes"][0]["losses"]
    assert loss == {"name": "fault-context", "meaning": ckptmigrate.LOSSES["fault-context"].meaning}


def test_a_refusal_is_reported_with_its_fix(run: Run, tmp_path: Path, copy: Copy) -> None:
    root = copy(FAULT)
    file = tmp_path / "refused.json"
    result = run("downgrade", root, "--to", "split-rerun", "--report", file)
    refused(result, "--allow-loss fault-context")
    told = json.loads(file.read_text())
    assert (told["outcome"], told["changes"]) == ("refused", [])
    assert told["refusal"]["kind"] == "RefusedError"
    assert told["refusal"]["path"] == str(checkpoint_of(root))
    assert told["refusal"]["fix"] in result.stderr


def test_a_migration_that_cannot_be_written_is_reported_as_refused(
    run: Run, tmp_path: Path, copy: Copy
) -> None:
    root = copy(RUN)
    told = report_of(
        run, tmp_path, "downgrade", root, "--to", "0.11.0", "-o", tmp_path / "no" / "such" / "out",
        status=1,
    )  # fmt: skip
    assert (told["outcome"], told["changes"], told["steps"]) == ("refused", [], [])
    assert told["refusal"]["kind"] == "DestinationError"


@pytest.mark.parametrize(("reader", "status"), [("0.13.1", 0), ("0.11.0", 1), (None, 0)])
def test_check(run: Run, tmp_path: Path, copy: Copy, reader: str | None, status: int) -> None:
    root = copy(RUN)
    options = ["--reader", reader] if reader else []
    told = report_of(run, tmp_path, "check", root, *options, status=status)
    stated = json.loads(run("check", root, *options, "--json").stdout)
    rows = [stated] if reader else stated
    assert told["outcome"] == ("failed" if status else "passed")
    assert [(p["release"], p["resumes"]) for p in told["predictions"]] == [
        (row["release"], row["resumes"]) for row in rows
    ]
    assert [[r["error"] for r in p["obstacles"]] for p in told["predictions"]] == [
        [obstacle["error"] for obstacle in row["obstacles"]] for row in rows
    ]
    fixes = [step["command"] for step in told["steps"] if step["purpose"] == "fix"]
    assert fixes == ([stated["fix"]["command"]] if reader == "0.11.0" else [])


def test_verify_and_repair(run: Run, tmp_path: Path, copy: Copy) -> None:
    root = copy(BROKEN)
    told = report_of(run, tmp_path, "verify", root, status=1)
    [problem] = told["problems"]
    assert (problem["severity"], problem["code"]) == ("error", "rerun-shards-missing")
    assert len(problem["items"]) == 2
    told = report_of(run, tmp_path, "repair", root, "--in-place")
    assert told["outcome"] == "done"
    assert {file["name"] for file in told["changes"][0]["files"]} >= {"common.pt"}
    assert report_of(run, tmp_path, "verify", root)["outcome"] == "passed"
    (root / "latest_checkpointed_iteration.txt").write_text("7")
    told = report_of(run, tmp_path, "repair", root, "--in-place")
    [file] = told["changes"][-1]["files"]
    assert file["name"] == "latest_checkpointed_iteration.txt"
    assert file["before"] == hashlib.sha256(b"7").hexdigest()
    assert file["after"] == sha256(root / file["name"])
    assert len([step for step in told["steps"] if step["purpose"] == "undo"]) == 1


@pytest.mark.parametrize(("destination", "use"), [("memory://b/x", False), ("msc://b/x", True)])
def test_only_a_place_that_jobs_read_is_told_to_be_used(
    destination: str, use: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, to = place_of(str(SAMPLES / RUN)), place_of(destination)
    # What is planned is planned without a look at the store.
    monkeypatch.setattr(StorePublisher, "check_free", lambda *_: None)
    monkeypatch.setattr(StorePublisher, "leftovers", lambda _: [])
    planned = prepare(path, MigrationRequest("0.11", output=to))
    told = replace(planned, done=True).document()
    used = [step.command for step in told.steps if step.purpose == "use"]
    assert used == ([f"--load {destination}"] if use else [])


# -- of many


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A root of three iterations, of which the second is broken."""
    for number in (1, 2, 3):
        there = tmp_path / "run" / f"iter_{number:07d}"
        shutil.copytree(checkpoint_of(SAMPLES / "0.19.0-idle-tp2"), there)
    (tmp_path / "run" / "iter_0000002" / ".metadata").write_bytes(b"no pickle")
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("3")
    return tmp_path / "run"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_batch_has_one_report_of_all(jobs: int, run: Run, tmp_path: Path, many: Path) -> None:
    before = tree_hash(many)
    words = ("downgrade", many, "--to", "pre-rerun", "--all", "-o", "out", "--ledger", "ledger")
    told = report_of(run, tmp_path, *words, "--jobs", jobs, status=1)
    assert (told["outcome"], told["paths"]) == ("incomplete", [str(many)])
    assert [each["status"] for each in told["each"]] == ["done", "failed", "done"]
    refusal = told["each"][1]["refusal"]
    assert refusal["path"] == str(many / "iter_0000002" / ".metadata")
    assert "ckptmigrate verify" in refusal["fix"]
    assert [each["path"] for each in told["found"]] == [
        str(many / f"iter_000000{n}") for n in (1, 3)
    ]
    for change in told["changes"]:
        source, made = Path(change["path"]), Path(change["result"])
        assert made == tmp_path / "out" / source.name
        assert {file["name"] for file in change["files"]} >= {".metadata", "common.pt"}
        for file in change["files"]:
            there = source / file["name"]
            assert file["before"] == (sha256(there) if there.exists() else None)
            assert file["after"] == sha256(made / file["name"])
    assert tree_hash(many) == before
    steps = {step["purpose"]: step["command"] for step in told["steps"]}
    assert steps["undo"] == f"rm -r {tmp_path / 'out'}"
    assert "--report" not in steps["resume"]
    # What goes on has a report of its own, in which what is done has a line.
    shutil.copy(many / "iter_0000001" / ".metadata", many / "iter_0000002" / ".metadata")
    told = report_of(run, tmp_path, *shlex.split(steps["resume"])[1:])
    assert told["outcome"] == "done"
    assert [each["status"] for each in told["each"]] == ["skipped", "done", "skipped"]
    assert len(told["changes"]) == 1


def test_a_batch_of_links_tells_what_they_mean(run: Run, tmp_path: Path, copy: Copy) -> None:
    words = ("--to", "0.11", "-o", "out", "--link", "symlink")
    told = report_of(run, tmp_path, "downgrade", copy(RUN), copy("0.18.2-idle-tp2"), *words)
    warning = "data files are links to the source, which must stay there."
    assert (told["outcome"], told["warnings"]) == ("done", [warning])


def test_a_batch_in_place_tells_what_was_there_before(run: Run, tmp_path: Path, many: Path) -> None:
    digests = {n: sha256(many / f"iter_000000{n}" / ".metadata") for n in (1, 3)}
    told = report_of(
        run, tmp_path, "downgrade", many, "--to", "pre-rerun", "--all", "--in-place", status=1
    )
    for number, change in zip((1, 3), told["changes"], strict=True):
        [file] = [file for file in change["files"] if file["name"] == ".metadata"]
        assert file["before"] == digests[number]
        assert file["after"] == sha256(many / f"iter_000000{number}" / ".metadata")
    [undo] = [step["command"] for step in told["steps"] if step["purpose"] == "undo"]
    assert run(*shlex.split(undo)[1:]).returncode == 0
    assert all(
        sha256(many / f"iter_000000{n}" / ".metadata") == digest for n, digest in digests.items()
    )


def test_a_batch_that_looks(run: Run, tmp_path: Path, many: Path, copy: Copy) -> None:
    told = report_of(run, tmp_path, "check", many, "--all", "--reader", "0.13", status=1)
    assert told["outcome"] == "failed"
    assert [p["path"] for p in told["predictions"]] == [
        str(many / f"iter_000000{n}") for n in (1, 3)
    ]
    [fix] = told["each"][0]["steps"]
    assert fix["purpose"] == "fix"
    assert run(*shlex.split(fix["command"])[1:]).returncode == 0
    told = report_of(run, tmp_path, "verify", many, copy(BROKEN), "-j", 2, status=1)
    assert told["outcome"] == "failed"
    assert {problem["code"] for problem in told["problems"]} == {"rerun-shards-missing"}


def test_a_batch_that_is_stopped_is_reported(tmp_path: Path, many: Path) -> None:
    for number in range(4, 40):
        shutil.copytree(many / "iter_0000001", many / f"iter_{number:07d}")
    words = ["downgrade", many, "--to", "pre-rerun", "--all", "-o", "out", "--report", "r.json"]
    running = subprocess.Popen(
        [sys.executable, "-m", "ckptmigrate", *words], cwd=tmp_path,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (tmp_path / "out" / "iter_0000003").exists():
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 130
    told = json.loads((tmp_path / "r.json").read_text())
    assert told["outcome"] == "incomplete"
    assert {each["status"] for each in told["each"]} == {"done", "failed", "not started"}
    assert "resume" in {step["purpose"] for step in told["steps"]}


def test_a_report_of_many_is_within_none_of_them(run: Run, many: Path, copy: Copy) -> None:
    other = copy(RUN)
    before = tree_hash(other)
    result = run("verify", many, other, "--report", other / "r.md")
    refused(result, "where a report cannot be", "--report")
    assert tree_hash(other) == before


def test_json_on_stdout_stays_as_it_is(run: Run, tmp_path: Path) -> None:
    plain = run("verify", SAMPLES / RUN, "--json")
    result = run("verify", SAMPLES / RUN, "--json", "--report", "r.md")
    assert (result.stdout, result.stderr) == (plain.stdout, plain.stderr)
    assert (tmp_path / "r.md").exists()


# -- where it goes


def test_a_report_is_never_within_what_it_reports_on(run: Run, tmp_path: Path, copy: Copy) -> None:
    root = copy(RUN)
    (tmp_path / "link").symlink_to(root)
    before = tree_hash(root)
    places = (root / "r.md", checkpoint_of(root) / "r.md", tmp_path / "link" / "r.md",
              tmp_path / "x" / ".." / RUN / "r.md")  # fmt: skip
    (tmp_path / "x").mkdir()
    for place in places:
        for verb in (["downgrade", "--to", "0.11.0", "--in-place"], ["verify"]):
            refused(run(*verb, root, "--report", place), "where a report cannot be", "--report")
    refused(run("verify", tmp_path / "link", "--report", root / "r.md"), "where a report cannot be")
    assert tree_hash(root) == before


def test_nothing_is_overwritten_and_nothing_done_without_a_place(
    run: Run, tmp_path: Path, copy: Copy
) -> None:
    root = copy(RUN)
    before = tree_hash(root)
    (tmp_path / "there.html").write_text("mine")
    (tmp_path / "dangling.md").symlink_to(tmp_path / "nowhere")
    for name, word in (
        ("there.html", "exists already"),
        ("dangling.md", "exists already"),
        ("no/such/r.md", "mkdir -p"),
        (f"{'n' * 300}.md", "is too long for its file system"),
    ):
        refused(run("upgrade", root, "--in-place", "--report", name), word)
    assert (tmp_path / "there.html").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()
    assert tree_hash(root) == before


@pytest.mark.parametrize("name", ["r.txt", "r", "r.html.gz", ".html"])
def test_an_unknown_ending_is_a_mistake_of_usage(run: Run, tmp_path: Path, name: str) -> None:
    result = run("verify", SAMPLES / RUN, "--report", name)
    assert result.returncode == 2
    assert ".html, .md, .json" in result.stderr
    assert not (tmp_path / name).exists()


def test_a_reader_of_the_output_that_goes_away_takes_no_report_along(
    tmp_path: Path, copy: Copy
) -> None:
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-m", "ckptmigrate", "upgrade", copy(RUN), "--report", "r.json"],
        cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    os.close(write)
    assert result.stderr == b""
    assert json.loads((tmp_path / "r.json").read_text())["outcome"] == "done"
    assert (tmp_path / f"{RUN}.common-state").is_dir()


@pytest.mark.parametrize("file", ["file/r.json", f"{'n' * 300}.json"])
def test_a_report_whose_place_is_gone_meanwhile(file: str, tmp_path: Path) -> None:
    """What is there of it cannot be removed, either."""
    (tmp_path / "file").touch()
    document = Document(CommandOutcome.PASSED, "No problems.")
    report = Report("verify", (str(SAMPLES / RUN),), "1", "2026-01-01T00:00:00Z", document)
    with pytest.raises(ckptmigrate.DestinationError, match="cannot be written"):
        output_file.write(report, tmp_path / file)


def test_a_report_that_cannot_be_written_leaves_the_answer(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ckptmigrate", "verify", SAMPLES / RUN, "--report", "r.html"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )  # fmt: skip
    refused(result, "r.html: cannot be written (File too large)")
    assert ": no problems found" in result.stdout
    assert not (tmp_path / "r.html").exists()


# -- hostile text

HOSTILE = (
    "</code><script>document.title = 'taken'</script>|`` ```` |<img src=x onerror=alert(1)> "
    "**b** [l](http://x.invalid) www.x.invalid \x1b[31m\r\n# h\n```\u202e &amp; {{path}}"
)


@pytest.fixture
def hostile(copy: Copy) -> Path:
    """A checkpoint in a directory of that name, with such keys, values and files, too."""
    root = copy(RUN)
    root = root.rename(root.with_name(HOSTILE.replace("/", "\u2215")))
    torch_side.edit_common(root, lambda state: state.update({HOSTILE: 1, "x": {HOSTILE: HOSTILE}}))
    beside = "a|b`<script>.distcp"
    (checkpoint_of(root) / beside).write_bytes(b"x")
    metadata = json.loads((checkpoint_of(root) / "metadata.json").read_text())
    (checkpoint_of(root) / "metadata.json").write_text(json.dumps({**metadata, HOSTILE: HOSTILE}))
    return root


def commands(root: Path) -> list[list[object]]:
    return [
        ["upgrade", root, "--dry-run"],
        ["check", root],
        ["verify", root],
        ["downgrade", root, "--to", "split-rerun", "-o", root / "within"],
        ["check", root, root.with_name("nothing"), "--reader", "0.11"],
    ]


def test_markdown_takes_nothing_for_markup(run: Run, tmp_path: Path, hostile: Path) -> None:
    for number, words in enumerate(commands(hostile)):
        run(*words, "--report", f"{number}.md")
        has_no_markup((tmp_path / f"{number}.md").read_text())


def has_no_markup(text: str) -> None:
    assert all(line.isprintable() for line in text.split("\n"))
    # HTML on: what a renderer would let through must not be there as such.
    rendered = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = rendered.parse(text)
    inside = [child for token in tokens for child in token.children or []]
    kinds = {token.type for token in (*tokens, *inside)}
    assert not kinds & {"html_block", "image", "link_open", "em_open", "s_open"}
    assert {t.content for t in inside if t.type == "html_inline"} <= {"<br>", "<!-- -->"}
    rows = [t for t in tokens if t.type in ("tr_open", "td_open", "th_open")]
    widths: list[int] = []
    for token in rows:
        if token.type == "tr_open":
            widths.append(0)
        else:
            widths[-1] += 1
    assert set(widths) <= {2, 4}
    assert "taken" in "".join(token.content for token in (*tokens, *inside))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as running:
        yield running


def test_html_shows_hostile_text_literally(
    run: Run, tmp_path: Path, hostile: Path, browser: Browser
) -> None:
    with in_context(browser) as page:
        for number, words in enumerate(commands(hostile)):
            file = tmp_path / f"{number}.html"
            run(*words, "--report", file)
            with watched(page, file.as_uri()):
                assert page.title().startswith(f"ckptmigrate {words[0]}: ")
                assert page.locator("script, img, b, a, link, iframe, [onerror]").count() == 0
                text = page.locator("body").inner_text()
            assert "{{" not in text.replace("{{path}}", "")
            assert "\x1b" not in text and "\u202e" not in text
            assert "<script>document.title = 'taken'<\u2215script>" in text
            if number == 1:  # an error of a job names a key of metadata.json
                assert "keyword argument '</code><script>document.title = 'taken'</script>" in text


# -- the page


@pytest.fixture
def pages(run: Run, tmp_path: Path, copy: Copy) -> list[str]:
    root, fault, broken = copy(RUN), copy(FAULT), copy(BROKEN)
    made = []
    for number, arguments in enumerate(
        (
            ["downgrade", root, "--to", "0.11.0", "--dry-run"],
            ["upgrade", root, "--in-place"],
            ["check", fault],
            ["verify", broken],
            ["downgrade", fault, "--to", "split-rerun"],
            ["check", root, fault, broken, "--reader", "0.13"],
        )
    ):
        run(*arguments, "--report", f"{number}.html")
        made.append((tmp_path / f"{number}.html").as_uri())
    return made


@pytest.mark.full
def test_every_text_can_be_read_everywhere(browser: Browser, pages: list[str]) -> None:
    grounds = set()
    sizes: tuple[ViewportSize, ...] = (
        PHONE,
        {"width": 700, "height": 800},
        {"width": 1400, "height": 900},
    )
    with in_context(browser) as page:
        for url, scheme, size in product(pages, SCHEMES, sizes):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size(size)
            with watched(page, url):
                contrasts = page.evaluate(CONTRASTS)
                assert contrasts[0][1] >= 4.5, (url, scheme, contrasts[0])
                width = page.evaluate("document.documentElement.scrollWidth")
                assert width == size["width"], url
                beyond = page.evaluate(
                    """(width) => [...document.querySelectorAll('main *')].filter((each) =>
                        each.getBoundingClientRect().right > width).length""",
                    width,
                )
                assert beyond == 0, (url, size)
                grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


@pytest.mark.full
def test_it_is_a_page_with_headings_tables_and_nothing_to_run(
    browser: Browser, pages: list[str]
) -> None:
    with opened(browser, pages[1]) as page:
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        headings = page.get_by_role("heading", level=2).all_inner_texts()
        assert headings[:2] == ["Facts", "Changes"]
        for name in headings:
            expect(page.get_by_role("region", name=name)).to_have_count(1)
        heads = page.get_by_role("columnheader").all_inner_texts()
        assert heads == ["file", "size after", "SHA-256 before", "SHA-256 after"]
        expect(page.get_by_role("rowheader", name=".metadata")).to_be_visible()
        assert page.locator("html").get_attribute("lang") == "en"
        policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
        assert policy is not None and policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "script-src" not in policy
        lines = page.locator(".diff").inner_text().rstrip("\n").split("\n")
        assert lines and all(line[:2] in ("+ ", "- ", "~ ") for line in lines)
    with opened(browser, pages[1], viewport=PHONE) as page:
        expect(page.get_by_role("rowheader", name=".metadata")).to_be_visible()


@pytest.mark.full
def test_it_prints_dark_on_white(browser: Browser, pages: list[str]) -> None:
    with opened(browser, pages[1], color_scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        colors = page.evaluate(
            "() => [getComputedStyle(document.body).backgroundColor, "
            "getComputedStyle(document.body).color]"
        )
        assert colors == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
        assert page.evaluate(CONTRASTS)[0][1] >= 4.5
        assert page.pdf()[:5] == b"%PDF-"
