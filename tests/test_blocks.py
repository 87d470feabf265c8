"""The generated blocks of the pages are fresh, and their figures are of runs that passed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import blocks
import pytest
from blocks import ROOT

sys.path.insert(0, str(Path(__file__).parent / "faults"))


@pytest.mark.parametrize("name", blocks.PAGES)
def test_the_blocks_of_a_page_are_fresh(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text.count("<!-- generated: ") == text.count("<!-- /generated -->")
    assert blocks.filled(text) == text, "run `make examples`"


def test_every_block_is_on_a_page() -> None:
    pages = "".join((ROOT / name).read_text(encoding="utf-8") for name in blocks.PAGES)
    assert set(re.findall(r"<!-- generated: (\w+)", pages)) == blocks.BLOCKS.keys()


def test_a_changed_block_is_found() -> None:
    text = "a\n<!-- generated: releases -->\n| 0.1 | 0.2 |\n<!-- /generated -->\nb\n"
    again = blocks.filled(text)
    assert "| 0.1 | 0.2 |" not in again
    assert (again[:2], again[-2:]) == ("a\n", "b\n")
    assert blocks.filled(again) == again


def test_the_releases_of_the_table() -> None:
    """Hand-written, from the rows of the matrix."""
    rows = blocks.releases("").splitlines()
    assert "| 0.9 | 0.9, 0.12 to 0.20 |" in rows
    assert "| 0.18 | 0.18 to 0.20 |" in rows


def test_the_index_links_duplicate_headings_as_the_pages_do() -> None:
    page = "# T\n\n## Of a: `E: x`\n\n## `y`\n\n## Of a: `E: x`\n\n## No error\n"
    assert blocks.errors(page).splitlines()[2:] == [
        "| [Of a](#of-a-e-x) | `E: x` |",
        "| [Of a](#of-a-e-x_1) | `E: x` |",
        "| [fix](#y) | `y` |",
    ]


def test_the_figures_are_of_scenarios_that_exist() -> None:
    from figures import stated
    from scenarios import SCENARIOS

    names = {scenario.name for scenario in SCENARIOS}
    for suite, found in stated().items():
        assert found.keys() <= names, suite
