"""The commands of the contenders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.contenders import Command, Place
from benchmarks.measure import PROGRAMS


def ckptmigrate(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ckptmigrate", *map(str, arguments)]


def inspect(place: Place) -> list[str]:
    return ckptmigrate("inspect", place.root)


def verify(place: Place) -> list[str]:
    return ckptmigrate("verify", place.root)


def repair(place: Place) -> list[str]:
    return ckptmigrate("repair", place.root, "--dry-run")


def dry_run(to: str) -> Command:
    return lambda place: ckptmigrate("downgrade", place.root, "--to", to, "--dry-run")


def downgrade_out(to: str) -> Command:
    return lambda place: ckptmigrate("downgrade", place.root, "--to", to, "-o", place.out)


def downgrade_in_place(to: str, *options: str) -> Command:
    return lambda place: ckptmigrate("downgrade", place.root, "--to", to, "--in-place", *options)


def floor(to: str) -> Command:
    return lambda place: [
        *(sys.executable, "-I", "-S", str(PROGRAMS / "floor.py"), str(place.root)),
        *(f"{name}={size}" for name, size in changed_files(place.root, to).items()),
    ]


def metadata_floor(place: Place) -> list[str]:
    size = (place.checkpoint / ".metadata").stat().st_size
    program = str(PROGRAMS / "floor.py")
    return [sys.executable, "-I", "-S", program, str(place.root), f".metadata={size}"]


def changed_files(root: Path, to: str) -> dict[str, int]:
    """Return the files of a checkpoint that a migration writes, with their sizes in bytes."""
    asked = ckptmigrate("downgrade", root, "--to", to, "--dry-run", "--json")
    told = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    files = told["checkpoints"][-1]["files"]
    return {each["name"]: each["bytes"] for each in files if each["bytes"] is not None}


def torch_metadata(place: Place) -> list[str]:
    return [sys.executable, str(PROGRAMS / "torch_metadata.py"), str(place.checkpoint)]


def copy_and_sync(place: Place) -> list[str]:
    script = 'cp -r "$1" "$2" && sync -f "$2"'
    return ["sh", "-c", script, "sh", str(place.root), str(place.out)]


def program(name: str, *arguments: str) -> Command:
    program = str(PROGRAMS / f"{name}.py")
    return lambda place: [
        *(sys.executable, program, str(place.checkpoint), str(place.out)),
        *arguments,
    ]


def convert_optimizer(verb: str, to: str, *options: str) -> Command:
    return lambda place: ckptmigrate(
        verb, place.root, "--to", to, "--optimizer", "convert", "-o", place.out, *options
    )


def copy_as_many_bytes(place: Place) -> list[str]:
    """Return the command that copies as many bytes as the optimizer has; makes the file first."""
    asked = ckptmigrate("inspect", place.root, "--json")
    told = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    left = told["optimizer"]["bytes"]
    source, piece = place.root / "as-many-bytes", 16 * 1024**2
    with source.open("wb") as copy:
        for path in sorted(place.checkpoint.glob("*.distcp")):
            with path.open("rb") as file:
                while content := file.read(min(left, piece)):
                    left -= copy.write(content)
    script = 'cp "$1" "$2" && sync "$2"'
    return ["sh", "-c", script, "sh", str(source), str(place.out)]


def python(code: str) -> Command:
    return lambda _: [sys.executable, "-c", code]
