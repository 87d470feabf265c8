"""An object store in this process, `flaky://bucket/key`, whose requests a test may disturb.

It has the semantics of S3 that matter here: keys are text, a listing has prefixes up to the next
`/`, empty ones included, and a conditional write is refused with a 412.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec import AbstractFileSystem

WRITING = ("COPY", "PUT", "DELETE")
Fault = Callable[[str, str], object]


class ServerError(OSError):
    """What a library of a store raises: the answer of the server, as botocore has it."""

    def __init__(self, code: str) -> None:
        super().__init__(f"An error occurred ({code})")
        self.response = {"Error": {"Code": code}}


class OnlyAnswered:
    """A fault: the writing request of this number, from 0, is answered and not carried out.

    Attributes:
        request: which one that was, once it came to it.
    """

    def __init__(self, number: int) -> None:
        self.request = ""
        self._left = number

    def __call__(self, operation: str, key: str) -> bool:
        if operation not in WRITING or self.request:
            return False
        self._left -= 1
        if self._left >= 0:
            return False
        self.request = f"{operation} {key}"
        return True


class Upload:
    """An object that is written piece by piece, and is there once this is closed."""

    def __init__(self, finish: Callable[[bytes], None]) -> None:
        self.closed = False
        self._finish = finish
        self._written = b""

    def write(self, content: bytes) -> None:
        self._written += content

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._finish(self._written)

    def discard(self) -> None:
        """Drop what was written."""
        self._written = b""


class FlakyFileSystem(AbstractFileSystem):
    """The library of the store.

    Attributes:
        objects: key -> content, bucket included.
        requests: operation and key of every request, in order.
        before: called before a request is carried out; it may raise, and where it returns True
            the request is answered and not carried out.
        after: called after it was; it may raise, as for a reply that is lost.
    """

    protocol = "flaky"
    cachable = False
    objects: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[list[tuple[str, str]]] = []
    before: Fault | None = None
    after: Fault | None = None

    @classmethod
    @contextlib.contextmanager
    def disturbed(
        cls, *, before: Fault | None = None, after: Fault | None = None
    ) -> Iterator[None]:
        """Disturb requests within a block."""
        cls.before = None if before is None else staticmethod(before)  # type: ignore[assignment]
        cls.after = None if after is None else staticmethod(after)  # type: ignore[assignment]
        cls.requests.clear()
        try:
            yield
        finally:
            cls.before = cls.after = None

    def _request(self, operation: str, path: str, do: Callable[[str], Any]) -> Any:
        key = self._strip_protocol(path)
        self.requests.append((operation, key))
        if self.before is not None and self.before(operation, key):
            return None
        found = do(key)
        if self.after is not None:
            self.after(operation, key)
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FlakyFileSystem)

    __hash__ = AbstractFileSystem.__hash__

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("flaky://").removesuffix("/")

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        return self._request("LIST", path, self._listed)

    def _listed(self, key: str) -> list[Any]:
        below = {}
        for name, content in self.objects.items():
            if name.startswith(f"{key}/"):
                first, *rest = name[len(key) + 1 :].split("/", 1)
                full = f"{key}/{first}"
                below[full, bool(rest)] = {
                    "name": full,
                    "size": 0 if rest else len(content),
                    "ETag": "" if rest else str(hash(content)),
                    "type": "directory" if rest else "file",
                }
        return [below[each] for each in sorted(below)]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return self._request("HEAD", path, self._info)

    def _info(self, key: str) -> dict[str, Any]:
        if key in self.objects:
            return {"name": key, "size": len(self.objects[key]), "type": "file"}
        if any(name.startswith(f"{key}/") for name in self.objects):
            return {"name": key, "size": 0, "type": "directory"}
        raise FileNotFoundError(key)

    def cat_file(self, path: str, start: Any = None, end: Any = None, **_: Any) -> bytes:
        return self._request("GET", path, lambda key: self._content(key)[start:end])

    def _content(self, key: str) -> bytes:
        if key not in self.objects:
            raise FileNotFoundError(key)
        return self.objects[key]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        def put(key: str) -> None:
            if mode == "create" and key in self.objects:
                raise ServerError("PreconditionFailed")
            self.objects[key] = bytes(value)

        self._request("PUT", path, put)

    def put_file(self, lpath: str, rpath: str, mode: str = "overwrite", **_: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes(), mode=mode)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Upload:
        assert mode == "xb"
        return Upload(lambda content: self.pipe_file(path, content, mode="create"))

    def get_file(self, rpath: str, lpath: str, **_: Any) -> None:
        self._request("DOWNLOAD", rpath, lambda key: Path(lpath).write_bytes(self._content(key)))

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        def copy(key: str) -> None:
            self.objects[key] = self._content(self._strip_protocol(path1))

        self._request("COPY", path2, copy)

    def rm_file(self, path: str) -> None:
        self._request("DELETE", path, lambda key: self.objects.pop(key, None))


fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)


def put(root: Path, name: str) -> str:
    """Put a directory into a fresh bucket; its URL."""
    FlakyFileSystem.objects.clear()
    for item in sorted(root.rglob("*")):
        if item.is_file():
            FlakyFileSystem.objects[f"bucket/{name}/{item.relative_to(root)}"] = item.read_bytes()
    return f"flaky://bucket/{name}"


def below(name: str) -> dict[str, bytes]:
    """The objects below a name, by the rest of theirs."""
    prefix = f"bucket/{name}/" if name else "bucket/"
    return {
        key[len(prefix) :]: content
        for key, content in sorted(FlakyFileSystem.objects.items())
        if key.startswith(prefix)
    }
