"""The Python and NumPy versions of a job.

Both have moved modules, and a pickle names a class by the module of the version that wrote it. The
moved modules are in `moved_modules` of compat_matrix.yaml.
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
    """The Python and NumPy versions of a job.

    Attributes:
        python: the version, for example `3.12`.
        numpy: the version; None if unknown, which counts as a version that loads everything.
    """

    python: str = DEFAULT_PYTHON
    numpy: str | None = None

    def imports(self, path: str, compat: Compat) -> bool:
        """Return whether the versions can import a global by this name; True if it never moved."""
        row = compat.moved(path)
        return row is None or self._is_in(row.package, row.importable)

    def pickles(self, path: str, compat: Compat) -> bool:
        """Return whether the versions pickle a global by this name; True if it never moved."""
        row = compat.moved(path)
        return row is None or self._is_in(row.package, row.pickled)

    def condition(self, path: str, compat: Compat, *, by_list: bool) -> str | None:
        """Return which version a job needs to load a global by this name; None if any works.

        Args:
            by_list: whether the global has to be on the allow-list, not only importable.
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
            f"and the {row.package} of the job is not known (set it with {option})"
            if version is None
            else f"and the {row.package} of the job is {version} (set it with {option})"
        )
        return f"only {row.package} {needed.replace('|', ' or ')} {verb} it, {known}"

    def _version(self, package: str) -> str | None:
        return self.python if package == "Python" else self.numpy

    def _is_in(self, package: str, specifier: str) -> bool:
        version = self._version(package)
        return version is None or specifier == _ANY or matches(version, specifier)

    @property
    def note(self) -> str:
        """The note of a plan that renames modules."""
        numpy = "" if self.numpy is None else f" and NumPy {self.numpy}"
        return f"moved modules are renamed for Python {self.python}{numpy}"

    def options(self) -> list[str]:
        """Return the command-line options for these versions; empty for the defaults."""
        python = [] if self.python == DEFAULT_PYTHON else ["--python", self.python]
        return python + ([] if self.numpy is None else ["--numpy", self.numpy])


USUAL: Final = Environment()


def environment(python: str | None = None, numpy: str | None = None) -> Environment:
    """Return the environment for the given versions; None means the default.

    Raises:
        RefusedError: a text is not a version.
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
            f"{text!r} is not a version of {package}", fix=f"use a version, for example {example}"
        ) from error
