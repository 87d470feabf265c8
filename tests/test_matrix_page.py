"""The page of the matrix, in a real browser: what it shows, by mouse, by key and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CONTRASTS, PHONE, SCHEMES, chromium, in_context, opened, started, watched
from conftest import Run
from playwright.sync_api import Browser, Locator, Page, expect

from ckptmigrate.compat.cells import (
    CellRow,
    FailureRow,
    GroupRow,
    KnowledgeRow,
    Matrix,
    ScenarioRow,
    grade,
    matrix,
)
from ckptmigrate.compat.page import page

SYMBOLS = {"ok": "✓", "partial": "~", "fails": "✗"}
CELL = "#idle/raw/0.17.1/0.11.0"
ERROR = (
    "RuntimeError: Missing key in checkpoint state_dict: rerun_state_machine_state/shard_0.0_1.1."
)
REASON = "the release requests rerun shards that the checkpoint does not have"
COMMAND = "ckptmigrate downgrade PATH --to 0.11.0"


@pytest.fixture(scope="module")
def found() -> Matrix:
    return matrix()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as running:
        yield running


@pytest.fixture(scope="module")
def url(found: Matrix, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("page") / "matrix.html"
    file.write_text(page(found), encoding="utf-8")
    return file.as_uri()


@pytest.fixture(scope="module")
def shared(browser: Browser) -> Iterator[Page]:
    """A page for what needs no context of its own."""
    with in_context(browser) as shared:
        yield shared


@pytest.fixture
def at(shared: Page, url: str) -> Iterator[Page]:
    with watched(shared, url) as at:
        yield at


def cell(at: Page, writer: str, reader: str) -> Locator:
    return at.locator(
        f"section:not([hidden]) button[data-writer='{writer}'][data-reader='{reader}']"
    )


def tab(at: Page, scenario: str) -> Locator:
    return at.get_by_role("tab", name=scenario, exact=True)


def view(at: Page, name: str) -> Locator:
    return at.get_by_role("radio", name=name, exact=True)


def focused(at: Page) -> tuple[str, str]:
    data = at.evaluate("({ ...document.activeElement.dataset })")
    return data.get("writer", ""), data.get("reader", "")


# -- the tables


@pytest.mark.parametrize("mode", ["raw", "migrated"])
def test_every_cell_is_there_with_its_symbol(
    shared: Page, url: str, found: Matrix, mode: str
) -> None:
    with watched(shared, f"{url}#idle/{mode}") as at:
        shown = at.evaluate(
            """() => [...document.querySelectorAll('[role=tab]')].flatMap((tab) =>
                [...document.getElementById(tab.getAttribute('aria-controls'))
                    .querySelectorAll('td button')].map((button) => [
                        [button.dataset.writer, button.dataset.reader, tab.dataset.scenario],
                        button.textContent, [...button.classList], button.ariaLabel]))"""
        )
    assert len(shown) == len(found.cells) > 400
    assert {tuple(key) for key, *_ in shown} == set(found.cells)
    for (writer, reader, scenario), text, classes, label in shown:
        of = found.cells[writer, reader, scenario]
        outcome, known = getattr(of, mode), getattr(of, f"{mode}_known")
        assert text == SYMBOLS[grade(outcome)]
        assert grade(outcome) in classes
        assert known.partition(" ")[0].rstrip(":") in classes  # measured or derived
        assert label.startswith(f"{writer} read by {reader}")
        assert (", migrated" in label) == (mode == "migrated")
        assert found.meaning(outcome) in label


def test_a_table_has_heads_and_the_summary_of_its_scenario(at: Page, found: Matrix) -> None:
    tab(at, "fault").click()
    panel = at.get_by_role("tabpanel")
    expect(panel).to_have_count(1)
    columns = panel.locator("thead tr:last-child th[scope=col]").all_inner_texts()
    assert columns[1:] == [".".join(each.split(".")[:2]) for each in found.readers]
    rows = panel.locator("tbody th[scope=row]").all_inner_texts()
    assert rows == list(found.writers("fault"))
    cells = [of for key, of in found.cells.items() if key[2] == "fault"]
    raw, migrated = (
        sum(outcome.startswith("ok") for outcome in outcomes)
        for outcomes in ([of.raw for of in cells], [of.migrated for of in cells])
    )
    expect(panel.locator(".count")).to_have_text(
        f"{raw} of {len(cells)} combinations resume unmigrated, {migrated} migrated"
    )


# -- a cell


def test_a_click_shows_error_reason_and_command(at: Page) -> None:
    button = cell(at, "0.17.1", "0.11.0")
    expect(button).to_have_attribute(
        "aria-label", f"0.17.1 read by 0.11.0: does not resume: {REASON} (measured)"
    )
    button.click()
    details = at.locator("#details")
    expect(details).to_have_attribute("aria-live", "polite")
    expect(details.locator("h2")).to_have_text("0.17.1 → 0.11.0")
    expect(details.locator(".verdict").first).to_have_text("✗does not resume")
    expect(details.locator(".reason")).to_have_text(f"Reason: {REASON}.")
    expect(details.locator("pre.error code")).to_have_text(ERROR)
    expect(details.locator("pre.command code")).to_have_text(COMMAND)
    expect(details.locator(".verdict").last).to_have_text(
        "✓resumes with everything in the checkpoint"
    )
    expect(details.locator(".known").first).to_contain_text(
        "measured with 0.11.0 under torch 2.5.1"
    )
    expect(details.locator(".known").last).to_contain_text("measured with 0.11.0 under torch 2.5.1")
    expect(button).to_have_attribute("aria-pressed", "true")
    assert at.url.endswith(CELL)


def test_the_link_of_a_cell_shows_what_the_matrix_has_of_it(at: Page, found: Matrix) -> None:
    kinds = {
        (of.scenario, of.raw, of.migrated, bool(of.command)): of for of in found.cells.values()
    }
    assert 20 < len(kinds) < 200, "of each kind a cell; Chromium slows down after 200 links"
    links = [f"#{of.scenario}/raw/{of.writer}/{of.reader}" for of in kinds.values()]
    shown = at.evaluate(
        """async (links) => {
            const text = (name) => document.querySelector(`#details ${name}`)?.textContent ?? '';
            const shown = [];
            for (const link of links) {
                const changed = new Promise((done) =>
                    addEventListener('hashchange', done, { once: true }));
                location.hash = link;
                await changed;
                shown.push({ title: text('h2'), error: text('.error'), command: text('.command'),
                    all: document.getElementById('details').textContent });
            }
            return shown;
        }""",
        links,
    )
    for of, details in zip(kinds.values(), shown, strict=True):
        assert details["title"] == f"{of.writer} → {of.reader}"
        assert details["error"] == of.error
        for text in (of.reason, of.raw_known, found.meaning(of.migrated), of.migrated_known):
            assert text in details["all"]
        if grade(of.migrated) == "fails":
            assert details["command"] == ""
            assert "No command fixes this." in details["all"]
        else:
            assert details["command"] == of.command
            assert ("No migration is needed." in details["all"]) == (not of.command)


@pytest.mark.full
def test_the_command_is_copied_or_selected(browser: Browser, url: str) -> None:
    with opened(browser, url + CELL, permissions=["clipboard-read", "clipboard-write"]) as at:
        at.get_by_role("button", name="Copy").click()
        expect(at.get_by_role("button", name="Copied")).to_be_visible()
        assert at.evaluate("navigator.clipboard.readText()") == COMMAND
        at.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject() }")
        at.locator(".copy").click()
        expect(at.locator(".copy")).to_have_text("Selected: copy it by hand")
        assert at.evaluate("getSelection().toString()") == COMMAND


def test_hostile_text_is_shown_literally(shared: Page, tmp_path: Path) -> None:
    hostile = """</script><b>"it's" & <!-- <script>document.title = 'taken'</script> {{data}}"""
    row = CellRow("0.11.0", "broken", "known", "broken", "known", hostile + "\x1b[1m")
    written = Matrix(
        scenarios=(ScenarioRow("a<b>/'\"", hostile),),
        failures=(FailureRow("broken", ".", hostile, hostile),),
        knowledge=(KnowledgeRow("known", "derived", "", hostile),),
        matrix=(GroupRow("0.17.1", "a<b>/'\"", ("sample",), (row,)),),
        alike=(),
    )
    file = tmp_path / "page.html"
    file.write_text(page(written), encoding="utf-8")
    with watched(shared, file.as_uri()) as at:
        at.locator("td button").click()
        expect(at.locator("pre.error code")).to_have_text(hostile + r"\x1b[1m")
        expect(at.locator("#details .reason").first).to_have_text(f"Reason: {hostile}.")
        expect(at.locator(".what")).to_have_text(hostile)
        expect(at.locator("#details .note")).to_have_text("No command fixes this.")
        expect(at.locator("#details .command")).to_have_count(0)
        expect(at.get_by_role("tab")).to_have_text("a<b>/'\"")
        expect(at.locator("#details h2")).to_have_text("0.17.1 → 0.11.0")
        assert at.title() == "ckptmigrate: which release resumes from which checkpoint"
        assert at.locator("b").count() == 0
        assert at.locator("script").count() == 2
        at.reload()
        expect(at.locator("pre.error code")).to_have_text(hostile + r"\x1b[1m")


# -- the switch, the tabs, the keys, the links


@pytest.mark.full
def test_the_switch_shows_what_fails_in_each_view(at: Page, found: Matrix) -> None:
    failing = at.locator("section:not([hidden]) td .fails")
    for scenario in [row.scenario for row in found.scenarios]:
        tab(at, scenario).click()
        cells = [of for key, of in found.cells.items() if key[2] == scenario]
        for name, outcomes in (
            ("migrated", [of.migrated for of in cells]),
            ("unmigrated", [of.raw for of in cells]),
        ):
            view(at, name).check()
            expect(failing).to_have_count(sum(not each.startswith("ok") for each in outcomes))
    tab(at, "idle").click()
    expect(failing).not_to_have_count(0)
    view(at, "unmigrated").press("ArrowRight")
    expect(view(at, "migrated")).to_be_checked()
    expect(failing).to_have_count(0)
    expect(cell(at, "0.17.1", "0.11.0")).to_have_attribute(
        "aria-label",
        "0.17.1 read by 0.11.0, migrated: resumes with everything in the checkpoint (measured)",
    )


def test_what_is_done_before_the_page_has_changed_is_not_lost(at: Page) -> None:
    # hashchange comes in a later task than the key or the click that changes the fragment.
    at.evaluate(
        """() => {
            document.querySelector('[role=tab][data-scenario=fault]').click();
            document.querySelector('input[name=mode][value=migrated]').click();
        }"""
    )
    expect(tab(at, "fault")).to_have_attribute("aria-selected", "true")
    expect(view(at, "migrated")).to_be_checked()
    assert at.url.endswith("#fault/migrated")
    at.evaluate(
        """() => {
            const button = document.querySelector('section:not([hidden]) button.cell');
            for (const key of ['m', 'm', 'm']) {
                button.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
            }
        }"""
    )
    expect(view(at, "unmigrated")).to_be_checked()
    assert at.url.endswith("#fault/raw")


@pytest.mark.full
def test_tabs_by_key(at: Page, found: Matrix) -> None:
    names = [row.scenario for row in found.scenarios]
    tab(at, names[0]).focus()
    for key, name in (
        ("ArrowRight", names[1]),
        ("End", names[-1]),
        ("ArrowRight", names[0]),
        ("ArrowLeft", names[-1]),
        ("Home", names[0]),
    ):
        at.keyboard.press(key)
        expect(tab(at, name)).to_be_focused()
        expect(tab(at, name)).to_have_attribute("aria-selected", "true")
        expect(at.get_by_role("tab", selected=True)).to_have_count(1)
        expect(at.get_by_role("tabpanel")).to_have_attribute(
            "aria-labelledby", str(tab(at, name).get_attribute("id"))
        )


@pytest.mark.full
def test_cells_by_key(at: Page, found: Matrix) -> None:
    writers, readers = found.writers("idle"), found.readers
    tab(at, "idle").focus()
    at.keyboard.press("Tab")
    at.keyboard.press("Tab")
    assert focused(at) == (writers[0], readers[0])
    for key, where in (
        ("ArrowLeft", (0, 0)),
        ("ArrowRight", (0, 1)),
        ("ArrowDown", (1, 1)),
        ("End", (1, -1)),
        ("ArrowRight", (1, -1)),
        ("ArrowUp", (0, -1)),
        ("ArrowUp", (0, -1)),
        ("Control+End", (-1, -1)),
        ("Home", (-1, 0)),
        ("Control+Home", (0, 0)),
        ("ArrowDown", (1, 0)),
    ):
        at.keyboard.press(key)
        assert focused(at) == (writers[where[0]], readers[where[1]]), key
    assert at.locator("section:not([hidden]) td button[tabindex='0']").count() == 1
    title = at.locator("#details h2")
    at.keyboard.press("Enter")
    expect(title).to_have_text(f"{writers[1]} → {readers[0]}")
    at.keyboard.press("ArrowRight")
    at.keyboard.press("Space")
    expect(title).to_have_text(f"{writers[1]} → {readers[1]}")
    at.keyboard.press("m")
    expect(view(at, "migrated")).to_be_checked()
    assert focused(at) == (writers[1], readers[1])
    at.keyboard.press("ArrowRight")
    at.keyboard.press("Shift+Tab")
    at.keyboard.press("Tab")
    assert focused(at) == (writers[1], readers[2]), "one stop, where the user left"
    outline = at.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_a_link_opens_its_cell_and_back_goes_back(shared: Page, url: str) -> None:
    with watched(shared, f"{url}#fault/migrated/0.17.1/0.11.0") as at:
        title = at.locator("#details h2")
        expect(title).to_have_text("0.17.1 → 0.11.0")
        expect(tab(at, "fault")).to_have_attribute("aria-selected", "true")
        expect(view(at, "migrated")).to_be_checked()
        cell(at, "0.19.0", "0.13.1").click()
        expect(title).to_have_text("0.19.0 → 0.13.1")
        tab(at, "idle").click()
        expect(at.locator("#details")).to_contain_text("(idle)")
        assert at.url.endswith("#idle/migrated/0.19.0/0.13.1")
        at.go_back()
        expect(at.locator("#details")).to_contain_text("(fault)")
        at.go_back()
        expect(title).to_have_text("0.17.1 → 0.11.0")
        expect(cell(at, "0.17.1", "0.11.0")).to_have_attribute("aria-pressed", "true")
        expect(at.locator("[aria-pressed=true]")).to_have_count(1)


@pytest.mark.full
def test_a_link_to_nothing_opens_the_start(shared: Page, url: str) -> None:
    for link in ("", "#", "#idle/raw/9.9/0.11.0", "#nothing/0/1/2", "#%zz/%"):
        with watched(shared, url + link) as at:
            expect(tab(at, "idle")).to_have_attribute("aria-selected", "true")
            expect(view(at, "unmigrated")).to_be_checked()
            expect(at.locator("#details")).to_contain_text("Choose a cell")
            expect(at.locator("[aria-pressed=true]")).to_have_count(0)


# -- light and dark, small, slow, and without JavaScript


@pytest.mark.full
def test_every_text_can_be_read_in_light_and_in_dark(browser: Browser, url: str) -> None:
    grounds = {}
    with opened(browser, url + CELL) as at:
        for scheme in SCHEMES:
            at.emulate_media(color_scheme=scheme)
            at.reload()  # or colours are still on their way
            contrasts = at.evaluate(CONTRASTS)
            for kind in ("cell ok", "cell partial", "cell fails act", "cell ok act", "known"):
                assert any(name.startswith(f"{kind}:") for name, _ in contrasts), kind
            assert contrasts[0][1] >= 4.5, contrasts[0]
            grounds[scheme] = at.evaluate(
                """() => ['body', '#details', '.cell.ok', '.cell.partial', '.cell.ok.act',
                    '.cell.partial.act', '.cell.fails'].map((name) => getComputedStyle(
                        document.querySelector(`#legend ${name}, ${name}`)).backgroundColor)"""
            )
    assert all(map(str.__ne__, grounds["light"], grounds["dark"])), grounds
    for colors in grounds.values():
        assert len(set(colors[2:])) == 5, "each kind of cell has a colour of its own"


@pytest.mark.full
def test_a_phone_shows_it_without_overflow(browser: Browser, url: str, found: Matrix) -> None:
    with opened(browser, url, viewport=PHONE, has_touch=True, is_mobile=True) as at:
        for scenario in [row.scenario for row in found.scenarios]:
            tab(at, scenario).tap()
            for name in ("unmigrated", "migrated"):
                view(at, name).tap()
                assert at.evaluate("document.documentElement.scrollWidth") == 360
        tab(at, "idle").tap()
        button = cell(at, "0.17.1", "0.20.dev0")
        button.scroll_into_view_if_needed()
        box = button.bounding_box()
        assert box and box["width"] >= 40 and box["height"] >= 40
        head = at.locator("section:not([hidden]) tbody th").last.bounding_box()
        assert head and head["x"] >= 0 and head["x"] + head["width"] <= box["x"]
        cell(at, "0.17.1", "0.11.0").tap()
        details = at.locator("#details")
        expect(details.locator("h2")).to_be_in_viewport(ratio=1)
        expect(details.locator(".error")).to_be_in_viewport(ratio=1)
        assert at.evaluate("document.documentElement.scrollWidth") == 360
        beyond, smallest = at.evaluate(
            """() => {
                const all = [...document.querySelectorAll('#details *')];
                const sizes = all.map((each) => parseFloat(getComputedStyle(each).fontSize));
                return [all.filter((each) => each.getBoundingClientRect().right > 345
                    || each.getBoundingClientRect().left < 15).length, Math.min(...sizes)];
            }"""
        )
        assert beyond == 0
        assert smallest >= 12.5  # CSS pixels


@pytest.mark.full
def test_motion_is_reduced_where_wanted(browser: Browser, url: str) -> None:
    moves = """() => [getComputedStyle(document.documentElement).scrollBehavior,
        getComputedStyle(document.querySelector('td button')).transitionDuration]"""
    with opened(browser, url) as at:
        at.emulate_media(reduced_motion="reduce")
        assert at.evaluate(moves) == ["auto", "0s"]
        at.emulate_media(reduced_motion="no-preference")
        assert at.evaluate(moves) == ["smooth", "0.15s, 0.15s"]


@pytest.mark.full
def test_without_javascript_there_are_tables(browser: Browser, url: str, found: Matrix) -> None:
    with opened(browser, url, java_script_enabled=False) as at:
        expect(at.locator("td button")).to_have_count(len(found.cells))
        expect(at.get_by_role("table")).to_have_count(len(found.scenarios))
        expect(at.locator("h2", has_text="idle")).to_be_visible()
        expect(at.locator("noscript p")).to_be_visible()
        expect(at.locator("#controls")).to_be_hidden()
        expect(at.locator("#details")).to_be_hidden()


# -- the file


def test_the_command_writes_the_same_page_each_time(
    start: Run, tmp_path: Path, found: Matrix
) -> None:
    for seed in ("1", "2"):  # of hashes, which Python draws when it starts
        result = start("matrix", "--html", f"{seed}.html", PYTHONHASHSEED=seed)
        assert (result.returncode, result.stderr) == (0, "")
        assert (tmp_path / f"{seed}.html").read_text(encoding="utf-8") == page(found)


def test_the_page_is_allowed_to_load_nothing(at: Page) -> None:
    policy = at.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    assert policy is not None and policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy and "http" not in policy
    assert at.locator("[src], [href], link, iframe, img").count() == 0


def test_a_missing_browser_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="run `make browser`"):
        chromium()
