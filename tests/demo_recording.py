"""The picture of a terminal at the top of the README: what `make demo` prints.

    python tests/demo_recording.py      (or: make demo-recording)

The commands of demo.sh run in a terminal, and rich draws what they print.
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

ROOT: Final = Path(__file__).parent.parent
FILE: Final = ROOT / "docs" / "images" / "demo.svg"
WIDTH: Final = 80  # columns
# As long as the name of the temporary directory, so that lines wrap in the same places.
_PLACE, _TEMPORARY = "/scratch/project/me", re.compile(r"/tmp/tmp\.\w{10}")


def output() -> str:
    """Return what demo.sh prints on a terminal, with its colors."""
    ours, theirs = pty.openpty()
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "COLUMNS": str(WIDTH), "TMPDIR": "/tmp"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        ["sh", "demo.sh"], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=theirs,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        os.close(theirs)
        parts = []
        try:
            while part := os.read(ours, 65536):
                parts.append(part)
        except OSError:  # on Linux, the end of a terminal is an error
            pass
        os.close(ours)
    assert process.returncode == 0, b"".join(parts).decode()
    return _TEMPORARY.sub(_PLACE, b"".join(parts).decode().replace("\r\n", "\n"))


def drawn(text: str) -> str:
    """Return a picture of the text, which loads no font from elsewhere."""
    shown = Text.from_ansi(text.strip("\n"))
    shown.highlight_regex(r"(?m)^\$ .*$", "bold")
    console = Console(width=WIDTH, record=True, file=io.StringIO(), force_terminal=True)
    console.print(shown, soft_wrap=False)
    svg = console.export_svg(title="make demo", theme=DIMMED_MONOKAI, unique_id="demo")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def words(svg: str) -> list[str]:
    """Return the text of a picture in lines, without what depends on the version of rich."""
    lines: dict[str, str] = {}
    for y, text in re.findall(r'<text class="demo-r\d+"[^>]* y="([\d.]+)"[^>]*>([^<]*)<', svg):
        lines[y] = lines.get(y, "") + text
    return [line.replace("&#160;", " ").rstrip() for line in lines.values()]


if __name__ == "__main__":
    FILE.write_text(drawn(output()), encoding="utf-8")
