"""Profiles of multi-storage-client: a directory, and the bucket of an S3 server."""

from __future__ import annotations

import json
from pathlib import Path

from s3_server import BUCKET, environment

# What a user may set: a hanging server is given up after seconds, and few requests are repeated.
_IMPATIENT = {
    "connect_timeout": 2,
    "read_timeout": 2,
    "retries": {"mode": "standard", "max_attempts": 2},
}


def msc(port: int, file: Path) -> dict[str, str]:
    """Write a configuration with the profiles `disk` and `moto`; return what a user sets for it.

    Args:
        port: of the S3 server.
    """
    config = {
        "profiles": {
            "disk": {
                "storage_provider": {
                    "type": "file", "options": {"base_path": str(file.with_name("disk"))},
                }
            },
            "moto": {
                "storage_provider": {
                    "type": "s3",
                    "options": {
                        "base_path": BUCKET, "region_name": "us-east-1",
                        "endpoint_url": environment(port)["AWS_ENDPOINT_URL"], **_IMPATIENT,
                    },
                },
                "credentials_provider": {
                    "type": "S3Credentials",
                    "options": {"access_key": "a", "secret_key": "b"},
                },
            },
        }
    }  # fmt: skip
    file.write_text(json.dumps(config))
    return {"MSC_CONFIG": str(file)}
