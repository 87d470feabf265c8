"""Ask real releases for parts of a checkpoint (readers/parts.py), a process for each call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from test_real_readers import PROGRAM, READERS

SCRIPT = Path(__file__).parent / "readers" / "parts.py"


def told_by(release: str, *jobs: dict[str, Any]) -> list[dict[str, Any]]:
    """What a real release makes of parts of a checkpoint (readers/parts.py)."""
    assert (READERS / release / "megatron").is_dir(), f"no reader {release}: run `make readers`"
    path = [
        str(READERS / release),
        str(PROGRAM.parent),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        input=json.dumps(jobs),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]
