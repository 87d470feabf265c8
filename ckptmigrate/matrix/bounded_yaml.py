"""YAML as compat_matrix.yaml has it: mappings, lists, text and small numbers, of bounded size.

What YAML has besides (dates, sets, aliases, merges, tags) and what is too much is an error that
names its line, before anything is made of it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from ckptmigrate.access import opener
from ckptmigrate.errors import CompatError

_LARGEST: Final = 512 * 1024  # bytes; the file has 100 kB
_MOST: Final = 30_000  # values; the file has 7,000
_DEEPEST: Final = 20  # mappings and lists in each other; the file has 7
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")
_TAG: Final = "tag:yaml.org,2002:"
_NUMBERS: Final = ("int", "float")
_KINDS: Final = ("map", "seq", "str", "bool", "null", *_NUMBERS)


def read(path: Path) -> str:
    """Return the text of a file.

    Raises:
        CompatError: it is not UTF-8; names the line.
        OSError: it cannot be read, or is too large.
    """
    content = opener.read(path, _LARGEST)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CompatError(f"line {line}: is not UTF-8", path=path) from error


def load(text: str, path: Path | str, yaml: Any = None) -> Any:
    """Return what a text says.

    Args:
        path: where the text is from, for errors.
        yaml: a `ruamel.yaml.YAML` with other settings than its own.

    Raises:
        CompatError: it is not YAML, or more than this file needs; names the line.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.reader import ReaderError

    yaml = yaml or YAML(typ="rt", pure=True)
    yaml.Composer = _composer()
    try:
        return yaml.load(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise CompatError(f"line {line}: {error.reason}", path=path) from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        raise CompatError(f"line {line}: {error.problem or 'is not YAML'}", path=path) from error
    except YAMLError as error:
        raise CompatError(f"line 1: {error}", path=path) from error


def _composer() -> type:
    from ruamel.yaml.composer import Composer, ComposerError
    from ruamel.yaml.nodes import MappingNode, ScalarNode

    class Bounded(Composer):
        """Makes nodes of what is parsed, and refuses the first one that is too much."""

        count = nested = 0

        def get_single_node(self) -> Any:
            try:
                return super().get_single_node()
            except (ValueError, OverflowError) as error:  # of an escape that is not a character
                raise ComposerError(
                    None, None, str(error), self.loader.reader.get_mark()
                ) from error

        def compose_node(self, parent: Any, index: Any) -> Any:
            mark, anchor = (event := self.parser.peek_event()).start_mark, event.anchor
            self.count += 1
            self.nested += 1
            _require(anchor is None, "anchors and aliases are not supported", mark)
            _require(self.nested <= _DEEPEST, f"more than {_DEEPEST} levels of nesting", mark)
            _require(self.count <= _MOST, f"more than {_MOST} values", mark)
            node = super().compose_node(parent, index)
            self.nested -= 1
            kind = str(node.tag).removeprefix(_TAG)
            _require(kind in _KINDS, f"a value of the kind {kind!r}", mark)
            decimal = kind not in _NUMBERS or _NUMBER.fullmatch(node.value)
            _require(decimal, "a number that is too long or not decimal", mark)
            if isinstance(node, MappingNode):
                for key, _ in node.value:
                    _require(
                        isinstance(key, ScalarNode), "a key that is not a name", key.start_mark
                    )
            return node

    def _require(good: object, problem: str, mark: Any) -> None:
        if not good:
            raise ComposerError(None, None, problem, mark)

    return Bounded
