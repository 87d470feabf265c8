"""Faults between a client and the server of a store: what happens to one request on its way.

with faulty(server, KINDS["lost reply"], at=7) as proxy:
    ...     # the seventh request is carried out, and its answer never arrives
    proxy.hits
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from s3_server import Answer, Proxy, Request, Seen, listening, pass_on

Applies = Callable[[Seen, Sequence[Seen]], bool]


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
        name: what happens.
        act: does it to a request.
        applies: whether it can be done to a request, given those before it.
        lasts: whether all later requests to which it applies get it, too.
    """

    name: str
    act: Callable[[Request], None]
    applies: Applies
    lasts: bool = False


@dataclass
class Disturbed(Proxy):
    """A proxy that does one kind of fault to one request, or from one request on.

    Attributes:
        kind: the fault; without one it disturbs nothing.
        at: the number of the request, from 1.
        hits: the requests that were disturbed.
        before: path -> what the server had before the last change, or listed at first.
        refuses: whether it refuses connections from now on.
    """

    kind: Kind | None = None
    at: int = 0
    hits: list[Seen] = field(default_factory=list)
    before: dict[str, Answer] = field(default_factory=dict)
    refuses: bool = False

    def disturb(self, request: Request) -> None:
        """Handle a request."""
        kind, seen = self.kind, request.seen
        if kind is None:
            pass_on(request)
            return
        if self.refuses:
            request.drop()
            return
        hit = seen.number >= self.at if kind.lasts else seen.number == self.at
        if kind.name == STALE and seen.write:
            self.before[seen.path.partition("?")[0]] = request.current()
        if hit and kind.applies(seen, self.requests[: seen.number - 1]):
            self.hits.append(seen)
            kind.act(request)
            return
        answer = request.forward()
        if _lists(seen):
            self.before.setdefault(seen.path, answer)
        request.send(answer)


@contextlib.contextmanager
def faulty(server: int, kind: Kind | None = None, at: int = 0) -> Iterator[Disturbed]:
    """A proxy in this process with one fault, in front of the server of a port."""
    proxy = Disturbed(server, kind=kind, at=at)
    proxy.handle = proxy.disturb
    with listening(proxy):
        yield proxy


# -- answers


def _error(status: int, code: str) -> Answer:
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f"<Error><Code>{code}</Code><Message>{code} of the proxy</Message></Error>"
    )
    return Answer(status, [("Content-Type", "application/xml")], text.encode())


def _send_error(status: int, code: str) -> Callable[[Request], None]:
    return lambda request: request.send(_error(status, code))


# -- the kinds


def _refuse(request: Request) -> None:
    proxy = _of(request)
    proxy.refuses = True
    proxy.stop()
    request.drop()


def _of(request: Request) -> Disturbed:
    assert isinstance(request.proxy, Disturbed)
    return request.proxy


def _lose_reply(request: Request) -> None:
    request.forward()
    request.drop()


