"""Kinds of load errors: the patterns that identify a log line, and the possible causes.

The rows are in the modules known_*.py; `recognition` searches them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Final

# The characters of a key or path in a message. Braces are excluded, because a traceback also shows
# the source line that formats the message.
_KEY: Final = r"[^\s{}'\"\\]+?"
_END: Final = r"\.?(?=$|[\s'\")\\])"


class Sure(str, Enum):
    """How sure an explanation is.

    certain: this error has no other meaning.
    likely: other programs raise the same text; the log does not show which program raised it.
    possible: the text has several meanings; they are listed with the evidence for each.
    """

    CERTAIN = "certain"
    LIKELY = "likely"
    POSSIBLE = "possible"


@dataclass(frozen=True)
class Cause:
    """A possible cause of an error.

    Attributes:
        why: what is wrong, a clause.
        fix: what to do; `{path}` is replaced by the checkpoint (see `commands.filled`).
        tell: how to tell it from the other causes of its kind; empty for a single cause.
        frames: regular expression of a traceback frame (`path/file.py:function`) that shows it.
        test: the test for it on a checkpoint, a key of CAUSE_TESTS; empty if there is none.
    """

    why: str
    fix: str
    tell: str = ""
    frames: str = ""
    test: str = ""


@dataclass(frozen=True)
class ErrorKind:
    """A kind of error.

    Attributes:
        error: its stable name, which no problem code, layout, data loss or release has.
        patterns: regular expressions; one of them matches a part of a line of this kind.
        example: a line of this kind.
        what: what the error means, a clause.
        causes: the causes, at least one, the most frequent first.
        source: the files of releases or of torch, the repositories or the issues that show it.
        since: the releases that raise it.
        sure: how sure `what` is, from the line alone.
        frames: regular expression of a traceback frame. If a log shows the traceback of a line,
            the kind fits only if one of its frames matches. Empty: the text has no other meaning.
        needs_frames: whether the kind fits only with such a traceback.
        announces: whether the line only announces an error that another line names. It is left
            out if the log has a line of another kind.
        unless: regular expression of an unexplained line that excludes this kind; empty for none.
        fits: a condition on the values that the pattern extracts from the line; None for none.
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
        """Return the patterns, compiled."""
        return tuple(re.compile(pattern) for pattern in self.patterns)

    def search(self, text: str) -> re.Match[str] | None:
        """Return the first match of a pattern in a text, if it meets the condition."""
        match = next(filter(None, (each.search(text) for each in self.compiled)), None)
        if match is None or self.fits is None or self.fits(match.groupdict("")):
            return match
        return None

    def same(self, one: str, other: str) -> bool:
        """Return whether two texts of this kind match the same pattern and have the same key."""
        first, second = self.search(one), self.search(other)
        if first is None or second is None or first.re is not second.re:
            return False
        return first.groupdict().get("key") == second.groupdict().get("key")


def missing(key: str) -> tuple[str, ...]:
    """Return the patterns of the errors of torch and Megatron for a key missing in a checkpoint.

    Args:
        key: regular expression of the key.
    """
    return (
        rf"Missing key in checkpoint state_dict: (?P<key>{key}){_END}",
        rf"(?:^|[\s'\"])(?P<key>{key}) from model not in state dict",
    )


def shape(key: str, of_module: str = "") -> tuple[str, ...]:
    """Return the patterns of the errors of Megatron, torch and nn.Module for different shapes.

    Args:
        key: regular expression of the key.
        of_module: the same for nn.Module.load_state_dict. Any torch program can raise that error,
            so the key must be one that only models of Megatron have. Empty for no such pattern.
    """
    size = r"\(*(?:torch\.Size\()?[\[(]?(?P<{}>[\d, ]{{0,999}})[\])]+"
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
    """Return whether two shapes differ in their first dimension only."""
    saved, wanted = numbers(values["saved"]), numbers(values["wanted"])
    return len(saved) == len(wanted) > 0 and saved[0] != wanted[0] and saved[1:] == wanted[1:]


def other_dimensions(values: Mapping[str, str]) -> bool:
    """Return whether two shapes have different numbers of dimensions."""
    return len(numbers(values["saved"])) != len(numbers(values["wanted"]))


ANY_KEY: Final = _KEY
EXTRA_STATE: Final = rf"(?:{_KEY}\.)?_extra_state\d*(?:/shard_[\d._]+)?"
OPTIMIZER_KEY: Final = rf"(?:chained_\d+\.)?optimizer\.{_KEY}"

STRICT_SOURCE: Final = (
    "core_v0.9.0 to core_v0.19.0 megatron/core/dist_checkpointing/validation.py "
    "maybe_report_missing_and_unexpected_keys"
)

# Fixes of several causes.
VERIFY: Final = "run `ckptmigrate verify {path}`"
CHECK: Final = "run `ckptmigrate check {path}`; with --reader RELEASE it prints the fix"

# Frames of a load. If other programs raise the same text, the line is explained only if its
# traceback contains one of these frames.
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
