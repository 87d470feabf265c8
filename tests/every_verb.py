"""Words that run every verb but `matrix run`, which needs real releases."""

from __future__ import annotations

import shutil
from pathlib import Path

from cli_reference import commands
from conftest import SAMPLES

from ckptmigrate import migrate


def every_verb(place: Path) -> dict[str, tuple[object, ...]]:
    """Return the arguments of each verb, for checkpoints that are made in a folder."""
    root, facts = place / "0.12.3-fault-w1", place / "compat_matrix.yaml"
    lost = ("--allow-loss", "fault-context")
    shutil.copytree(SAMPLES / root.name, root)
    migrated = place / "migrated"
    shutil.copytree(SAMPLES / root.name, migrated)
    migrate(migrated, to="universal", in_place=True, allow_loss=["fault-context"])
    shutil.copy(SAMPLES.parent.parent / "compat_matrix.yaml", facts)
    arguments: dict[str, tuple[object, ...]] = {
        "inspect": (root,),
        "check": (root,),
        "verify": (root,),
        "diff": (root, SAMPLES / "0.18.2-idle-w1"),
        "upgrade": (root, "-o", place / "x", *lost),
        "downgrade": (root, "--to", "universal", "-o", place / "y", *lost),
        "migrate": (root, "--to", "0.13", "-o", place / "z", *lost),
        "undo": (migrated, "--dry-run"),
        "repair": (root,),
        "recover": (place,),
        "explain": ("0.13",),
        "layouts": (),
        "matrix": (),
        "matrix add": ("9.9.0", "--facts", facts),
        "schema": ("upgrade",),
        "completion": ("bash",),
    }
    assert arguments.keys() == commands().keys() - {"", "matrix run"}
    return arguments
