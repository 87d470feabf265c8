"""Unpickle .metadata with the C machine into inert stand-ins, and no more: CHECKPOINT."""

import os
import sys
from pathlib import Path

from ckptmigrate.inert.reader import InertUnpickler, uncollected

with (Path(sys.argv[1]) / ".metadata").open("rb") as file:
    unpickler = InertUnpickler(file, fix_imports=False)
    unpickler.named = {}
    with uncollected():
        unpickler.load()
os._exit(0)  # without the time to take millions of objects down
