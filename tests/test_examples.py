"""Every console example of the README and of docs/ is run, and prints what stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from examples import (
    PAGES,
    ROOT,
    Page,
    commands,
    copy_samples,
    refreshed,
    run,
    without_warnings,
)

SCENARIOS = [
    pytest.param(text, page, id=f"{page.path}-{number}")
    for page in PAGES
    for number, text in enumerate(page.scenarios())
    if commands(text)
]


@pytest.mark.parametrize(("text", "page"), SCENARIOS)
def test_the_page_says_what_the_commands_print(text: str, page: Page, tmp_path: Path) -> None:
    found = commands(refreshed(text, tmp_path, copy=page.copy, shell=page.shell, short=page.short))
    stated = commands(text)
    assert [command for command, _ in found] == [command for command, _ in stated]
    for (command, printed), (_, output) in zip(found, stated, strict=True):
        assert without_warnings(printed) == without_warnings(output), command


def test_every_page_with_examples_is_run() -> None:
    with_examples = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))
        if "```console" in path.read_text(encoding="utf-8")
    }
    assert with_examples <= {page.path for page in PAGES}


def test_an_example_that_does_not_print_what_stands_there_is_found(tmp_path: Path) -> None:
    stated = "`run` is `0.9.0-idle-w1`\n\n```console\n$ ckptmigrate recover run\nall is well\n```\n"
    assert commands(stated) == [("ckptmigrate recover run", "all is well\n")]
    printed = "/checkpoints/run: nothing to recover\n"
    assert commands(refreshed(stated, tmp_path)) == [("ckptmigrate recover run", printed)]


def test_library_example(tmp_path: Path) -> None:
    page = Page("docs/library.md").text
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    copy_samples(page, tmp_path)
    (tmp_path / "example.py").write_text(code)
    lines = run("python example.py", tmp_path).splitlines()
    assert lines[0].startswith("RuntimeError: Missing key in checkpoint state_dict: rerun_state")
    assert lines[0].endswith("--to 0.11.0")
    assert lines[1:] == ["True"]
    assert (tmp_path / "run-for-0.11" / "iter_0000005" / "common.pt").exists()
