"""A server of Google Cloud Storage's API, and its bucket, seen without what is tested."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from gcp_storage_emulator.server import create_server
from s3_server import BUCKET


@contextlib.contextmanager
def served() -> Iterator[int]:
    """Start a server in this process with an empty bucket; yield its port."""
    with create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET) as server:
        yield server._api._httpd.server_port


def environment(port: int) -> dict[str, str]:
    """Return what a user sets to reach a server."""
    return {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}


@dataclass(frozen=True)
class GsBucket:
    """The bucket of a server: the same methods as `s3_server.Bucket`."""

    port: int

    def _ask(self, method: str, path: str, content: bytes = b"", **query: str) -> bytes:
        link = http.client.HTTPConnection("127.0.0.1", self.port)
        with contextlib.closing(link):
            link.request(method, f"{path}?{urlencode(query)}", content)
            with link.getresponse() as answer:
                assert answer.status == 200, (answer.status, path)
                return answer.read()

    def put_tree(self, tree: dict[str, bytes], prefix: str) -> None:
        """Put objects, name -> content, below a prefix."""
        for name, content in tree.items():
            path = f"/upload/storage/v1/b/{BUCKET}/o"
            self._ask("POST", path, content, uploadType="media", name=f"{prefix}/{name}")

    def tree(self, prefix: str) -> dict[str, bytes]:
        """Return every object below a prefix, name -> content."""
        found: dict[str, Any] = json.loads(
            self._ask("GET", f"/storage/v1/b/{BUCKET}/o", prefix=f"{prefix}/")
        )
        return {
            item["name"].removeprefix(f"{prefix}/"): self._get(item["name"])
            for item in found.get("items", [])
        }

    def _get(self, key: str) -> bytes:
        name = quote(key, safe="")
        return self._ask("GET", f"/download/storage/v1/b/{BUCKET}/o/{name}", alt="media")
