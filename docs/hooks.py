"""What mkdocs does besides: pages that stand elsewhere in the repository, pictures in the page.

    <!-- from: SECURITY.md -->               a file, without its title
    <!-- from: README.md, What loads where -->   one section of it, without its heading

So each text has one source, which is also read where there is no site. Pictures are put into the
page itself, where they have the colours of the theme that the reader chose.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from ckptmigrate.compat.cells import matrix
from ckptmigrate.compat.page import page

ROOT = Path(__file__).parent.parent
_FROM = re.compile(r"<!-- from: ([\w./]+)(?:, (.*?))? -->")
_PICTURE = re.compile(r"!\[[^\]]*\]\(images/([\w-]+\.svg)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the matrix as a page of its own, as `ckptmigrate matrix --html` writes it."""
    text = page(matrix())
    files.append(File.generated(config, "compatibility.html", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in what stands elsewhere."""
    markdown = _FROM.sub(lambda found: taken(found[1], found[2]), markdown)
    return _PICTURE.sub(lambda found: picture(found[1]), markdown)


def taken(file: str, section: str | None) -> str:
    """The text of a file, or of one of its sections.

    Raises:
        ValueError: it has no such section.
    """
    text = (ROOT / file).read_text(encoding="utf-8")
    if section is None:
        return text.partition("\n")[2]
    found = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.M)
    if found is None:
        raise ValueError(f"{file} has no section {section!r}")
    return re.sub(r"<!-- /?matrix.*?-->\n", "", found[1]).replace("](docs/", "](")


def picture(name: str) -> str:
    """A picture as part of the page."""
    drawn = (ROOT / "docs" / "images" / name).read_text(encoding="utf-8")
    return f'<div class="picture-frame">{" ".join(drawn.split())}</div>'
