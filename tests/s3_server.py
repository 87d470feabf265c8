"""An S3 server (moto) that a whole test run shares, and a proxy in front of one."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import http.client
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import forked

# Each worker of a test run has a bucket of its own.
BUCKET = f"checkpoints-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
WRITING = ("PUT", "POST", "DELETE")
Headers = list[tuple[str, str]]


# -- the server


def shared() -> int:
    """Return the port of the server of this test run; whoever needs it first starts it."""
    folder = forked.folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    noted = folder / "s3.port"
    with open(folder / "s3.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not noted.exists():
            server, port = _start(os.environ["CKPTMIGRATE_TEST_RUN"])
            server.returncode = 0  # it lives on: nobody waits for it
            noted.write_text(str(port))
    return int(noted.read_text())


@contextlib.contextmanager
def served(**environment: str) -> Iterator[int]:
    """Start a server with more environment variables; yield its port."""
    server, port = _start(str(os.getpid()), **environment)
    with server:
        try:
            yield port
        finally:
            server.kill()


def _start(parent: str, **environment: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server that no parent process outlives; return it and its port."""
    server = subprocess.Popen(
        [sys.executable, __file__, parent],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert server.stdout is not None
    with server.stdout:
        port = int(server.stdout.readline())
    return server, port


def environment(port: int) -> dict[str, str]:
    """Return what a user sets to reach a server; ckptmigrate itself is given nothing of it."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def seconds(port: int, bucket: str = BUCKET) -> float:
    """Return the CPU seconds that a server took for a bucket."""
    link = http.client.HTTPConnection("127.0.0.1", port)
    link.request("GET", f"/{_SECONDS}/{bucket}")
    with link.getresponse() as answer:
        return float(answer.read())


_SECONDS = "-seconds-"


def _serve(parent: int) -> None:
    """Serve S3 at a free port, which is printed, as long as a process exists."""
    from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    app, spent = create_backend_app("s3"), Counter[str]()

    class Handler(MotoRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            """Handle one connection, which has one request, in a thread of its own."""
            super().handle()
            spent[self.path.partition("?")[0].split("/")[1]] += time.thread_time()

        def log(self, *_: object) -> None:
            """Write no log."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        _, first, *rest = environ["PATH_INFO"].split("/", 2)
        if first != _SECONDS:
            return app(environ, start)
        start("200 OK", [])
        return [str(spent[rest[0]]).encode()]

    listening = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    os.write(1, b"%d\n" % listening.server_port)
    while Path(f"/proc/{parent}").exists():
        time.sleep(0.5)
    os._exit(0)


# -- what is in it


@functools.cache
def client(port: int) -> Any:
    """Return boto3's client of a server."""
    known = environment(port)
    return boto3.client(
        "s3",
        endpoint_url=known["AWS_ENDPOINT_URL"],
        aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
        region_name=known["AWS_DEFAULT_REGION"],
    )


class Bucket:
    """The bucket, seen with boto3 and not with what is tested."""

    def __init__(self, port: int) -> None:
        self.client = client(port)
        self.client.create_bucket(Bucket=BUCKET)

    def put(self, root: Path, prefix: str) -> None:
        """Put a directory as objects."""
        self.put_tree(files_of(root), prefix)

    def put_tree(self, tree: dict[str, bytes], prefix: str) -> None:
        """Put objects, name -> content, below a prefix."""
        for name, content in tree.items():
            self.client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=content)

    def tree(self, prefix: str) -> dict[str, bytes]:
        """Return every object below a prefix, name -> content."""
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
        names = [f"{prefix}/{name}".lstrip("/") for name in self.names(prefix)]
        for start in range(0, len(names), 1000):
            keys = [{"Key": name} for name in names[start : start + 1000]]
            self.client.delete_objects(Bucket=BUCKET, Delete={"Objects": keys})


def files_of(root: Path) -> dict[str, bytes]:
    """Return a local directory in the form of `Bucket.tree`."""
    return {
        str(item.relative_to(root)): item.read_bytes()
        for item in sorted(root.rglob("*"))
        if item.is_file()
    }


# -- the proxy


@dataclass
class Answer:
    """An answer of the server."""

    status: int
    headers: Headers
    content: bytes


@dataclass(frozen=True)
class Seen:
    """A request that came to a proxy; its path has the name that an upload has in its content.

    Attributes:
        number: its number among all requests, from 1.
        write: its number among those that change something, from 1; 0 if it changes nothing.
        copies: whether the server copies another object for it.
    """

    number: int
    write: int
    method: str
    path: str
    copies: bool


