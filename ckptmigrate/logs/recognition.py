"""The search for the kind of a log line.

A line that fits no kind is not explained, because no answer is better than a wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache

from ckptmigrate.logs import (
    known_damage,
    known_extra_state,
    known_files,
    known_jobs,
    known_keys,
    known_pickles,
    known_roots,
    known_states,
)
from ckptmigrate.logs.kinds import Cause, ErrorKind, Sure


@dataclass(frozen=True)
class Recognised:
    """A line of a known kind.

    Attributes:
        kind: the kind.
        values: the groups of its pattern in the line, by name.
        sure: how sure that is, with the evidence of the traceback.
        causes: the causes that the traceback does not exclude.
    """

    kind: ErrorKind
    values: Mapping[str, str] = field(default_factory=dict)
    sure: Sure = Sure.CERTAIN
    causes: tuple[Cause, ...] = ()


@cache
def kinds() -> tuple[ErrorKind, ...]:
    """Return every kind; the first one that fits a line is used."""
    parts = (
        known_roots,
        known_files,
        known_damage,
        known_pickles,
        known_extra_state,
        known_keys,
        known_jobs,
        known_states,
    )
    return tuple(kind for part in parts for kind in part.ROWS)


@lru_cache(maxsize=4)  # every rank prints the same line
def recognise(text: str, frames: tuple[str, ...] | None = None) -> Recognised | None:
    """Return the kind of an error line, or None if no known kind fits.

    Args:
        text: the line, without the prefixes of a launcher.
        frames: the frames of its traceback, `path/file.py:function`; None if they are not known.
    """
    for kind, match in _matching(text):
        found = _with_frames(kind, match.groupdict(), frames)
        if found is not None:
            return found
    return None


def _matching(text: str) -> Iterator[tuple[ErrorKind, re.Match[str]]]:
    for kind in kinds():
        match = kind.search(text)
        if match is not None:
            yield kind, match


def _with_frames(
    kind: ErrorKind, values: Mapping[str, str], frames: Sequence[str] | None
) -> Recognised | None:
    """Return the kind with the causes that fit the traceback; None if the traceback excludes it."""
    known = {name: value for name, value in values.items() if value is not None}
    if not frames:
        return None if kind.needs_frames else Recognised(kind, known, kind.sure, kind.causes)
    if kind.frames and not _any(kind.frames, frames):
        return None
    shown = tuple(each for each in kind.causes if each.frames and _any(each.frames, frames))
    causes = shown or tuple(each for each in kind.causes if not each.frames) or kind.causes
    sure = Sure.CERTAIN if shown or kind.frames else kind.sure
    return Recognised(kind, known, sure, causes)


def _any(pattern: str, frames: Sequence[str]) -> bool:
    compiled = re.compile(pattern)
    return any(compiled.search(frame) for frame in frames)
