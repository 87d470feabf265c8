"""What mkdocs does besides: pages from elsewhere in the repository, pictures in the page.

    <!-- from: SECURITY.md -->     a file of the repository, without its title

So each text has one source, which is also read where there is no site. Pictures are put into the
page itself, where they have the colors of the theme that the reader chose.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from ckptmigrate.compat.cells import matrix
from ckptmigrate.compat.page import page

ROOT = Path(__file__).parent.parent
_FROM = re.compile(r"<!-- from: ([\w./]+) -->")
_PICTURE = re.compile(r"!\[[^\]]*\]\(images/([\w-]+\.svg)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the matrix as a page of its own, as `ckptmigrate matrix --html` writes it."""
    files.append(File.generated(config, "compatibility.html", content=page(matrix())))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Insert files of the repository and pictures."""
    markdown = _FROM.sub(lambda found: included(found[1]), markdown)
    return _PICTURE.sub(lambda found: picture(found[1]), markdown)


def included(file: str) -> str:
    """Return the text of a file without its title."""
    return (ROOT / file).read_text(encoding="utf-8").partition("\n")[2]


def picture(name: str) -> str:
    """Return a picture as part of the page."""
    drawn = (ROOT / "docs" / "images" / name).read_text(encoding="utf-8")
    return f'<div class="picture-frame">{" ".join(drawn.split())}</div>'
