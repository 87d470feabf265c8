"""A real S3 server in a process of its own (moto), and a proxy before it that counts, and kills."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3

BUCKET = "checkpoints"
WRITING = ("PUT", "POST", "DELETE")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answering(port: int) -> None:
    """Wait until a server answers."""
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    raise AssertionError(f"nothing answers on port {port}")


def environment(port: int) -> dict[str, str]:
    """What a user sets to reach the server; nothing of it is given to ckptmigrate itself."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextlib.contextmanager
def served(**more: str) -> Iterator[int]:
    """The server, by its port; it ends with the block. `more` is for its environment."""
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **more},
    ) as process:
        try:
            answering(port)
            client(port).create_bucket(Bucket=BUCKET)
            yield port
        finally:
            process.kill()


def client(port: int) -> Any:
    told = environment(port)
    return boto3.client(
        "s3",
        endpoint_url=told["AWS_ENDPOINT_URL"],
        aws_access_key_id=told["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
        region_name=told["AWS_DEFAULT_REGION"],
    )


class Bucket:
    """The bucket, seen with boto3 and not with what is tested."""

    def __init__(self, port: int) -> None:
        self.client = client(port)

    def put(self, root: Path, prefix: str) -> None:
        """A directory as objects."""
        for item in sorted(root.rglob("*")):
            if item.is_file():
                key = f"{prefix}/{item.relative_to(root)}"
                self.client.put_object(Bucket=BUCKET, Key=key, Body=item.read_bytes())

    def tree(self, prefix: str) -> dict[str, bytes]:
        """Every object below, name -> bytes."""
        return {name: self.get(f"{prefix}/{name}".lstrip("/")) for name in self.names(prefix)}

    def names(self, prefix: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=f"{prefix}/" if prefix else ""
        )
        start = len(prefix) + 1 if prefix else 0
        return [item["Key"][start:] for page in pages for item in page.get("Contents", [])]

    def get(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def clear(self, prefix: str) -> None:
        for name in self.names(prefix):
            self.client.delete_object(Bucket=BUCKET, Key=f"{prefix}/{name}".lstrip("/"))


def files_of(root: Path) -> dict[str, bytes]:
    """A local directory in the form of `Bucket.tree`."""
    return {
        str(item.relative_to(root)): item.read_bytes()
        for item in sorted(root.rglob("*"))
        if item.is_file()
    }


@dataclass
class Proxy:
    """Between a client and the server: it counts, and may do something at one request.

    Attributes:
        port: its own.
        requests: method and path of every request, in order.
        received: bytes of answers that went to the client.
        act: called with the number of a writing request, from 1, and whether it was passed on;
            where it says so, nothing more is done about that request.
        under_way: requests that are with the server now.
    """

    port: int
    requests: list[tuple[str, str]] = field(default_factory=list)
    received: int = 0
    act: Callable[[int, bool], bool] | None = None
    under_way: int = 0

    def settled(self) -> None:
        """Wait until the server is done with what it was sent."""
        while self.under_way:
            time.sleep(0.005)

    @property
    def writes(self) -> int:
        return sum(method in WRITING for method, _ in self.requests)


@contextlib.contextmanager
def proxied(server: int) -> Iterator[Proxy]:
    """A proxy in this process, before the server of that port."""
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def passed_on(self) -> None:
            body = self._body()
            with turn:
                proxy.requests.append((self.command, self.path))
                number = proxy.writes if self.command in WRITING else 0
                proxy.under_way += 1
            try:
                self._served(body, (number and proxy.act) or (lambda *_: False), number)
            finally:
                with turn:
                    proxy.under_way -= 1

        def _served(self, body: bytes, act: Callable[[int, bool], bool], number: int) -> None:
            self.close_connection = act(number, False)
            if self.close_connection:
                return
            link = http.client.HTTPConnection("127.0.0.1", server)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
            link.request(self.command, self.path, body, headers)
            answer = link.getresponse()
            content = answer.read()
            link.close()
            self.close_connection = act(number, True)
            if self.close_connection:
                return
            with contextlib.suppress(OSError):  # the client was killed
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in (*_HOP, "content-length") or self.command == "HEAD":
                        self.send_header(name, value)
                if self.command != "HEAD":
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                with turn:
                    proxy.received += len(content)

        def _body(self) -> bytes:
            length = self.headers.get("Content-Length")
            return self.rfile.read(int(length)) if length else b""

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = passed_on

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        proxy = Proxy(listening.server_port)
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            listening.shutdown()


_HOP = ("connection", "transfer-encoding", "keep-alive", "expect")
