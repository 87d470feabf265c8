"""Kinds of load errors: how a log line is recognised, and the causes that it can have.

The rows are in the modules known_*.py. A line that fits no row is not explained: no answer is
better than a wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, lru_cache
from typing import Final

# What a key or a path in a message can consist of: never the braces of the source line that
# raises the error, which a traceback shows too.
_KEY: Final = r"[^\s{}'\"\\]+?"
_END: Final = r"\.?(?=$|[\s'\")\\])"


class Sure(str, Enum):
    """How sure an explanation is.

    certain: this error has no other meaning.
    likely: other programs raise the same text; the log does not show which program raised it.
    possible: the text has several meanings; they are listed with what tells them apart.
    """

    CERTAIN = "certain"
    LIKELY = "likely"
    POSSIBLE = "possible"


@dataclass(frozen=True)
class Cause:
    """One cause that an error can have.

    Attributes:
        why: what is wrong, a clause.
        fix: what to do; `{path}` stands for the checkpoint (see `commands.filled`).
        tell: what tells it apart from the other causes of its kind; empty for a single cause.
        frames: regular expression of a traceback frame (`path/file.py:function`) that shows it.
        look: how a checkpoint shows it, a key of `deciding.LOOKS`; empty where it cannot.
    """

    why: str
    fix: str
    tell: str = ""
    frames: str = ""
    look: str = ""


@dataclass(frozen=True)
class ErrorKind:
    """A kind of error.

    Attributes:
        error: its stable name; no problem code, layout, loss or release has the same name.
        patterns: regular expressions; one of them is found in a line of this kind.
        example: a line of this kind.
        what: what the error means, a clause.
        causes: the causes, the most frequent one first; at least one.
        source: the files of releases or of torch, the repositories or the issues it is known from.
        since: the releases that raise it.
        sure: how sure `what` is, from the line alone.
        frames: regular expression of a traceback frame. Where a log shows the traceback of a
            line, the kind fits only if one of its frames matches. Empty: the text is unmistakable.
        needs_frames: whether the kind fits only with such a traceback.
        announces: whether the line only announces an error that another line names: it is left
            out where a log has a line of another kind.
        unless: regular expression of a line that is not explained and shows that this kind is
            not either; empty for none.
        fits: a condition on what the pattern took from the line; None for none.
    """

    error: str
    patterns: tuple[str, ...]
    example: str
    what: str
    causes: tuple[Cause, ...]
    source: str
    since: str = "every release"
    sure: Sure = Sure.CERTAIN
    frames: str = ""
    needs_frames: bool = False
    announces: bool = False
    unless: str = ""
    fits: Callable[[Mapping[str, str]], bool] | None = None

    @cached_property
    def compiled(self) -> tuple[re.Pattern[str], ...]:
        """The patterns, compiled."""
        return tuple(re.compile(pattern) for pattern in self.patterns)

    def search(self, text: str) -> re.Match[str] | None:
        """Return the first match of a pattern in a text, if it meets the condition."""
        match = next(filter(None, (each.search(text) for each in self.compiled)), None)
        if match is None or self.fits is None or self.fits(match.groupdict("")):
            return match
        return None

    def same(self, one: str, other: str) -> bool:
        """Whether two texts of this kind match the same pattern, with the same key if any."""
        first, second = self.search(one), self.search(other)
        if first is None or second is None or first.re is not second.re:
            return False
        return first.groupdict().get("key") == second.groupdict().get("key")


@dataclass(frozen=True)
class Recognised:
    """A line of a known kind.

    Attributes:
        kind: the kind.
        values: what its pattern took from the line, by name.
        sure: how sure, with what the traceback shows.
        causes: the causes that the traceback leaves.
    """

    kind: ErrorKind
    values: Mapping[str, str] = field(default_factory=dict)
    sure: Sure = Sure.CERTAIN
    causes: tuple[Cause, ...] = ()


def missing(key: str) -> tuple[str, ...]:
    """Patterns of the errors of torch and of Megatron for a key that a checkpoint does not have.

    Args:
        key: regular expression of the key.
    """
    return (
        rf"Missing key in checkpoint state_dict: (?P<key>{key}){_END}",
        rf"(?:^|[\s'\"])(?P<key>{key}) from model not in state dict",
    )


def shape(key: str, of_module: str = "") -> tuple[str, ...]:
    """Patterns of the errors of Megatron, of torch and of nn.Module for a shape that differs.

    Args:
        key: regular expression of the key.
        of_module: the same for nn.Module.load_state_dict, whose text every program of torch can
            raise: of a key that models of Megatron alone have. Empty for none.
    """
    size = r"\(*(?:torch\.Size\()?[\[(]?(?P<{}>[\d, ]*)[\])]+"
    saved, wanted = size.format("saved"), size.format("wanted")
    patterns = (
        rf"shape mismatch for loaded {saved} and expected {wanted} tensor for key "
        rf"(?P<key>{key}){_END}",
        rf"Size mismatch between saved {saved} and current: {wanted} for (?P<key>{key}){_END}",
    )
    if not of_module:
        return patterns
    return (
        *patterns,
        rf"size mismatch for (?P<key>{of_module}): copying a param with shape {saved} from "
        rf"checkpoint, the shape in current model is {wanted}",
    )


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a shape as a message prints it, such as `1024, 768`."""
    return tuple(map(int, re.findall(r"\d+", text)))


