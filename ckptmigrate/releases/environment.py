"""What a job runs in besides its release and its torch: a Python and a NumPy.

Both have moved modules, and a pickle names a class by the module of the version that wrote it. What
moved is in `moved_modules` of compat_matrix.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ckptmigrate.errors import RefusedError
from ckptmigrate.releases.facts import Compat, matches

DEFAULT_PYTHON: Final = "3.12"
_ANY: Final = ">=0"
_EXAMPLES: Final = {"Python": "3.12", "NumPy": "1.26.4"}


@dataclass(frozen=True)
class Environment:
    """The Python and the NumPy of a job.

    Attributes:
        python: the version, for example `3.12`.
        numpy: the version; None where it is not known, and then nothing is taken to fail for it.
    """

    python: str = DEFAULT_PYTHON
    numpy: str | None = None

    def imports(self, path: str, compat: Compat) -> bool:
        """Whether a symbol is importable by this name, as far as its module was ever moved."""
        row = compat.moved(path)
        return row is None or self._is_in(row.package, row.importable)

    def pickles(self, path: str, compat: Compat) -> bool:
        """Whether a symbol is pickled by this name, as far as its module was ever moved."""
        row = compat.moved(path)
        return row is None or self._is_in(row.package, row.pickled)

    def condition(self, path: str, compat: Compat, *, by_list: bool) -> str | None:
        """Which version a job needs to load a symbol by this name; None where any will do.

        Args:
            by_list: whether the symbol has to be allowed, too, and not only importable.
        """
        row = compat.moved(path)
        if row is None:
            return None
        needed = row.pickled if by_list else row.importable
        if needed == _ANY:
            return None
        verb = "allows" if by_list else "has"
        version = self._version(row.package)
        option = f"--{row.package.lower()} V"
        known = (
            f"and its version is not known ({option} states it)"
            if version is None
            else f"and that of the job is {version} ({option} states another)"
        )
        return f"only {row.package} {needed.replace('|', ' or ')} {verb} that name, {known}"

    def _version(self, package: str) -> str | None:
        return self.python if package == "Python" else self.numpy

    def _is_in(self, package: str, specifier: str) -> bool:
        version = self._version(package)
        return version is None or specifier == _ANY or matches(version, specifier)

    @property
    def note(self) -> str:
        """What a plan says that has renamed modules."""
        numpy = "" if self.numpy is None else f" and NumPy {self.numpy}"
        return f"modules that have moved are named as Python {self.python}{numpy} has them"

    def options(self) -> list[str]:
        """The options that state it on a command line, where it is not the default."""
        python = [] if self.python == DEFAULT_PYTHON else ["--python", self.python]
        return python + ([] if self.numpy is None else ["--numpy", self.numpy])


USUAL: Final = Environment()


def environment(python: str | None = None, numpy: str | None = None) -> Environment:
    """The environment that a user states; None for what is not stated.

    Raises:
        RefusedError: one of them is not a version.
    """
    return Environment(
        DEFAULT_PYTHON if python is None else _version("Python", python),
        None if numpy is None else _version("NumPy", numpy),
    )


def _version(package: str, text: str) -> str:
    from packaging.version import Version

    try:
        return str(Version(text))
    except ValueError as error:
        example = f"--{package.lower()} {_EXAMPLES[package]}"
        raise RefusedError(
            f"there is no {package} {text!r}", fix=f"name a version such as {example}"
        ) from error
