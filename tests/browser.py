"""Debian's Chromium without a window: each page of it tells what it asked for and complained of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser")


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
    """A page in a context of its own, for example `color_scheme="dark"`.

    At the end nothing but the page itself was asked for, and nothing stands in the console.
    """
    asked: list[str] = []
    complaints: list[str] = []
    context = browser.new_context(**options)
    context.set_default_timeout(5_000)  # milliseconds
    try:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        yield page
        assert {each.partition("#")[0] for each in asked} == {url.partition("#")[0]}
        assert complaints == []
    finally:
        context.close()
