"""An HTML page that needs no network: a template of `pages` with inlined style and script."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from html import escape
from typing import Final

from ckptmigrate.storage import local_files
from ckptmigrate.text.printable import printable
from ckptmigrate.version import __version__

_MARK: Final = re.compile(r"\{\{(\w+)\}\}")  # a placeholder; all are replaced in one pass


def filled(template: str, parts: Mapping[str, str], *, style: str, script: str = "") -> str:
    """Return the page; its content security policy forbids loading anything.

    Args:
        template: a file of `pages` with the placeholders `{{name}}`.
        parts: the HTML of each placeholder; `policy`, `style`, `script` and `version` are added.
        style: the file of `pages` that is appended to base.css.
        script: the file of the script, or empty for a page without a script.
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
    """Return a text escaped for HTML, with control characters made printable."""
    return escape(printable(text))


def _hash(text: str) -> str:
    """Return the policy source that allows only an inline element with this text."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _file(name: str) -> str:
    return local_files.shipped(f"pages/{name}")
