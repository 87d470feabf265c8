"""A copy of .metadata, read with torch's own classes and written with pickle: CHECKPOINT.

It changes nothing, and so does less than a migration.
"""

import os
import pickle
import sys
from pathlib import Path

from torch.distributed.checkpoint import FileSystemReader

place = Path(sys.argv[1])
metadata = FileSystemReader(place).read_metadata()
new = place / ".metadata.new"
with new.open("wb") as file:
    pickle.dump(metadata, file)
    file.flush()
    os.fsync(file.fileno())
new.rename(place / ".metadata")
