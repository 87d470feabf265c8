"""The bytes of a converted optimizer, moved without comparison to the weights, which no command
does: CHECKPOINT OUT RELEASE [digests [read-back]].
"""

import hashlib
import os
import sys
from pathlib import Path

from packaging.version import Version

from ckptmigrate.checkpoint.sidecar import digest_of
from ckptmigrate.optimizer import performing, resharding, sharding_types
from ckptmigrate.optimizer.source import Source
from ckptmigrate.optimizer.target import OptimizerTarget
from ckptmigrate.storage.directories import directory
from ckptmigrate.versions.detection import read

checkpoint, out, release, *extra = sys.argv[1:]
version = Version(release)
target = OptimizerTarget(OptimizerTarget.type_of(version), version)
source = Source(read(directory(Path(checkpoint))).manifest)
current = sharding_types.recognise(source)
conversion = resharding.plan(source, current.TYPE, current.read(source), target)
Path(out).mkdir()
for name in conversion.files:
    digest = hashlib.sha256()
    with (Path(out) / name).open("xb") as file:
        for piece in performing.pieces(conversion, name):
            file.write(piece)
            if "digests" in extra:
                digest.update(piece)
        file.flush()
        os.fsync(file.fileno())
        if "read-back" in extra:
            assert digest_of(directory(Path(out)), name) == digest.hexdigest()
