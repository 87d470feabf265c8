"""Debian's Chromium without a window: each page of it tells what it asked for and complained of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

NAMES = ("chromium", "chromium-browser")
PHONE: Final[ViewportSize] = {"width": 360, "height": 740}
DESKTOP: Final[ViewportSize] = {"width": 1280, "height": 900}
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
# The contrast of WCAG 2.2 of every text that is seen, the smallest first.
CONTRASTS = """() => {
    const channels = (color) => color.match(/[\\d.]+/g).map(Number);
    const luminance = (color) => channels(color).slice(0, 3).map((value) => value / 255)
        .map((value) => value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4)
        .reduce((sum, value, at) => sum + value * [.2126, .7152, .0722][at], 0);
    const behind = (element) => {
        const color = getComputedStyle(element).backgroundColor;
        return channels(color)[3] === 0 ? behind(element.parentElement) : color;
    };
    const found = new Map();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
        const [text, ground] = [getComputedStyle(element).color, behind(element)];
        const [low, high] = [luminance(text), luminance(ground)].sort((a, b) => a - b);
        found.set(`${element.className || element.localName}: ${text} on ${ground}`,
            (high + .05) / (low + .05));
    }
    return [...found].sort((a, b) => a[1] - b[1]);
}"""


def chromium() -> str:
    """The browser's path.

    Raises:
        RuntimeError: it is not installed.
    """
    for name in NAMES:
        if path := shutil.which(name):
            return path
    raise RuntimeError("Chromium is not installed: run `make browser`")


@contextmanager
def started() -> Iterator[Browser]:
    """A running browser. Its sandbox does not work for root, as which containers run tests."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """A page in a context of its own, for example `color_scheme="dark"`, watched at a URL.

    A context costs some 0.3 s of CPU; `watched` takes a page that is there from URL to URL.
    """
    with in_context(browser, **options) as page, watched(page, url):
        yield page


@contextmanager
def in_context(browser: Browser, **options: Any) -> Iterator[Page]:
    """An empty page in a context of its own."""
    context = browser.new_context(**options)
    context.set_default_timeout(5_000)  # milliseconds
    try:
        yield context.new_page()
    finally:
        context.close()


@contextmanager
def watched(page: Page, url: str, within: str | None = None) -> Iterator[Page]:
    """Load a URL into a page.

    At the end nothing was requested but what is `within`, by default the URL itself, and nothing
    is in the console.
    """
    asked: list[str] = []
    complaints: list[str] = []
    page.goto("about:blank")  # a URL that differs in its fragment alone is loaded, too
    handlers: dict[Any, Callable[[Any], None]] = {
        "request": lambda request: asked.append(request.url),
        "console": lambda message: complaints.append(message.text),
        "pageerror": lambda error: complaints.append(str(error)),
        "response": lambda reply: complaints.append(reply.url) if reply.status >= 400 else None,
    }
    for event, handler in handlers.items():
        page.on(event, handler)
    try:
        page.goto(url)
        yield page
        allowed = within or url.partition("#")[0]
        assert asked
        assert [each for each in asked if not each.startswith(allowed)] == []
        assert complaints == []
    finally:
        for event, handler in handlers.items():
            page.remove_listener(event, handler)
