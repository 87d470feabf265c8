"""A reader of job logs: launcher prefixes, tracebacks of many ranks, known error lines.

It reads a log once, line by line. Its memory does not grow with the log.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Final, cast

from ckptmigrate.logs.kinds import Sure
from ckptmigrate.logs.recognition import Recognised, recognise
from ckptmigrate.storage.progress import Progress

_LONGEST_LINE: Final = 64 * 1024  # characters; the rest of a longer line is ignored
_LONGEST_LOG: Final = 2**30  # characters
_BETWEEN_REPORTS: Final = 2**22  # characters
_MOST_STREAMS: Final = 20_000
_MOST_FRAMES: Final = 100  # of one traceback
_LONGEST_FRAME: Final = 200  # characters; the end of a longer one
_LONGEST_ERROR: Final = 5000  # characters of an unknown error line
_MOST_OTHERS: Final = 5  # error lines that are not explained
# A message can have several lines: the number of lines that belong to the traceback above them.
_MESSAGE_LINES: Final = 20

_ESCAPE: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])"
)
_QUOTES: Final = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")
# Prefixes of launchers, schedulers and loggers; a line can have several.
_PREFIX: Final = re.compile(
    r"""
      \[(?:rank|Rank\s|RANK\s)(?P<rank>\d{1,9})\]:?\s?         # torchrun since 2.2: [rank3]:
    | \[(?P<local>[A-Za-z_]{1,80}\d{1,9})\]:\s?                # torchrun --tee: [default3]:
    | \[\d{1,9},(?P<mpi>\d{1,9})\](?:<std(?:err|out)>)?:?\s?   # mpirun --tag-output
    | \[(?P<tag>\d{1,9})\]:?\s                                 # mpiexec -prepend-rank
    | \s{0,6}(?P<task>\d{1,6}):\s                              # srun --label
    | \((?P<actor>[\w.]{1,80}(?:\([^)]{0,80}\))?\spid=\d{1,9}(?:,\sip=[\w.:]{1,80})?)\)\s?  # Ray
    | (?P<host>\d{1,3}(?:\.\d{1,3}){3}|[a-z][\w.-]{0,60}\d[\w.-]{0,60}):\s  # pdsh, DeepSpeed
    | (?P<role>[\w.-]{1,80}/\d{1,9})\s(?=\[)                        # NeMo-Run
    | \[NeMo\s[IWED]\s[^\]]*\]\s?
    | \[?\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?(?:\s?[,:|-])?\s?
    | \[?\d\d:\d\d:\d\d(?:[.,]\d+)?\]?(?:\s?[:|-])?\s?
    | [A-Z][a-z]{2}\s[\s\d]\d\s\d\d:\d\d:\d\d\s\S+\s\S+\[\d+\]:\s   # syslog
    """,
    re.VERBOSE,
)
_FRAME: Final = re.compile(r"\s*File \"(?P<file>[^\"]+)\", line \d+(?:, in (?P<function>\S+))?")
# rich prints tracebacks in a box.
_BOXED: Final = re.compile(r"\s*│\s*(?P<file>\S+\.py):\d+ in (?P<function>[\w<>]+)")
_BOX: Final = ("│", "╭", "╰")
_HEADER: Final = re.compile(r"Traceback \(most recent call last\)")
_OF_RANK: Final = re.compile(r"\(RANK (\d{1,9})\)")  # torch.distributed.checkpoint
_ERROR: Final = re.compile(r"[A-Za-z_][\w.]{0,200}(?:Error|Exception)(?:: |$)")
# Errors that only report the failure of another rank.
_WRAPPER: Final = re.compile(r"CheckpointException ranks:|ChildFailedError|RayTaskError")
# Every relevant line contains one of these; most other lines do not, and are skipped.
_WORDS: Final = (
    "Error", "Exception", "Traceback", 'File "', ".py:", "heckpoint", "metadata", "issing ",
    "nexpected ", "nsupported ", "nable to ", "nvalid ", "mismatch", "has no ", " not ",
    "attribute '", "sharding_type",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A known error in a log.

    Attributes:
        recognised: its kind.
        text: its first line, without the prefixes of launchers.
        line: the number of that line, from 1.
        count: the number of lines of this kind.
        ranks: the ranks that printed them; empty if the log does not name ranks.
    """

    recognised: Recognised
    text: str
    line: int
    count: int = 1
    ranks: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Log:
    """The content of a log.

    Attributes:
        lines: the number of lines read.
        ranks: the ranks or processes that its prefixes name.
        found: the known errors: errors that end a job are first, in the order of the log.
        others: the first error lines without explanation: (line number, text).
        whole: whether the whole log was read.
    """

    lines: int
    ranks: frozenset[str]
    found: tuple[Found, ...]
    others: tuple[tuple[int, str], ...]
    whole: bool = True


@dataclass
class _Stream:
    """The lines of one rank, or of all ranks if they have no prefix."""

    frames: deque[str] = field(default_factory=lambda: deque(maxlen=_MOST_FRAMES))
    is_open: bool = False  # the exception line of the traceback is not read yet
    mixed: bool = False  # several tracebacks are interleaved
    since: int = _MESSAGE_LINES + 1  # lines after the exception line
    of_rank: str | None = None
    pending: str | None = None  # an exception line that can continue on the next line


def read_log(file: BinaryIO, progress: Progress | None = None) -> Log:
    """Return the known errors of a log.

    Args:
        file: a stream of bytes in UTF-8, UTF-16 or UTF-32; invalid bytes are replaced.
        progress: called with the number of characters read, every 4 Mi characters.
    """
    decoded = _decoded(file)
    try:
        return _Reader(progress=progress).read(decoded)
    finally:
        decoded.detach()  # the caller closes the file


def parse_log(text: str) -> Log:
    """Return the known errors in a text, such as one line of a log."""
    return _Reader(every_line=True).read(io.StringIO(text))


def _decoded(file: BinaryIO) -> io.TextIOWrapper:
    if not isinstance(file, io.BufferedReader):
        file = io.BufferedReader(cast(io.RawIOBase, file))
    start = file.peek(4)[:4]
    encoding = "utf-8-sig"
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-32" if start[2:] == b"\0\0" else "utf-16"
    elif start == b"\0\0\xfe\xff":
        encoding = "utf-32"
    elif start[1:2] == b"\0":
        encoding = "utf-16-le"
    elif start[:1] == b"\0":
        encoding = "utf-16-be"
    return io.TextIOWrapper(file, encoding=encoding, errors="replace", newline=None)


class _Reader:
    """The state of reading one log.

    Args:
        every_line: whether to examine lines without a word of `_WORDS`, too.
        progress: as in `read_log`.
    """

    def __init__(self, *, every_line: bool = False, progress: Progress | None = None) -> None:
        self.every_line = every_line
        self.progress = progress
        self.streams: dict[str, _Stream] = {}
        self.ranks: set[str] = set()
        self.found: dict[str, Found] = {}
        self.printed_by: dict[str, set[str]] = {}  # kind -> ranks
        self.others: dict[str, int] = {}
        self.number = 0
        self.waiting: set[str] = set()  # streams whose last line can continue on the next line

    def read(self, file: io.TextIOBase) -> Log:
        read = reported = 0
        while chunk := file.readline(_LONGEST_LINE):
            self.number += 1
            read += len(chunk)
            if self.every_line or self.waiting or _can_matter(chunk):
                for text in _texts(chunk.rstrip("\r\n")):
                    self._line(text)
            while chunk and not chunk.endswith("\n") and read <= _LONGEST_LOG:
                chunk = file.readline(_LONGEST_LINE)  # the rest of a long line
                read += len(chunk)
            if read > _LONGEST_LOG:
                return self._log(whole=False)
            if self.progress and read - reported >= _BETWEEN_REPORTS:
                self.progress(read - reported)
                reported = read
        return self._log(whole=True)

    def _log(self, *, whole: bool) -> Log:
        every = [
            replace(each, ranks=frozenset(self.printed_by[name]))
            for name, each in self.found.items()
        ]
        named = [each for each in every if not each.recognised.kind.announces]
        found = sorted(named or every, key=_is_warning)
        others = tuple((line, text) for text, line in self.others.items())
        return Log(self.number, frozenset(self.ranks), tuple(found), others, whole)

    def _line(self, line: str) -> None:
        identity, text = self._stripped(line)
        stream = self._stream(identity)
        if stream.pending is None:
            self.waiting.discard(identity)
        frame = _FRAME.match(text) or _BOXED.match(text)
        if frame is not None:
            if not stream.is_open and stream.since > _MESSAGE_LINES:
                stream.frames.clear()
                stream.mixed = False
            stream.is_open = True
            named = f"{frame['file']}:{frame['function'] or ''}"
            stream.frames.append(sys.intern(named[-_LONGEST_FRAME:]))
            stream.pending = None
            return
        if _HEADER.search(text):
            stream.mixed = stream.is_open  # the previous traceback has no exception line yet
            if not stream.mixed:
                stream.frames.clear()
            stream.is_open, stream.pending = True, None
            of_rank = _OF_RANK.search(text)
            stream.of_rank = of_rank[1] if of_rank else None
            return
        if not text.strip() or text.startswith(_BOX) or (stream.is_open and text[0].isspace()):
            return  # a source line of the traceback
        stream.since = 0 if stream.is_open else stream.since + 1
        stream.is_open = False
        self._candidate(identity, stream, text.strip())

    def _candidate(self, identity: str, stream: _Stream, text: str) -> None:
        pending, stream.pending = stream.pending, None
        self.waiting.discard(identity)
        in_message = stream.since <= _MESSAGE_LINES
        frames = tuple(stream.frames) if in_message else None
        recognised = recognise(text, frames)
        if recognised is None and pending is not None:
            whole = f"{pending} {text}"
            recognised = recognise(whole, frames)
            text = text if recognised is None else whole
        if recognised is not None:
            if frames and stream.mixed:
                recognised = replace(recognised, sure=recognised.kind.sure)
            rank = stream.of_rank if in_message and stream.of_rank else identity
            self._add(recognised, text, rank)
            self.others.pop(pending or "", None)
            return
        self._withdraw(text)
        if _ERROR.match(text) and not _WRAPPER.search(text):
            stream.pending = text[:_LONGEST_ERROR]
            self.waiting.add(identity)
            if len(self.others) < _MOST_OTHERS:
                self.others.setdefault(stream.pending, self.number)

    def _withdraw(self, text: str) -> None:
        """Remove uncertain errors that an unexplained line shows to be of another kind."""
        for name, each in list(self.found.items()):
            other = each.recognised.kind.unless
            unsure = each.recognised.sure is not Sure.CERTAIN
            if unsure and other and re.search(other, text):
                del self.found[name]

    def _add(self, recognised: Recognised, text: str, rank: str) -> None:
        name = recognised.kind.error
        before = self.found.get(name)
        if before is None:
            self.found[name] = Found(recognised, text, self.number)
            self.printed_by[name] = {rank} - {""}
            return
        surer = _ORDER.index(recognised.sure) < _ORDER.index(before.recognised.sure)
        kept = (recognised, text, self.number) if surer else _first(before)
        self.found[name] = Found(*kept, before.count + 1)
        if rank and len(self.printed_by[name]) < _MOST_STREAMS:
            self.printed_by[name].add(rank)

    def _stream(self, identity: str) -> _Stream:
        if identity not in self.streams and len(self.streams) >= _MOST_STREAMS:
            identity = ""
        return self.streams.setdefault(identity, _Stream())

    def _stripped(self, line: str) -> tuple[str, str]:
        """Return the process that a prefix names (or an empty text) and the rest of the line."""
        if "\x1b" in line:
            line = _ESCAPE.sub("", line)
        if not line.isascii():
            line = line.translate(_QUOTES)
        seen: dict[str, str] = {}
        while match := _PREFIX.match(line):
            seen |= {name: value for name, value in match.groupdict().items() if value is not None}
            line = line[match.end() :]
        identity = next((seen[name] for name in _IDENTITIES if name in seen), "")
        if identity and len(self.ranks) < _MOST_STREAMS:
            self.ranks.add(identity)
        return identity, line


_ORDER: Final = tuple(Sure)
# The prefixes that identify a process, the most specific first.
_IDENTITIES: Final = ("rank", "mpi", "task", "tag", "actor", "local", "host", "role")


def _first(found: Found) -> tuple[Recognised, str, int]:
    return found.recognised, found.text, found.line


def _can_matter(line: str) -> bool:
    for word in _WORDS:  # noqa: SIM110 (any() takes three times as long)
        if word in line:
            return True
    return False


def _is_warning(found: Found) -> bool:
    """Return whether the line is a warning, which does not end a job."""
    return found.text.startswith("WARNING")


def _texts(line: str) -> Iterator[str]:
    """Yield the lines in a log line: itself, or the text that a container logged as JSON."""
    if line.startswith('{"'):
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        for key in ("log", "message", "msg", "textPayload"):
            if isinstance(content, dict) and isinstance(content.get(key), str):
                yield from content[key].splitlines()
                return
    yield line
