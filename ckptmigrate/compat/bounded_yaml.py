"""A YAML reader for compat_matrix.yaml: mappings, lists, text and small numbers of bounded size.

Other YAML features (dates, sets, aliases, merges, tags) and exceeded limits raise an error that
names the line, before any value is built.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from ckptmigrate.errors import CompatError
from ckptmigrate.storage import local_files

_LARGEST: Final = 512 * 1024  # bytes; compat_matrix.yaml has 100 kB
_MOST: Final = 30_000  # values; compat_matrix.yaml has 7,000
_DEEPEST: Final = 20  # nested mappings and lists; compat_matrix.yaml has 7
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")
_TAG: Final = "tag:yaml.org,2002:"
_NUMBERS: Final = ("int", "float")
_KINDS: Final = ("map", "seq", "str", "bool", "null", *_NUMBERS)


def read(path: Path) -> str:
    """Return the text of a file.

    Raises:
        CompatError: the file is not UTF-8; the message names the line.
        OSError: the file cannot be read or is too large.
    """
    content = local_files.read(path, _LARGEST)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CompatError(f"line {line}: is not UTF-8", path=path) from error


def load(text: str, path: Path | str, yaml: Any = None) -> Any:
    """Return the content of a YAML text.

    Args:
        path: the file of the text, for errors.
        yaml: a `ruamel.yaml.YAML` with other settings than the default.

    Raises:
        CompatError: the text is not YAML or exceeds a limit; the message names the line.
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
        """A composer that raises at the first node that exceeds a limit."""

        count = nested = 0

        def get_single_node(self) -> Any:
            try:
                return super().get_single_node()
            except (ValueError, OverflowError) as error:  # an escape that is not a character
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
