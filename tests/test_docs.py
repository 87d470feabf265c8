"""The pages: nothing of the program is missing on them, and they work in a real browser."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path

import click
import module_map
import pytest
from browser import DESKTOP, PHONE, SCHEMES, in_context, started, watched
from cli_reference import commands
from examples import ROOT
from playwright.sync_api import Browser, Page, ViewportSize, expect

import ckptmigrate
from ckptmigrate import versions
from ckptmigrate.cli import cli

DOCS = ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


# -- what is on them


def test_every_command_and_option_is_in_the_reference() -> None:
    shared = page("commands.md").partition("\n## Shared options\n")[2]
    for words, command in commands().items():
        heading = words or "ckptmigrate"
        section = rf"^##+ {heading}\n(.*?)(?=^##|\Z)"
        found = re.search(section, page("commands.md"), re.DOTALL | re.M)
        assert found, f"{heading} is not in docs/commands.md"
        assert command.help
        for parameter in command.params:
            if not isinstance(parameter, click.Option):
                assert (parameter.make_metavar(click.Context(command))) in found[1]
                continue
            assert parameter.help
            for flag in parameter.opts:
                row = rf"^\| .*`{flag}[` ].* \| \S"
                own = re.search(row, found[1], re.M)
                linked = f"`{parameter.opts[-1]}`" in found[1] and re.search(row, shared, re.M)
                assert own or linked, f"{flag}: run `make examples`"


def test_every_verb_is_shown_at_work() -> None:
    shown = set(re.findall(r"^\$ ckptmigrate (\w+)", page("commands.md"), re.M))
    # The matrix has a page of its own.
    assert set(cli.list_commands(click.Context(cli))) - shown == {"matrix"}
    assert "`ckptmigrate matrix`" in page("commands.md")


def test_the_module_map_is_fresh() -> None:
    text = page("architecture.md")
    assert module_map.page(text) == text, "run `make examples`"
    sentences = re.findall(r"^\| `[\w/]+\.py` \| (.*) \|$", text, re.M)
    assert len(sentences) > 100
    assert all(len(sentence) > 15 and sentence.endswith(".") for sentence in sentences)


def test_every_layout_and_loss_is_explained() -> None:
    for layout in versions.LAYOUTS:
        assert f"| `{layout.ID}` |" in page("concepts.md")
        assert f"\n### {layout.ID}\n" in page("format.md")
    for name in ckptmigrate.LOSSES:
        assert f"| `{name}` |" in page("data-loss.md")
        assert f"- **{name}**: " in page("data-loss.md")


def test_every_name_of_the_library_is_in_its_reference() -> None:
    text = page("library.md")
    classes = re.findall(r"^class (\w+)", (ROOT / "ckptmigrate" / "errors.py").read_text(), re.M)
    for name in ckptmigrate.__all__:
        shown = re.search(rf"^::: ckptmigrate\.(\w+\.)*{name}$", text, re.M)
        assert shown or name in (*classes, "LOSSES", "__version__"), name


def test_statements_of_the_format_have_sources_that_exist() -> None:
    samples = re.findall(r"\b\d+\.\d+\.[\w]+-[a-z]+-\w+", page("format.md"))
    assert len(samples) > 20
    for sample in samples:
        assert (ROOT / "tests" / "samples" / sample).is_dir(), sample
    for file in re.findall(r"ckptmigrate/[\w/]+\.py", page("format.md")):
        assert (ROOT / file).is_file(), file


def test_links_of_the_repository_lead_to_files() -> None:
    for path in (*ROOT.glob("*.md"), *DOCS.glob("*.md")):
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists() or link == "compatibility.html", (path, link)


# -- in a browser


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def site(built: Path) -> Iterator[str]:
    """Their address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(built)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as running:
        yield running


NAMES = sorted(path.stem for path in DOCS.glob("*.md"))


