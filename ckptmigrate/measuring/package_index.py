"""Releases on the package index that the matrix does not have.

python -m ckptmigrate.measuring.package_index      prints a JSON list
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable

from ckptmigrate import search_path
from ckptmigrate.releases.facts import compat, minor


def available() -> list[str]:
    """Return the releases of megatron-core that pip finds.

    Raises:
        subprocess.CalledProcessError: pip finds none.
    """
    listing = subprocess.run(
        search_path.module("pip", "index", "versions", "megatron-core"),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    listed = re.search(r"^Available versions: (.*)$", listing, re.MULTILINE)
    return [] if listed is None else listed[1].split(", ")


def new(found: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the last patch of each minor release that is newer than the known ones of that minor.

    Args:
        found: releases on the index; minor releases older than all known ones are ignored.
        known: releases that the matrix has.
    """
    from packaging.version import Version

    latest: dict[tuple[int, ...], Version] = {}
    for version in map(Version, found):
        if not version.is_prerelease:
            key = minor(str(version))
            latest[key] = max(version, latest.get(key, version))
    old = {minor(release): Version(release) for release in known}
    first = min(old)
    return [
        str(version)
        for key, version in sorted(latest.items())
        if key >= first and (key not in old or version > old[key])
    ]


if __name__ == "__main__":
    print(json.dumps(new(available(), [row.release for row in compat().readers])))