class Request(BaseHTTPRequestHandler):
    """A connection of a client, and its request at hand."""

    protocol_version = "HTTP/1.1"
    proxy: Proxy
    seen: Seen
    body: bytes

    def _arrived(self) -> None:
        length = self.headers.get("Content-Length")
        self.body = self.rfile.read(int(length)) if length else b""
        self.seen = self.proxy.note(self)
        try:
            with contextlib.suppress(OSError):  # the client is gone
                self.proxy.handle(self)
        finally:
            self.proxy.done()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _arrived

    def forward(self) -> Answer:
        """Pass the request on to the server."""
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
        return self._ask(self.command, self.path, self.body, headers)

    def current(self) -> Answer:
        """Return what the server has of the object now."""
        return self._ask("GET", self.path.partition("?")[0])

    def _ask(self, *request: Any) -> Answer:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.proxy.server)) as link:
            link.request(*request)
            answer = link.getresponse()
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP]
            return Answer(answer.status, kept, answer.read())

    def begin(self, answer: Answer, length: int | None = None) -> None:
        """Send the head of an answer.

        Args:
            length: what it says about the length of its content, if that is not true.
        """
        self.send_response_only(answer.status)
        told = self.command == "HEAD"  # of content that is not sent
        for name, value in answer.headers:
            if told or name.lower() != "content-length":
                self.send_header(name, value)
        if not told:
            length = len(answer.content) if length is None else length
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def send(self, answer: Answer) -> None:
        """Send an answer."""
        self.begin(answer)
        if self.command != "HEAD":
            self.wfile.write(answer.content)
            self.proxy.received += len(answer.content)

    def drop(self, *, reset: bool = False) -> None:
        """Close the connection without another word."""
        self.close_connection = True
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.rfile.close()
            self.connection.close()

    def log_message(self, *_: object) -> None:
        """Write no log."""


def pass_on(request: Request) -> None:
    """Handle a request as if there were no proxy."""
    request.send(request.forward())


@dataclass
class Proxy:
    """Between a client and the server: it notes every request, and may disturb it.

    Attributes:
        server: the port of the server.
        handle: what becomes of a request.
        port: its own.
        requests: every request, in order.
        received: bytes of content that clients were sent.
        stop: stops listening.
    """

    server: int
    handle: Callable[[Request], None] = pass_on
    port: int = 0
    requests: list[Seen] = field(default_factory=list)
    received: int = 0
    stop: Callable[[], None] = lambda: None
    _open: int = 0
    _turn: threading.Condition = field(default_factory=threading.Condition)

    @property
    def writes(self) -> int:
        return sum(request.write > 0 for request in self.requests)

    def note(self, request: Request) -> Seen:
        with self._turn:
            self._open += 1
            method = request.command
            copies = "x-amz-copy-source" in request.headers or "/rewriteTo/" in request.path
            write = self.writes + 1 if method in WRITING else 0
            named = (
                _NAME.search(request.body[:1000])
                if "uploadType=multipart" in request.path
                else None
            )
            path = request.path + (f"&name={named[1].decode()}" if named else "")
            seen = Seen(len(self.requests) + 1, write, method, path, copies)
            self.requests.append(seen)
            return seen

    def done(self) -> None:
        with self._turn:
            self._open -= 1
            self._turn.notify_all()

    def settle(self) -> None:
        """Wait until the server has answered all that it was sent."""
        with self._turn:
            assert self._turn.wait_for(lambda: not self._open, 60)


@contextlib.contextmanager
def proxied(server: int, handle: Callable[[Request], None] = pass_on) -> Iterator[Proxy]:
    """A proxy in this process, in front of the server of a port."""
    proxy = Proxy(server, handle)
    with listening(proxy):
        yield proxy


@contextlib.contextmanager
def listening(proxy: Proxy) -> Iterator[None]:
    """Have a proxy listen at a free port."""

    class Handler(Request):
        pass

    Handler.proxy = proxy
    with _Listener(("127.0.0.1", 0), Handler) as listener:
        proxy.port = listener.server_port
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()

        def stop() -> None:
            listener.shutdown()
            listener.server_close()

        proxy.stop = stop
        try:
            yield
        finally:
            stop()


class _Listener(ThreadingHTTPServer):
    """Its connections, which may wait for ever, keep no test from ending."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Clients may vanish."""


_NAME = re.compile(rb'"name": "([^"]+)"')  # in an upload to Google Cloud Storage
_HOP = ("connection", "transfer-encoding", "keep-alive", "expect")

if __name__ == "__main__":
    _serve(int(sys.argv[1]))