def first_differs(values: Mapping[str, str]) -> bool:
    """Whether two shapes differ in their first dimension alone."""
    saved, wanted = numbers(values["saved"]), numbers(values["wanted"])
    return len(saved) == len(wanted) > 0 and saved[0] != wanted[0] and saved[1:] == wanted[1:]


def other_dimensions(values: Mapping[str, str]) -> bool:
    """Whether two shapes have different numbers of dimensions."""
    return len(numbers(values["saved"])) != len(numbers(values["wanted"]))


ANY_KEY: Final = _KEY
EXTRA_STATE: Final = rf"(?:{_KEY}\.)?_extra_state\d*(?:/shard_[\d._]+)?"
OPTIMIZER_KEY: Final = rf"(?:chained_\d+\.)?optimizer\.{_KEY}"

# What many causes advise.
VERIFY: Final = "run `ckptmigrate verify {path}`"
CHECK: Final = "run `ckptmigrate check {path}`; with --reader RELEASE it prints the fix"

# Frames of a load. A text that other programs raise too is explained only where its traceback
# passes through one of them.
METADATA_FRAMES: Final = r"distributed/checkpoint/filesystem\.py:read_metadata"
DATA_FRAMES: Final = r"distributed/checkpoint/(?:filesystem\.py:read_data|\S+:load_bytes)"
COMMON_FRAMES: Final = r":load_common(?:_state_dict)?$"
EXTRA_FRAMES: Final = (
    r"transformer_engine/\S+:|:(?:set_extra_state|_decode_extra_state|merge_extra_states)$"
)
LOAD_FRAMES: Final = (
    rf"{METADATA_FRAMES}|{DATA_FRAMES}|{COMMON_FRAMES}|dist_checkpointing/|"
    r"megatron/\S*checkpointing\.py:"
)


@lru_cache(maxsize=1)
def kinds() -> tuple[ErrorKind, ...]:
    """Every kind; of several that fit a line, the first one counts."""
    from ckptmigrate.logs import (
        known_damage,
        known_files,
        known_jobs,
        known_keys,
        known_pickles,
        known_states,
    )

    parts = (known_files, known_damage, known_pickles, known_keys, known_jobs, known_states)
    return tuple(kind for part in parts for kind in part.ROWS)


def recognise(text: str, frames: Sequence[str] | None = None) -> Recognised | None:
    """Return the kind of an error line; None for a line of no known kind.

    Args:
        text: the line, without the prefixes of a launcher.
        frames: the frames of its traceback, `path/file.py:function`; None where none is known.
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
    """What the traceback leaves of a kind; None where it shows another program or cause."""
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