@pytest.mark.costly("it builds all pages, for the other tests, too")
@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        pytest.param(["concepts"], [PHONE], id="one"),
        pytest.param(NAMES, [DESKTOP, PHONE], id="all", marks=pytest.mark.full),
    ],
)
def test_pages_need_no_network_and_fit(
    names: list[str], sizes: list[ViewportSize], site: str, browser: Browser
) -> None:
    for scheme in SCHEMES:
        with in_context(browser, color_scheme=scheme) as at:  # a page keeps its first scheme
            for name, size in product(names, sizes):
                at.set_viewport_size(size)
                with watched(at, f"{site}/{name}.html", within=site):
                    wide = at.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                    assert wide <= 0, (name, size, wide)
                    assert contrast(at) >= 4.5, (name, scheme)
                    applied = at.locator("body").get_attribute("data-md-color-scheme")
                    assert applied == {"light": "default", "dark": "slate"}[scheme], name


def contrast(at: Page) -> float:
    """Of the text of a page against its ground, by WCAG."""
    colours = at.evaluate(
        "[getComputedStyle(document.querySelector('article p')).color,"
        " getComputedStyle(document.body).backgroundColor]"
    )
    text, ground = ([float(n) for n in re.findall(r"[\d.]+", each)] for each in colours)
    alpha = text[3] if len(text) == 4 else 1.0
    seen = [alpha * t + (1 - alpha) * g for t, g in zip(text[:3], ground[:3], strict=True)]
    light, dark = sorted((luminance(seen), luminance(ground[:3])), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: list[float]) -> float:
    parts = [c / 255 for c in colour]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.full
def test_search_finds_a_recipe_by_its_error(site: str, browser: Browser) -> None:
    with in_context(browser, viewport=DESKTOP) as at:
        for words in (
            "iterdir",
            "AttributeError: 'str' object has no attribute 'iterdir'",
            "Missing key in checkpoint state_dict: rerun_state_machine_state/shard_0.0_1.1.",
            "Missing keys (for all ranks): {'rerun_state_machine_state'}",
            "Can't get attribute 'MCoreMetadata'",
            "Unknown sharding_type: dp_reshardable",
        ):
            at.goto(f"{site}/index.html")
            box = at.get_by_role("textbox", name="Search")
            box.click()
            expect(at.locator(".md-search-result__meta")).to_have_text("Type to start searching")
            box.fill(words[:-1])
            box.press_sequentially(words[-1])
            first = at.locator(".md-search-result__link").first
            expect(first).to_have_attribute("href", re.compile(r"recipes\.html"))


@pytest.mark.full
@pytest.mark.parametrize("scheme", SCHEMES)
def test_pictures_are_in_the_colours_of_the_page(scheme: str, site: str, browser: Browser) -> None:
    with in_context(browser, viewport=DESKTOP, color_scheme=scheme) as at:
        for name in ("concepts", "architecture"):
            at.goto(f"{site}/{name}.html")
            pictures = at.locator("svg.picture")
            assert pictures.count() >= 1
            for picture in pictures.all():
                same = picture.evaluate(
                    "svg => getComputedStyle(svg).color ==="
                    " getComputedStyle(document.querySelector('article')).color"
                )
                assert same
                # No text leaves the picture.
                out = picture.evaluate(
                    "svg => [...svg.querySelectorAll('text')].filter(text => {"
                    " const t = text.getBoundingClientRect(), s = svg.getBoundingClientRect();"
                    " return t.left < s.left || t.right > s.right || t.bottom > s.bottom; })"
                    ".map(text => text.textContent)"
                )
                assert out == []


def test_pages_of_the_repository_are_there(built: Path) -> None:
    for name, text in (
        ("security", "Nothing is executed or imported."),
        ("contributing", "Requirements for a change"),
        ("changelog", "unreleased"),
        ("benchmarks", "Medians of whole processes"),
    ):
        page = (built / f"{name}.html").read_text(encoding="utf-8")
        [article] = re.findall(r"<article.*?</article>", page, re.DOTALL)
        assert text in " ".join(html.unescape(re.sub(r"<[^>]*>", "", article)).split())
