"""A load of .metadata into inert objects by the C unpickler, and nothing more: CHECKPOINT."""

import os
import sys
from pathlib import Path

from ckptmigrate.pickles.reader import InertUnpickler, uncollected

with (Path(sys.argv[1]) / ".metadata").open("rb") as file:
    unpickler = InertUnpickler(file, fix_imports=False)
    unpickler.named = {}
    with uncollected():
        unpickler.load()
os._exit(0)  # skip the deallocation of millions of objects
