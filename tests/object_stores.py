"""What the tests of object stores share."""

from __future__ import annotations

import json

import conftest
from forked import ForkServer
from s3_server import BUCKET

# The command line in processes that have the libraries of stores imported, too.
CLI = ForkServer(
    "stores",
    [
        *conftest.CLI.preload,
        *("s3fs.core", "botocore_data", "gcsfs.core"),
        *("multistorageclient.contrib.async_fs", "multistorageclient.providers.s3"),
    ],
)

KEPT = ".ckptmigrate/"
NAME = "0.18.2-fault-dp2"
TRACKER = "latest_checkpointed_iteration.txt"


def url(name: str) -> str:
    return f"s3://{BUCKET}/{name}"


def visible(tree: dict[str, bytes]) -> dict[str, bytes]:
    """What a reader looks at."""
    return {k: v for k, v in tree.items() if KEPT not in k and not k.endswith("ckptmigrate.json")}


def without_time(tree: dict[str, bytes]) -> dict[str, object]:
    """The sidecar as a value without when and where a step was made."""
    found: dict[str, object] = dict(tree)
    for name in tree:
        if name.endswith("ckptmigrate.json"):
            steps = json.loads(tree[name])["steps"]
            found[name] = [{**step, "time": None, "in_place": None} for step in steps]
    return found
