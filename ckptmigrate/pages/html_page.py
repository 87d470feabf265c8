"""One HTML page that needs no network: a template of `pages` with its style and script inlined."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from html import escape
from typing import Final

from ckptmigrate.access import opener
from ckptmigrate.text.printable import printable
from ckptmigrate.version import __version__

_MARK: Final = re.compile(r"\{\{(\w+)\}\}")  # a place in the template, filled in one pass


def filled(template: str, parts: Mapping[str, str], *, style: str, script: str = "") -> str:
    """The whole page, which is allowed to load nothing, whatever a text in it may hold.

    Args:
        template: a file of `pages`; `{{name}}` stands for a part.
        parts: their HTML, by name; `policy`, `style`, `script` and `version` are added.
        style: the file of `pages` that comes after what every page shares.
        script: the file of its script; empty for a page without.
    """
    styles = _file("base.css") + _file(style)
    code = _file(script) if script else ""
    allowed = f"style-src {_hash(styles)}; " + (f"script-src {_hash(code)}; " if script else "")
    every = {
        **parts,
        "policy": f"default-src 'none'; {allowed}base-uri 'none'; form-action 'none'",
        "style": styles,
        "script": code,
        "version": escaped(__version__),
    }
    return _MARK.sub(lambda mark: every[mark[1]], _file(template))


def escaped(text: str) -> str:
    """A text for HTML, without a control character."""
    return escape(printable(text))


def _hash(text: str) -> str:
    """The source expression that allows an inline element with this text, and no other."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _file(name: str) -> str:
    return opener.shipped(f"pages/{name}")
