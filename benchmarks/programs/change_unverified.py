"""The change of change_metadata.py without validation, which no command does: CHECKPOINT."""

import os
import sys
from pathlib import Path

from ckptmigrate.checkpoint import metadata_file
from ckptmigrate.checkpoint.large import edits, view
from ckptmigrate.checkpoint.large.tokens import framed

place = Path(sys.argv[1]) / ".metadata"
found = metadata_file.read(place.read_bytes())
keys = [key for key in found.entries if key.startswith("rerun_state_machine_state/")]
edited = found.without(keys)
if isinstance(edited, view.LargeMetadata):
    spliced = edits.splice(edited.tables, edited.edit)
    content = framed(spliced.data, spliced.cuts)
else:  # a small .metadata, with --quick
    content = edited.dump()
new = place.with_name(".metadata.new")
with new.open("wb") as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
new.rename(place)
os._exit(0)  # skip the deallocation of millions of objects