def _cut(request: Request) -> None:
    """Send the head of an answer and half of its content; without content half of the head."""
    answer = request.forward()
    if answer.content and request.command != "HEAD":
        request.begin(answer)
        request.wfile.write(answer.content[: len(answer.content) // 2])
    else:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-")
    request.drop()


def _reset(request: Request) -> None:
    request.forward()
    request.drop(reset=True)


def _hang(request: Request) -> None:
    """Carry it out, and say nothing until the client gives up."""
    request.forward()
    request.connection.settimeout(60)
    with contextlib.suppress(OSError):
        request.connection.recv(1)
    request.drop()


def _drip(request: Request) -> None:
    answer = request.forward()
    request.begin(answer)
    if request.command != "HEAD":
        piece = len(answer.content) // 20 + 1
        for start in range(0, len(answer.content), piece):
            request.wfile.write(answer.content[start : start + piece])
            request.wfile.flush()
            time.sleep(0.01)


def _empty(request: Request) -> None:
    request.forward()
    request.send(Answer(200, [], b""))


def _truncate(request: Request) -> None:
    """Leave the last byte out, which no length tells."""
    answer = request.forward()
    answer.content = answer.content[:-1]
    request.send(answer)


def _pretend(request: Request) -> None:
    """Answer as for a request that was carried out."""
    if request.command == "POST":  # of Google Cloud Storage
        text = '{"done": true, "resource": {}}'
        request.send(Answer(200, [("Content-Type", "application/json")], text.encode()))
    elif request.seen.copies:
        text = '<CopyObjectResult><ETag>"0"</ETag></CopyObjectResult>'
        request.send(Answer(200, [("Content-Type", "application/xml")], text.encode()))
    else:
        request.send(Answer(204 if request.command == "DELETE" else 200, [("ETag", '"0"')], b""))


def _serve_stale(request: Request) -> None:
    """Answer with what was there before the last change."""
    before, path = _of(request).before, request.path
    answer = before[path if _lists(request.seen) else path.partition("?")[0]]
    if answer.status == 200 and (wanted := request.headers.get("Range")):
        first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups()  # type: ignore[union-attr]
        part = answer.content[int(first) : int(last) + 1]
        answer = Answer(206, [h for h in answer.headers if h[0].lower() != "content-length"], part)
    request.send(answer)


def _redirect(request: Request) -> None:
    request.send(Answer(307, [("Location", request.path)], b""))


def _announce_less(request: Request) -> None:
    """Send more than the head announces, on a connection that stays open."""
    answer = request.forward()
    request.begin(answer, len(answer.content) - 1)
    request.wfile.write(answer.content)


def _announce_more(request: Request) -> None:
    answer = request.forward()
    request.begin(answer, len(answer.content) + 7)
    request.wfile.write(answer.content)
    request.drop()


def _tag(change: Callable[[str], str | None]) -> Callable[[Request], None]:
    """Answer with other ETags, in the head and in the content.

    Args:
        change: an ETag without quotes -> what to send, None for none.
    """

    def act(request: Request) -> None:
        answer = request.forward()
        tags = [(name, change(tag.strip('"'))) for name, tag in answer.headers if _is_tag(name)]
        answer.headers = [each for each in answer.headers if not _is_tag(each[0])]
        answer.headers += [(name, tag) for name, tag in tags if tag is not None]
        answer.content = _TAG.sub(lambda found: _tagged(found, change), answer.content)
        if request.command != "HEAD":
            answer.headers = [h for h in answer.headers if h[0].lower() != "content-length"]
        request.send(answer)

    return act


# The ETag of an XML answer, and of a JSON answer with its comma.
_TAG: Final = re.compile(
    rb'<ETag>(?:"|&quot;)?(?P<xml>\w+)(?:"|&quot;)?</ETag>|"etag": "(?P<json>[^"]+)",'
)


def _is_tag(name: str) -> bool:
    return name.lower() == "etag"


def _tagged(found: re.Match[bytes], change: Callable[[str], str | None]) -> bytes:
    tag = change((found["xml"] or found["json"]).decode())
    if tag is None:
        return b""
    return (
        f"<ETag>{tag}</ETag>".encode() if found["xml"] else f'"etag": {json.dumps(tag)},'.encode()
    )


def _lists(seen: Seen) -> bool:
    return seen.method == "GET" and ("list-type=2" in seen.path or "/o?" in seen.path)


def _any(_: Seen, __: Sequence[Seen]) -> bool:
    return True


def _answers_with_content(seen: Seen, _: Sequence[Seen]) -> bool:
    return seen.method == "GET" or seen.copies


def _reads(seen: Seen, _: Sequence[Seen]) -> bool:
    return seen.method in ("GET", "HEAD")


def _reads_object(seen: Seen, _: Sequence[Seen]) -> bool:
    return seen.method in ("GET", "HEAD") and not _lists(seen)


def _writes(seen: Seen, _: Sequence[Seen]) -> bool:
    return seen.write > 0 and (seen.method != "POST" or "/storage/v1/" in seen.path)


def _reads_what_changed(seen: Seen, earlier: Sequence[Seen]) -> bool:
    if _lists(seen):
        return any(each.path == seen.path for each in earlier)
    name = seen.path.partition("?")[0]
    return _reads(seen, ()) and any(
        each.write and each.path.partition("?")[0] == name for each in earlier
    )


_COUNT: Final = itertools.count()
STALE = "a read has the version before"
_KINDS = (
    Kind("connections are refused", _refuse, _any),
    Kind("closed before it is passed on", Request.drop, _any),
    Kind("closed after it is passed on", _lose_reply, _any),
    Kind("closed in the middle of the answer", _cut, _any),
    Kind("reset", _reset, _any),
    Kind("no answer", _hang, _any),
    Kind("a slow answer", _drip, _answers_with_content),
    Kind("500", _send_error(500, "InternalError"), _any),
    Kind("503", _send_error(503, "SlowDown"), _any),
    Kind("503 from then on", _send_error(503, "SlowDown"), _any, lasts=True),
    Kind("412 from then on", _send_error(412, "PreconditionFailed"), _any, lasts=True),
    Kind("403", _send_error(403, "AccessDenied"), _any),
    Kind("404 where there is an object", _send_error(404, "NoSuchKey"), _reads_object),
    Kind("200 without content", _empty, _answers_with_content),
    Kind("200 with truncated content", _truncate, _answers_with_content),
    Kind("200 with an error as content", _send_error(200, "InternalError"), _answers_with_content),
    Kind("200 for what is not done", _pretend, _writes),
    Kind(STALE, _serve_stale, _reads_what_changed),
    Kind("redirected to itself", _redirect, _any, lasts=True),
    Kind("a length that is too small", _announce_less, _answers_with_content),
    Kind("a length that is too large", _announce_more, _answers_with_content),
    Kind("no ETags", _tag(lambda _: None), _any, lasts=True),
    Kind("weak ETags", _tag(lambda tag: f'W/"{tag}"'), _any, lasts=True),
    Kind("ETags without quotes", _tag(lambda tag: tag), _any, lasts=True),
    Kind("the same ETag for every object", _tag(lambda _: '"0"'), _any, lasts=True),
    Kind("another ETag in every answer", _tag(lambda _: f'"{next(_COUNT)}"'), _any, lasts=True),
)
KINDS = {kind.name: kind for kind in _KINDS}
